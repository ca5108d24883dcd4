"""Command that starts the ranks of a plan with a given launcher, as a message shows it."""

import os
from collections.abc import Mapping
from pathlib import Path

from planner import Plan
from runtime.process.launchers import Launcher
from runtime.process.started_by import launcher_id

PROGRAM = "train.py …"


def start_command(plan: Plan, launcher: Launcher, environment: Mapping[str, str] = os.environ) -> str:
    """What to type, or what to do. On several hosts every host gets as many processes as the fullest needs.

    Args:
        launcher: what was used. For a bare `python` it is srun inside a Slurm job, else deepspeed.
    """
    world_size, hosts, size = plan.world_size, len(plan.hosts), plan.host_size
    if launcher is Launcher.NONE:
        launcher = Launcher.SRUN if environment.get("SLURM_JOB_ID") else Launcher.DEEPSPEED
    if launcher is Launcher.DEEPSPEED:
        if hosts == 1:
            return f"deepspeed --num_gpus {world_size} {PROGRAM}"
        return (
            f"deepspeed --hostfile FILE {PROGRAM} with the hostfile that `python -m launch generate` writes"
        )
    if launcher is Launcher.TORCHRUN:
        command = "python -m torch.distributed.launch" if _is_started_by_launch() else "torchrun"
        if hosts == 1:
            return f"{command} --nproc_per_node={world_size} {PROGRAM}"
        return (
            f"{command} --nnodes={hosts} --nproc_per_node={size} --node_rank=K --master_addr=HOST "
            f"--master_port=PORT {PROGRAM} on each host, K from 0 to {hosts - 1}, HOST that of K=0"
        )
    if launcher is Launcher.SRUN:
        where = f"--nodes=1 --ntasks={world_size}"
        if hosts > 1:
            where = f"--nodes={hosts} --ntasks={hosts * size} --ntasks-per-node={size}"
        return f"srun {where} python {PROGRAM}"
    if launcher is Launcher.MPIRUN:
        if hosts == 1:
            return f"mpirun -np {world_size} python {PROGRAM}"
        return (
            f"mpirun -np {hosts * size} --map-by ppr:{size}:node -x MASTER_ADDR=HOST python {PROGRAM}, "
            "HOST that of rank 0"
        )
    return f"{world_size} processes, RANK from 0 to {world_size - 1} and WORLD_SIZE={world_size}"


def _is_started_by_launch() -> bool:
    """Whether torchrun was started as `python -m torch.distributed.launch`, which sets the same variables."""
    try:
        words = Path(f"/proc/{launcher_id()}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"torch.distributed.launch" in words or any(
        word.endswith(b"torch/distributed/launch.py") for word in words
    )
