"""Plan mismatch: a rank's plan is not the one its launch was generated for, and which keys differ."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from planner.loading.loader import load
from planner.plan.fingerprint import PLAN_EXCEPT, PRICE_KEYS, plan_fingerprint
from planner.plan.plan import Plan
from planner.problems import Problem, StrategyError
from planner.strategy.field_types import AS_TEXT
from planner.strategy.schema import Strategy
from planner.units import shorten

# The variable in which a generated launch passes the fingerprint of its plan to the ranks.
VARIABLE = "SWITCHYARD_PLAN"
MAX_SHOWN = 8
_ABSENT = object()


def find_launch_problems(plan: Plan, environ: Mapping[str, str] = os.environ) -> tuple[Problem, ...]:
    """The Problem of a rank whose plan differs from its launch's; none without SWITCHYARD_PLAN.

    If the plans differ, reads strategy.yaml in the run's folder, which `generate` wrote.
    """
    expected = environ.get(VARIABLE, "")
    if expected in ("", plan.fingerprint):
        return ()
    output = plan.strategy.output
    path = Path(output.folder) / plan.strategy.name / "strategy.yaml"
    try:
        generated = load(path)
    except StrategyError:
        generated = None
    return (describe_mismatch(plan, expected, generated, str(path)),)


def describe_mismatch(plan: Plan, expected: str, generated: Strategy | None, path: str) -> Problem:
    """The Problem that `plan` does not have the fingerprint `expected`, with the keys that differ.

    Args:
        generated: the strategy in the file `path`; None if it is missing or cannot be read.
    """
    if generated is None:
        why = f"{path} is missing, so the differing keys are not known"
    elif plan_fingerprint(generated) != expected:
        why = f"{path} was changed or belongs to another plan, so the differing keys are not known"
    else:
        why = describe_differences(generated, plan.strategy)
    return Problem(
        code="SW301",
        found=f"this is plan {plan.fingerprint}, the launch is for plan {expected} ({VARIABLE}): {why}",
        expected="the strategy and overrides that the launch was generated for",
        fix="run `python -m launch generate` again with what you want to train, and start what it writes",
    )


def describe_differences(was: Strategy, now: Strategy) -> str:
    """The first of the differing keys, with both values, for a message."""
    keys = [f"{key} was {old}, now {new}" for key, old, new in compare_keys(was, now)]
    more = [f"and {len(keys) - MAX_SHOWN} more"] if len(keys) > MAX_SHOWN else []
    return "; ".join(keys[:MAX_SHOWN] + more)


def compare_keys(was: Strategy, now: Strategy) -> Iterator[tuple[str, str, str]]:
    """Dotted key, value in `was` and value in `now`, for differing keys of the plan's fingerprint."""
    yield from _differing("", _covered(was), _covered(now))


def _covered(strategy: Strategy) -> dict[str, Any]:
    exclude: Any = {**dict.fromkeys(PLAN_EXCEPT, True), "cluster": PRICE_KEYS}
    return strategy.model_dump(mode="json", context=AS_TEXT, exclude=exclude)


def _differing(prefix: str, was: Any, now: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*was, *now)):
            path = f"{prefix}.{key}" if prefix else str(key)
            yield from _differing(path, was.get(key, _ABSENT), now.get(key, _ABSENT))
    elif was != now:
        yield prefix, _show(was), _show(now)


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "not given"
    return "null" if value is None else shorten(str(value).lower() if isinstance(value, bool) else str(value))
