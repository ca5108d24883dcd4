"""Run folder that a launch of another plan may not overwrite: it has the only record of what was trained."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from planner import Plan, Problem, StrategyError, load
from planner.plan.fingerprint import plan_fingerprint
from planner.plan.mismatch import describe_differences
from planner.run_holder import DONE_NAME, find_live_holder
from planner.strategy.schema import Strategy


def find_held_run(run: Path, plan: Plan) -> Problem | None:
    """A Problem where the folder holds a finished or a running run of another plan.

    A run that was stopped, or killed, may go on with another plan: that is how the layout is changed.
    """
    kept = _strategy_of(run)
    if kept is not None and plan_fingerprint(kept) == plan.fingerprint:
        return None
    holder = None if (is_done := (run / DONE_NAME).exists()) else find_live_holder(run)
    if not is_done and holder is None:
        return None
    state = "is finished" if is_done else f"is being trained ({holder})"
    return Problem(
        code="SW418",
        path="name",
        found=f"the run in {run} {state}, and is of another plan: {_differences(kept, plan)}",
        expected="a name of its own, or the plan of that run",
        fix="set name=NEW; or generate with --force: the old files are then kept in a folder replaced-NNN",
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
