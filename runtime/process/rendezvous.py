"""Rendezvous of the ranks: address and port of rank 0's store, as written or as the launcher implies."""

import zlib
from collections.abc import Mapping
from pathlib import Path

from planner.problems import Problem, StrategyError
from planner.strategy.host_expressions import expand, split_outside_brackets
from runtime.process.launchers import Launcher, is_on_one_host

LOOPBACK, DEFAULT_PORT = "127.0.0.1", 29500  # the port is torch's
# Ports that neither services nor, on Linux, outgoing connections (from 32768) use.
FIRST_PORT, NUM_PORTS = 20_000, 12_000


def find_rendezvous(launcher: Launcher, environment: Mapping[str, str]) -> tuple[str, int]:
    """Address and port. What is set wins; deepspeed and torchrun set both, srun and mpirun neither.

    Raises:
        StrategyError: if MASTER_PORT is not a port, or nothing says on which host rank 0 is.
    """
    return _address(launcher, environment), _port(launcher, environment)


def _address(launcher: Launcher, environment: Mapping[str, str]) -> str:
    written = environment.get("MASTER_ADDR")
    if written:
        return written
    if launcher is Launcher.BY_HAND or is_on_one_host(launcher, environment):
        return LOOPBACK
    found = _first_slurm_host(environment) if launcher is Launcher.SRUN else None
    if found is None:
        how, example = "srun --distribution=arbitrary", "export MASTER_ADDR=HOST before srun"
        if launcher is Launcher.MPIRUN:
            how, example = "mpirun over several hosts", "start it with mpirun -x MASTER_ADDR=HOST …"
        raise StrategyError(
            [
                Problem(
                    code="SW604",
                    found=f"{how} does not say which host has rank 0, and MASTER_ADDR is not set",
                    expected="MASTER_ADDR with the name or address of rank 0's host",
                    fix=f"{example}, where HOST is the host of rank 0",
                )
            ]
        )
    return found


def _first_slurm_host(environment: Mapping[str, str]) -> str | None:
    """The host of task 0; None where it cannot be known.

    Slurm numbers tasks from the first node of the step's list on, which is sorted, unless the distribution is
    arbitrary: then the order is that of SLURM_HOSTFILE. SLURM_LAUNCH_NODE_IPADDR is the host of srun itself.
    """
    if environment.get("SLURM_DISTRIBUTION") == "arbitrary":
        try:
            lines = Path(environment.get("SLURM_HOSTFILE", "")).read_text(encoding="utf-8").split()
        except OSError:
            return None
        return lines[0] if lines else None
    names = split_outside_brackets(environment.get("SLURM_STEP_NODELIST", ""), ",")
    try:
        return next(expand(names[0])) if names else None
    except ValueError:
        return None


def _port(launcher: Launcher, environment: Mapping[str, str]) -> int:
    written = environment.get("MASTER_PORT")
    if written:
        if not written.isdecimal() or not 1 <= int(written) <= 65_535:
            raise StrategyError(
                [
                    Problem(
                        code="SW603",
                        found=f"MASTER_PORT={written} is not a port",
                        expected="a number from 1 to 65535",
                        fix="set another MASTER_PORT, or unset it",
                    )
                ]
            )
        return int(written)
    job = _job_number(launcher, environment)
    return DEFAULT_PORT if job is None else FIRST_PORT + job % NUM_PORTS


def _job_number(launcher: Launcher, environment: Mapping[str, str]) -> int | None:
    """Equal on all ranks of a job step, and rarely equal for two that run at once on a host."""
    if launcher is Launcher.SRUN:
        names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
        job, restart, step = (int(environment.get(name) or 0) for name in names)
        return job + restart + 31 * step
    if launcher is Launcher.MPIRUN:
        name = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid")
        return None if not name else zlib.crc32(name.encode())
    return None
