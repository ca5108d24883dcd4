"""Run folder that another launch may not overwrite: it has the only record of what was trained, and how."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from planner import Plan, Problem, StrategyError, load
from planner.files import read_object
from planner.plan.fingerprint import plan_fingerprint
from planner.plan.mismatch import describe_differences
from planner.run_holder import DONE_NAME, find_live_holder
from planner.strategy.schema import Strategy

_FORCE = "generate with --force: the old files are then kept in a folder replaced-NNN"


def find_held_run(run: Path, plan: Plan, variables: Mapping[str, str]) -> Problem | None:
    """A Problem where the folder holds a finished or a running run of another plan, or a running one with
    other limits.

    A run that was stopped, or killed, may go on with another plan: that is how the layout is changed.

    Args:
        variables: the operator variables of the launch, as its plan.json has them.
    """
    kept = _strategy_of(run)
    if kept is not None and plan_fingerprint(kept) == plan.fingerprint:
        return _find_other_limits(run, variables)
    holder = None if (is_done := (run / DONE_NAME).exists()) else find_live_holder(run)
    if not is_done and holder is None:
        return None
    state = "is finished" if is_done else f"is being trained ({holder})"
    return Problem(
        code="SW418",
        path="name",
        found=f"the run in {run} {state}, and is of another plan: {_differences(kept, plan)}",
        expected="a name of its own, or the plan of that run",
        fix=f"set name=NEW; or {_FORCE}",
    )


def _find_other_limits(run: Path, variables: Mapping[str, str]) -> Problem | None:
    """A Problem where a run of this plan is being trained with other operator variables.

    One that its ranks were not given differs from nothing: a launcher by hand exports none.
    """
    try:
        kept = read_object(run / "plan.json").get("environment")
    except (OSError, ValueError):
        return None  # no record to lose
    kept = kept if isinstance(kept, dict) else {}
    others = [
        f"{name} was {kept[name]}, now {value}"
        for name, value in variables.items()
        if kept.get(name, value) != value
    ]
    if not others or (holder := find_live_holder(run)) is None:
        return None
    return Problem(
        code="SW418",
        path="name",
        found=f"the run in {run} is being trained ({holder}), with other limits: {', '.join(others)}",
        expected="a name of its own, or the exported variables of that run",
        fix=f"export the same values as before, or stop the run first; or {_FORCE}",
    )


def keep_replaced(run: Path, names: Iterable[str]) -> Path | None:
    """Copies those files of a run that exist to its first free folder replaced-001, replaced-002, …

    Raises:
        OSError: if they cannot be copied.
    """
    existing = [run / name for name in names if (run / name).is_file()]
    if not existing:
        return None
    number = 1
    while (folder := run / f"replaced-{number:03d}").exists():
        number += 1
    folder.mkdir()
    for path in existing:
        shutil.copy2(path, folder / path.name)
    return folder


def _strategy_of(run: Path) -> Strategy | None:
    try:
        return load(run / "strategy.yaml")
    except StrategyError:
        return None


def _differences(kept: Strategy | None, plan: Plan) -> str:
    if kept is None:
        return "which keys differ is not known, because its strategy.yaml is missing or damaged"
    return describe_differences(kept, plan.strategy)
