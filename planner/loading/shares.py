"""Shares written where a number is read: 10 % or 0.1 of training.steps, of the learning rate."""

import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from planner.loading.foreign_meaning import number
from planner.strategy.training import Training, steps_for
from planner.units import QuantityError, parse_quantity

# keys that count steps of the training, of which people write a share
OF_STEPS = {
    *("training.warmup_steps", "training.schedule_steps"),
    *("output.checkpoint_every", "output.keep_every", "output.validate_every"),
}
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*")


def share_of_another(
    path: Sequence[str | int], value: Any, data: Mapping[str, Any]
) -> tuple[int | float, str] | None:
    """The number that a share of another key comes to, and how; None where no share seems to be meant.

    A bare number between 0 and 1 has two readings, which are both named.
    """
    key = ".".join(map(str, path))
    percent = _percent(value)
    if key == "training.min_learning_rate" and isinstance(value, str) and percent is not None:
        peak = _number(data, "learning_rate") or float(Training.model_fields["learning_rate"].default)
        return float(f"{percent / 100 * peak:.6g}"), f", {percent:g} % of training.learning_rate ({peak:g})"
    steps = num_steps(data) if key in OF_STEPS else None
    if percent is None or steps is None:
        return None
    count = ceil(round(percent * steps / 100, 6))
    hint = f", {percent:g} % of {steps:,} steps"
    if not isinstance(value, str):
        hint += f", or a number of steps where {value:g} is not a share of them"
    return count, hint


def _percent(value: Any) -> float | None:
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)) is not None:
        return float(match.group(1)) if float(match.group(1)) <= 100 else None
    if isinstance(value, float) and 0 < value < 1:
        return float(f"{value * 100:.6g}")
    return None


def num_steps(data: Mapping[str, Any]) -> int | None:
    """training.steps of a document, or what follows from its tokens; None where neither is legal."""
    steps = _number(data, "steps")
    if steps is not None:
        return int(steps) if steps >= 1 and steps == int(steps) else None
    training = data.get("training")
    tokens = training.get("tokens") if isinstance(training, dict) else None
    batch, length = _number(data, "global_batch"), _number(data, "seq_length")
    if isinstance(tokens, bool) or not isinstance(tokens, (str, int)) or not batch or not length:
        return None
    try:
        total = parse_quantity(tokens, "tokens") if isinstance(tokens, str) else tokens
    except QuantityError:
        return None
    return steps_for(int(total), int(batch * length)) if total > 0 and batch >= 1 and length >= 1 else None


def _number(data: Mapping[str, Any], key: str) -> float | None:
    training = data.get("training")
    value = number(training.get(key)) if isinstance(training, dict) else None
    return value if value is not None and value > 0 else None
