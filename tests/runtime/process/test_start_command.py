"""The command line in a message: processes and hosts that a plan needs, in each launcher's words."""

import pytest

from planner import build_plan, load
from runtime.process.launchers import Launcher
from runtime.process.start_command import start_command

# 68 ranks on hosts of 8: 9 hosts, 72 processes. 8 ranks on one host.
DOCUMENT, SMALL = "ds_configs/ep64_tp2_staged.yaml", "ds_configs/tiny_staged_cpu.yaml"


@pytest.mark.parametrize(
    ("launcher", "environment", "small", "large"),
    [
        (Launcher.DEEPSPEED, {}, "deepspeed --num_gpus 8 train.py", "deepspeed --hostfile FILE train.py"),
        (
            Launcher.TORCHRUN,
            {},
            "torchrun --nproc_per_node=8 train.py",
            "torchrun --nnodes=9 --nproc_per_node=8",
        ),
        (
            Launcher.SRUN,
            {},
            "srun --nodes=1 --ntasks=8 python train.py",
            "srun --nodes=9 --ntasks=72 --ntasks-per-node=8 python train.py",
        ),
        (Launcher.MPIRUN, {}, "mpirun -np 8 python train.py", "mpirun -np 72 --map-by ppr:8:node"),
        (Launcher.BY_HAND, {}, "8 processes", "68 processes"),
        (Launcher.NONE, {}, "deepspeed --num_gpus 8", "deepspeed --hostfile"),
        (Launcher.NONE, {"SLURM_JOB_ID": "3"}, "srun --nodes=1 --ntasks=8", "srun --nodes=9 --ntasks=72"),
    ],
)
def test_it_starts_what_the_plan_needs(
    launcher: Launcher, environment: dict[str, str], small: str, large: str
) -> None:
    for strategy, expected in ((SMALL, small), (DOCUMENT, large)):
        assert start_command(build_plan(load(strategy)), launcher, environment).startswith(expected)
