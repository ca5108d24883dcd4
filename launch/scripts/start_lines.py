"""Lines that `generate` prints: what to type to start a launch, by what starts its ranks."""

from collections.abc import Collection
from shlex import quote

from launch.scripts.hostfile import has_placeholder_hosts, is_local
from launch.scripts.launch_files import FILE_NAMES
from launch.scripts.template import LaunchPaths
from launch.scripts.torchrun_sh import torchrun_lines
from planner import Plan


def start_lines(plan: Plan, paths: LaunchPaths, targets: Collection[str]) -> dict[str, list[str]]:
    """By a title for each target; nothing for one that needs names of hosts and has none."""
    file = {target: quote(str(paths.run / FILE_NAMES[target])) for target in targets}
    has_names = is_local(plan) or not has_placeholder_hosts(plan)
    lines = {
        "deepspeed": ("start", [file.get("deepspeed", "")] if has_names else []),
        "torchrun": ("with torchrun", torchrun_lines(plan, paths)),
        "slurm": ("under Slurm", [f"sbatch {file.get('slurm')}"]),
        "mpi": ("with Open MPI", [file.get("mpi", "")] if has_names else []),
        "kubernetes": ("on Kubernetes", [f"kubectl create -f {file.get('kubernetes')}"]),
    }
    return {lines[target][0]: lines[target][1] for target in FILE_NAMES if target in targets}
