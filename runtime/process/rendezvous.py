"""Rendezvous of the ranks: address and port of rank 0's store, as written or as the launcher implies."""

import ipaddress
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

from planner.problems import Problem, StrategyError
from planner.strategy.host_expressions import expand, split_outside_brackets
from planner.units import shorten
from runtime.process.launchers import Launcher, is_on_one_host

LOOPBACK, DEFAULT_PORT = "127.0.0.1", 29500  # the port is torch's
# Ports that neither services nor, on Linux, outgoing connections (from 32768) use.
FIRST_PORT, NUM_PORTS = 20_000, 12_000
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_WITH_PORT = re.compile(r"\[?([A-Za-z0-9_.:-]+?)\]?:([0-9]{1,5})")


def find_rendezvous(launcher: Launcher, environment: Mapping[str, str]) -> tuple[str, int]:
    """Address and port. What is set wins; deepspeed and torchrun set both, srun and mpirun neither.

    Raises:
        StrategyError: if MASTER_ADDR or MASTER_PORT cannot be one, or nothing says on which host rank 0 is.
    """
    return _address(launcher, environment), _port(launcher, environment)


def _address(launcher: Launcher, environment: Mapping[str, str]) -> str:
    written = environment.get("MASTER_ADDR")
    if written:
        _check_address(written, is_on_one_host=is_on_one_host(launcher, environment))
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


def _check_address(written: str, *, is_on_one_host: bool) -> None:
    """Refuses what no resolver would take (Python's own raises a UnicodeError), and what names no host."""
    found = f"MASTER_ADDR={shorten(written, 80)} is not a host name or an IP address"
    fix = "set MASTER_ADDR to the name or address of rank 0's host"
    address = _ip_address(written)
    if address is None and _is_name(written):
        return
    if address is not None:
        if not address.is_unspecified or is_on_one_host:
            return
        found = f"MASTER_ADDR={written} is the address of no host: each would look for rank 0 on itself"
    elif (parts := _WITH_PORT.fullmatch(written)) is not None:
        fix = f"set MASTER_ADDR={parts[1]} and MASTER_PORT={parts[2]}"
    raise StrategyError(
        [Problem(code="SW617", found=found, expected="the name or address of rank 0's host", fix=fix)]
    )


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])  # %: the interface of a link-local one
    except ValueError:
        return None


def _is_name(text: str) -> bool:
    try:
        return _NAME.fullmatch(text.encode("idna").decode()) is not None
    except UnicodeError:  # an empty label, or one of more than 63 characters
        return False


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
        if re.fullmatch(r"[0-9]{1,5}", written) is None or not 1 <= int(written) <= 65_535:
            raise StrategyError(
                [
                    Problem(
                        code="SW603",
                        found=f"MASTER_PORT={shorten(written)} is not a port",
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
        job, restart, step = (_number(environment.get(name, "")) for name in names)
        return job + restart + 31 * step
    if launcher is Launcher.MPIRUN:
        name = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid")
        return None if not name else zlib.crc32(name.encode())
    return None


def _number(text: str) -> int:
    """Slurm's numbers as they are; any other text as one of its own."""
    is_number = text.isdecimal() and len(text) < 19
    return int(text) if is_number else zlib.crc32(text.encode(errors="surrogateescape"))
