"""Launchers of a rank, and the variables in which each says which rank it started.

| launcher | sign of it | rank | world size | local rank | ranks of this host |
| --- | --- | --- | --- | --- | --- |
| `torchrun` | TORCHELASTIC_RUN_ID | RANK | WORLD_SIZE | LOCAL_RANK | LOCAL_WORLD_SIZE |
| `deepspeed` | CROSS_RANK | RANK | WORLD_SIZE | LOCAL_RANK | LOCAL_SIZE |
| `mpirun` | OMPI_COMM_WORLD_RANK | OMPI_COMM_WORLD_RANK | …_SIZE | …_LOCAL_RANK | …_LOCAL_SIZE |
| `srun` | SLURM_STEP_ID | SLURM_PROCID | SLURM_STEP_NUM_TASKS | SLURM_LOCALID | all of 1 node |
| by hand | RANK or WORLD_SIZE | RANK | WORLD_SIZE | LOCAL_RANK | LOCAL_WORLD_SIZE |

`python -m torch.distributed.launch` is torchrun with other defaults. Seen with torch 2.13, DeepSpeed 0.19.8,
Open MPI 4.1.4 and Slurm 22.05.
"""

import os
from collections.abc import Mapping
from enum import Enum


class Launcher(Enum):
    """What started this process; the values are the commands."""

    DEEPSPEED = "deepspeed"
    TORCHRUN = "torchrun"
    SRUN = "srun"
    MPIRUN = "mpirun"
    BY_HAND = "RANK, WORLD_SIZE and LOCAL_RANK"  # set by a wrapper, or by a platform
    NONE = "python"


# In this order, rank, world size and local rank.
TORCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
MPI_VARIABLES = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
VARIABLES = {
    Launcher.DEEPSPEED: TORCH_VARIABLES,
    Launcher.TORCHRUN: TORCH_VARIABLES,
    Launcher.SRUN: SLURM_VARIABLES,
    Launcher.MPIRUN: MPI_VARIABLES,
    Launcher.BY_HAND: TORCH_VARIABLES,
}
# Launchers whose variables say nothing that this program could start from: by one of their variables.
UNSUPPORTED = {
    "PMI_RANK": "an MPI that is not Open MPI (MPICH, Intel MPI)",
    "PMIX_RANK": "a PMIx launcher that is not Open MPI's mpirun",
    "MV2_COMM_WORLD_RANK": "MVAPICH2",
    "FLUX_TASK_RANK": "Flux",
    "PALS_RANKID": "PALS (Cray)",
    "JSM_NAMESPACE_RANK": "jsrun",
}
# From here on (slurm.h, SLURM_MAX_NORMAL_STEP_ID) it is not srun's: a batch script, an interactive salloc.
_MAX_STEP_ID = 0xFFFFFFF0


def find_launcher(environment: Mapping[str, str]) -> Launcher:
    """The innermost launcher of this process.

    Launchers hand on what an outer one has set. torchrun and deepspeed set RANK beside their own sign, so
    they are inside of whatever else is seen: `srun torchrun …`. mpirun inside a Slurm job starts its daemons
    with srun, whose variables the ranks inherit. `salloc` and `sbatch` set SLURM_NTASKS, and `sbatch` also
    SLURM_PROCID, for a process that is not a task of a step: srun has not started it.
    """
    has_rank = bool(environment.get("RANK"))
    if has_rank and environment.get("TORCHELASTIC_RUN_ID"):
        return Launcher.TORCHRUN
    if has_rank and environment.get("CROSS_RANK"):
        return Launcher.DEEPSPEED
    # `srun --pty bash`: the ranks that are started in there by hand are more than the step's only task.
    is_by_hand = has_rank and bool(environment.get("WORLD_SIZE"))
    for launcher in (Launcher.MPIRUN, Launcher.SRUN):
        rank, world_size, _ = VARIABLES[launcher]
        is_single = is_by_hand and environment.get(world_size) == "1"
        is_step = launcher is not Launcher.SRUN or _is_step(environment.get("SLURM_STEP_ID", ""))
        if environment.get(rank) and is_step and not is_single:
            return launcher
    return Launcher.BY_HAND if has_rank or environment.get("WORLD_SIZE") else Launcher.NONE


def is_on_one_host(launcher: Launcher, environment: Mapping[str, str]) -> bool:
    """Whether all processes were started on this host, as far as the launcher says."""
    if launcher is Launcher.SRUN:
        return environment.get("SLURM_STEP_NUM_NODES") == "1"
    if launcher is Launcher.NONE:
        return True
    local_size = {Launcher.DEEPSPEED: "LOCAL_SIZE", Launcher.MPIRUN: "OMPI_COMM_WORLD_LOCAL_SIZE"}
    here = environment.get(local_size.get(launcher, "LOCAL_WORLD_SIZE"))
    return here is not None and here == environment.get(VARIABLES[launcher][1])


def is_other_rank_here(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is not rank 0, which was started on the same host."""
    launcher = find_launcher(environment)
    is_other = launcher is not Launcher.NONE and environment.get(VARIABLES[launcher][0], "0") != "0"
    return is_other and is_on_one_host(launcher, environment)


def _is_step(step_id: str) -> bool:
    return step_id.isdecimal() and int(step_id) < _MAX_STEP_ID
