"""`generate`: the files of a launch, in the run's folder, and how to start it."""

import os
from collections.abc import Sequence
from shlex import quote
from typing import Any

from launch.cli.output import YES, print_json
from launch.scripts.hostfile import has_placeholder_hosts, is_local
from launch.scripts.launch_files import launch_files, place_of, write_together
from planner import Plan, Problem, StrategyError, build_plan, load, locate_problems
from planner.plan.notes import notes


def generate(strategy: str, overrides: Sequence[str], *, is_json: bool) -> int:
    """Writes the files and says what was written and what starts it.

    Raises:
        StrategyError: with what is wrong with the strategy, or keeps its plan from being launched.
    """
    plan = build_plan(load(strategy, overrides))
    place = place_of(plan)
    try:
        files = launch_files(plan, place, os.environ)
    except StrategyError as error:
        raise StrategyError(locate_problems(error.problems, plan.strategy)) from None
    try:
        write_together(place.run, files)
    except OSError as error:
        raise StrategyError([_cannot_write(str(place.run), error)]) from error
    answer: dict[str, Any] = {
        "folder": str(place.run),
        "fingerprint": plan.fingerprint,
        "files": list(files),
        "start": None if _is_for_slurm_only(plan) else str(place.run / "launch.sh"),
        "notes": list(notes(plan)),
    }
    if is_json:
        print_json("generate", YES, answer)
    else:
        _tell(plan, answer)
    return YES


def _is_for_slurm_only(plan: Plan) -> bool:
    return has_placeholder_hosts(plan) and not is_local(plan)


def _tell(plan: Plan, answer: dict[str, Any]) -> None:
    print(f"plan {plan.fingerprint} in {answer['folder']}: {' '.join(answer['files'])}")
    if answer["start"] is None:
        print(
            f"  placeholder host names ({plan.hosts[0].name} …): list the real ones under cluster.hosts "
            "to use launch.sh"
        )
    else:
        print(f"  start it with {quote(answer['start'])}")
    print(f"  under Slurm: sbatch {quote(answer['folder'] + '/launch.sbatch')}")
    for note in answer["notes"]:
        print(f"note: {note}")


def _cannot_write(folder: str, error: OSError) -> Problem:
    return Problem(
        code="SW403",
        path="output.folder",
        found=f"cannot write {folder}: {(error.strerror or str(error)).lower()}",
        expected="a writable folder on a disk with free space",
        fix="set output.folder to another folder",
    )
