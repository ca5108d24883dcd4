"""Whether a rank trains the plan that its launch was generated for, and which keys differ if not."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from planner.loading.loader import load
from planner.plan.fingerprint import PLAN_EXCEPT, plan_fingerprint
from planner.plan.plan import Plan
from planner.problems import Problem, StrategyError
from planner.strategy.field_types import AS_TEXT
from planner.strategy.schema import Strategy
from planner.units import shorten

# The variable by which a generated launch tells its ranks the fingerprint of its plan.
VARIABLE = "SWITCHYARD_PLAN"
MAX_SHOWN = 8
_ABSENT = object()


def launch_problems(plan: Plan, environ: Mapping[str, str] = os.environ) -> tuple[Problem, ...]:
    """The Problem of a rank whose plan is not its launch's; none without SWITCHYARD_PLAN.

    Reads strategy.yaml in the run's folder, which `generate` wrote, where the plans differ.
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
    return (other_plan(plan, expected, generated, str(path)),)


def other_plan(plan: Plan, expected: str, generated: Strategy | None, path: str) -> Problem:
    """That `plan` is not the plan of fingerprint `expected`, with the keys that make the difference.

    Args:
        generated: the strategy in the file `path`; None if it is not there or cannot be read.
    """
    if generated is None:
        why = f"{path} is not there to show which keys differ"
    elif plan_fingerprint(generated) != expected:
        why = f"{path} was changed since, or is another plan's, so it cannot show which keys differ"
    else:
        keys = tuple(differing_keys(generated, plan.strategy))
        shown = [f"{key} was {was}, now {now}" for key, was, now in keys[:MAX_SHOWN]]
        more = [f"and {len(keys) - MAX_SHOWN} more"] if len(keys) > MAX_SHOWN else []
        why = "; ".join(shown + more)
    return Problem(
        path=None,
        line=None,
        found=f"this is plan {plan.fingerprint}, and the launch is of plan {expected} ({VARIABLE}): {why}",
        expected="the strategy and overrides that the launch was generated for",
        fix="run `python -m launch generate` again with what you want to train, and start what it writes",
    )


def differing_keys(was: Strategy, now: Strategy) -> Iterator[tuple[str, str, str]]:
    """Dotted key, value in `was` and value in `now`, of what the plan's fingerprint covers."""
    yield from _differing("", _covered(was), _covered(now))


def _covered(strategy: Strategy) -> dict[str, Any]:
    return strategy.model_dump(mode="json", context=AS_TEXT, exclude=set(PLAN_EXCEPT))


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
