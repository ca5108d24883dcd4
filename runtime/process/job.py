"""Job of a rank: what its ranks have in common, and no other job, as far as the launcher tells."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.process.launchers import Launcher, find_launcher
from runtime.process.started_by import launcher_id

# Each launcher's own name of the job. Those of an outer launcher may differ between ranks: mpirun starts
# its daemons on other hosts, and only those, with srun; a batch script may start each host's torchrun in a
# step of its own.
_NAMES = {
    Launcher.SRUN: ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    Launcher.MPIRUN: ("PMIX_NAMESPACE",),
    Launcher.TORCHRUN: ("TORCHELASTIC_RUN_ID",),
}
_LOCAL_SIZES = ("LOCAL_SIZE", "LOCAL_WORLD_SIZE")  # deepspeed's and torchrun's


def job_of_rank(
    environment: Mapping[str, str] = os.environ,
    *,
    command: Sequence[str] | None = None,
    executable: str = sys.executable,
    parent: int | None = None,
) -> str:
    """16 hexadecimal digits.

    Args:
        command: None takes that of this process.
        executable: a generated launch runs each attempt through a link of its own (launch/job.py).
        parent: the launcher's process id; None takes that of this process. It counts where one launcher has
            started all ranks: the same command, started twice, is two jobs.
    """
    words = sys.argv if command is None else command
    parts = [
        link_of(executable),
        *(environment.get(name, "") for name in _NAMES.get(find_launcher(environment), ())),
        *(word for word in words if not word.startswith(("--local_rank", "--local-rank"))),
    ]
    world_size = environment.get("WORLD_SIZE")
    if world_size and any(environment.get(name) == world_size for name in _LOCAL_SIZES):
        parts.append(str(launcher_id() if parent is None else parent))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def launch_of_rank(
    environment: Mapping[str, str] = os.environ, executable: str = sys.executable
) -> str | None:
    """The launch to which this rank's attempts belong, as the generated script names itself.

    None for a start by hand: nobody asks whose attempt it was.
    """
    if link := link_of(executable):
        return link
    if environment.get("SWITCHYARD_LAUNCH"):  # of launch.torchrun.sh and launch.mpirun.sh
        return environment["SWITCHYARD_LAUNCH"]
    job = environment.get("SLURM_JOB_ID")
    return f"slurm-{job}-{environment.get('SLURM_RESTART_COUNT') or 0}" if job else None


def link_of(executable: str) -> str:
    """The name of a generated launch's link to the interpreter; "" for any other interpreter."""
    name = Path(executable).name
    return name if name.startswith("python-") else ""
