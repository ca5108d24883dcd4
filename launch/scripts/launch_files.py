"""Files of a launch: their contents, and how they are written to the run folder, all or none."""

import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from launch.scripts.env_file import (
    OPERATOR_VARIABLES,
    env_file,
    operator_environment,
    variable_problems,
    variables,
)
from launch.scripts.hostfile import host_problems, hostfile, is_local
from launch.scripts.kubernetes import kubernetes_problems, launch_kubernetes
from launch.scripts.launch_sh import launch_sh
from launch.scripts.made_folders import missing, remove_empty
from launch.scripts.mpirun_sh import launch_mpirun_sh, mpirun_problems
from launch.scripts.sbatch import launch_sbatch, slurm_problems
from launch.scripts.site import remote_site_problems
from launch.scripts.template import LaunchPaths
from launch.scripts.torchrun_sh import launch_torchrun_sh
from planner import Plan, Problem, Strategy, StrategyError, build_plan
from planner.files import fsync_folder, write_new
from planner.memory.fit import cap_problem
from planner.paths import PROJECT
from planner.plan.serialization import ds_config_json, plan_json, strategy_yaml
from planner.strategy.anchored_paths import anchor_paths

# By what starts the ranks, as in `generate --for`.
FILE_NAMES = {
    "deepspeed": "launch.sh",
    "torchrun": "launch.torchrun.sh",
    "slurm": "launch.sbatch",
    "mpi": "launch.mpirun.sh",
    "kubernetes": "launch.kubernetes.yaml",
}
# By launch.launcher. launch.sbatch needs no names of hosts, so it is there where launch.sh may not start.
_BY_LAUNCHER = {
    "deepspeed": ("deepspeed", "slurm"),
    "torchrun": ("torchrun",),
    "srun": ("slurm",),
    "mpirun": ("mpi",),
}
# DeepSpeed 0.19.8 passes paths to remote shells unquoted, and pdsh expands % in them.
_SAFE_PATH = re.compile(r"[A-Za-z0-9_./=:,@+-]+")


def build_launch_plan(strategy: Strategy) -> Plan:
    """The plan of a launch, whose ranks run in the project folder.

    Relative paths start at the folder in which this command runs: in another one they become absolute.
    """
    here = Path.cwd()
    return build_plan(strategy if here == PROJECT else anchor_paths(strategy, here))


def launch_paths(plan: Plan, project: Path = PROJECT, python: str = sys.executable) -> LaunchPaths:
    """The paths of a launch; those of the plan are absolute, or start at the project folder."""
    launch, output = plan.strategy.launch, plan.strategy.output
    named = launch.python
    if named is not None:
        python = str(project / named) if "/" in named else named
    ssh_config = launch.ssh_config
    return LaunchPaths(
        project=project,
        run=project / output.folder / plan.strategy.name,
        python=python,
        ssh_config=None if ssh_config is None else project / ssh_config,
    )


def default_targets(plan: Plan) -> tuple[str, ...]:
    """What `generate` writes files for without --for: what launch.launcher says."""
    return _BY_LAUNCHER[plan.strategy.launch.launcher]


def launch_files(
    plan: Plan, paths: LaunchPaths, environ: Mapping[str, str], targets: Collection[str] = ()
) -> dict[str, bytes]:
    """The bytes of every file of the launch, by name; the same input gives the same bytes.

    Args:
        environ: the operator's environment; its operator variables win over launch.environment.
        targets: keys of FILE_NAMES; none for those of launch.launcher.

    Raises:
        StrategyError: with everything that prevents the launch.
    """
    targets = targets or default_targets(plan)
    operator = operator_environment(plan, environ)
    values = variables(plan, operator)
    problems = list(_problems(plan, paths, targets, values))
    cap = cap_problem(plan, operator)
    problems += [] if cap is None else [cap]
    if problems:
        raise StrategyError(problems)
    # train.py writes the variables that it finds, which are these, into plan.json: the same bytes.
    stamped = {name: values[name] for name in OPERATOR_VARIABLES}
    texts = {
        "strategy.yaml": strategy_yaml(plan),
        "plan.json": plan_json(plan, stamped),
        "ds_config.json": ds_config_json(plan),
        "hostfile": hostfile(plan),
        "env": env_file(values),
    }
    make = {
        "deepspeed": lambda: launch_sh(plan, paths),
        "torchrun": lambda: launch_torchrun_sh(plan, paths),
        "slurm": lambda: launch_sbatch(plan, paths, tuple(values)),
        "mpi": lambda: launch_mpirun_sh(plan, paths),
        "kubernetes": lambda: launch_kubernetes(plan, paths, values),
    }
    texts |= {FILE_NAMES[target]: make[target]() for target in FILE_NAMES if target in targets}
    return {name: text.encode() for name, text in texts.items()}


def _problems(
    plan: Plan, paths: LaunchPaths, targets: Collection[str], values: Mapping[str, str]
) -> Iterator[Problem]:
    """What prevents a launch by one of the targets, in the order of FILE_NAMES."""
    local = is_local(plan)
    uses_deepspeed_over_ssh = "deepspeed" in targets and not local
    if uses_deepspeed_over_ssh or "mpi" in targets:
        yield from host_problems(plan)
    yield from variable_problems(plan, values, over_ssh=uses_deepspeed_over_ssh)
    for target, launcher in (("deepspeed", "deepspeed"), ("torchrun", "torchrun"), ("mpi", "mpirun")):
        if target in targets:
            yield from remote_site_problems(plan, launcher, is_local=local)
    if "slurm" in targets:
        yield from slurm_problems(plan, paths)
    if "mpi" in targets:
        yield from mpirun_problems(plan, paths)
    if "kubernetes" in targets:
        yield from kubernetes_problems(plan, paths)
    if uses_deepspeed_over_ssh:
        yield from _path_problems(plan, paths)


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes all files or none: each is on disk under a temporary name before the first is renamed.

    A kill between the renames leaves files of two plans, which launch.sh refuses by their fingerprints.

    Raises:
        OSError: if they cannot be written; folders created for them are removed again.
    """
    created = missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".generate-", dir=folder))
        try:
            for name, content in files.items():
                write_new(temporary / name, content)
                if content.startswith(b"#!"):
                    (temporary / name).chmod((temporary / name).stat().st_mode | 0o111)
            for name in files:
                (temporary / name).replace(folder / name)
            fsync_folder(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError:
        remove_empty(created)
        raise


def _path_problems(plan: Plan, paths: LaunchPaths) -> Iterator[Problem]:
    named = {
        "output.folder": paths.run,
        "launch.python": paths.python,
        "launch.ssh_config": paths.ssh_config,
        "the project folder": paths.project,
    }
    for key, path in named.items():
        if path is not None and not _SAFE_PATH.fullmatch(str(path)):
            yield Problem(
                code="SW402",
                path=key if "." in key else None,
                found=f"remote shells would alter the path {str(path)!r}"
                + ("" if "." in key else f" ({key})"),
                expected="letters, digits and _ . / = : , @ + - only, where there are several hosts",
                fix="use another path, or a symbolic link to it",
            )


def cannot_write(folder: Path, error: OSError) -> Problem:
    """The run folder, or output.folder, does not take files."""
    return Problem(
        code="SW403",
        path="output.folder",
        found=f"cannot write {folder}: {(error.strerror or str(error)).lower()}",
        expected="a writable folder on a disk with free space",
        fix="set output.folder to another folder",
    )
