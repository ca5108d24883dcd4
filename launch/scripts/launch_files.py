"""The files of a launch: what is in each, and that they reach the run's folder together."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from launch.scripts.env_file import (
    OPERATOR_VARIABLES,
    env_file,
    operator_environment,
    variable_problems,
    variables,
)
from launch.scripts.hostfile import host_problems, hostfile, is_local
from launch.scripts.launch_sh import Place, launch_sh
from launch.scripts.made_folders import missing, remove_empty
from launch.scripts.sbatch import launch_sbatch, slurm_problems
from planner import Plan, Problem, StrategyError
from planner.plan.serialization import ds_config_json, plan_json, strategy_yaml

PROJECT = Path(__file__).resolve().parents[2]
# DeepSpeed 0.19.8 hands paths to remote shells unquoted, and pdsh reads % in them.
_SAFE_PATH = re.compile(r"[A-Za-z0-9_./=:,@+-]+")


def place_of(plan: Plan, project: Path = PROJECT, python: str = sys.executable) -> Place:
    """The paths of a launch; relative ones are looked up from the project, where train.py runs."""
    launch, output = plan.strategy.launch, plan.strategy.output
    named = launch.python
    if named is not None:
        python = str(project / named) if "/" in named else named
    ssh_config = launch.ssh_config
    return Place(
        project=project,
        run=project / output.folder / plan.strategy.name,
        python=python,
        ssh_config=None if ssh_config is None else project / ssh_config,
    )


def launch_files(plan: Plan, place: Place, environ: Mapping[str, str]) -> dict[str, bytes]:
    """The bytes of every file of the launch, by name; the same input gives the same bytes.

    Args:
        environ: the operator's environment, whose document variables win over the plan's.

    Raises:
        StrategyError: with everything that keeps the plan from being launched so.
    """
    operator = operator_environment(plan, environ)
    values = variables(plan, operator)
    over_ssh = not is_local(plan)
    problems = [
        *_launcher_problems(plan),
        *host_problems(plan),
        *variable_problems(plan, values, over_ssh=over_ssh),
        *slurm_problems(plan),
        *(_path_problems(plan, place) if over_ssh else ()),
    ]
    if problems:
        raise StrategyError(problems)
    # train.py stamps the variables that it finds, which are these: its plan.json has the same bytes.
    stamped = {name: values[name] for name in OPERATOR_VARIABLES}
    texts = {
        "strategy.yaml": strategy_yaml(plan),
        "plan.json": plan_json(plan, stamped),
        "ds_config.json": ds_config_json(plan),
        "hostfile": hostfile(plan),
        "env": env_file(values),
        "launch.sh": launch_sh(plan, place),
        "launch.sbatch": launch_sbatch(plan, place),
    }
    return {name: text.encode() for name, text in texts.items()}


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes all files, or none: each is on disk under another name before the first gets its own.

    A kill between the renames leaves files of two plans, which launch.sh refuses by their fingerprints.

    Raises:
        OSError: if they cannot be written; folders that were made for them are gone again.
    """
    made = missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_together(folder, files)
    except OSError:
        remove_empty(made)
        raise


def _write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".generate-", dir=folder))
    try:
        for name, content in files.items():
            with (temporary / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if content.startswith(b"#!"):
                (temporary / name).chmod((temporary / name).stat().st_mode | 0o111)
        for name in files:
            (temporary / name).replace(folder / name)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _launcher_problems(plan: Plan) -> Iterator[Problem]:
    launcher = plan.strategy.launch.launcher
    if launcher != "deepspeed":
        yield Problem(
            path="launch.launcher",
            line=None,
            found=f"generate writes no launch.sh for {launcher} yet",
            expected="deepspeed",
            fix="set launch.launcher to deepspeed; under Slurm submit launch.sbatch, which uses srun",
        )


def _path_problems(plan: Plan, place: Place) -> Iterator[Problem]:
    paths = {
        "output.folder": place.run,
        "launch.python": place.python,
        "launch.ssh_config": place.ssh_config,
        "the project's folder": place.project,
    }
    for key, path in paths.items():
        if path is not None and not _SAFE_PATH.fullmatch(str(path)):
            yield Problem(
                path=key if "." in key else None,
                line=None,
                found=f"the path {str(path)!r} goes through the other hosts' shells, which would alter it"
                + ("" if "." in key else f" ({key})"),
                expected="letters, digits and _ . / = : , @ + - alone, where there are several hosts",
                fix="use another path, or a link to it",
            )
