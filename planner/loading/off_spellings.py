"""Spellings of off, never and without end (0, -1, off, null) for keys that say it in another way."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.loading.fault import Fault
from planner.loading.json_schema import find_section
from planner.loading.shares import num_steps
from planner.strategy.field_types import LARGEST, LONGEST_WAIT

_WORDS = frozenset(
    (
        *("off", "no", "none", "false", "never", "disabled", "disable", "null", "nil", "0", "-1", "inf"),
        *("infinity", "unlimited", "all", "without", "not used", "n/a"),
    )
)
# Keys that 0 turns off.
_ZERO = frozenset(
    (
        *("training.gradient_clipping", "training.balance_loss", "training.z_loss", "training.warmup_steps"),
        *("training.optimizer.weight_decay", "training.min_learning_rate", "training.bias_update_speed"),
        *("operate.restarts_per_hour", "cluster.spare_hosts", "model.num_shared_experts"),
        "model.first_dense_layers",
    )
)
_AT_THE_END = frozenset(("output.checkpoint_every", "output.validate_every"))
_WAITS = frozenset(("launch.timeout", "operate.hang_timeout"))
# Keys whose off is a value of another key.
_ELSEWHERE: Mapping[str, tuple[str, Any, str]] = {
    "output.keep_last": ("output.keep_every", 1, ", which keeps every checkpoint"),
    "training.balance": ("training.balance_loss", 0, ""),
}


def is_off(value: Any) -> bool:
    """Whether a value says off, never or without end in some program."""
    if isinstance(value, str):
        return value.strip().lower() in _WORDS
    return value is None or value is False or (not isinstance(value, bool) and value in (0, -1))


def switched_off(path: Sequence[str | int], value: Any, data: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """What a key has instead of a value that says off, and what is said behind it."""
    key = ".".join(map(str, path))
    if not is_off(value):
        return
    if key in _AT_THE_END:
        steps = num_steps(data)
        yield (
            LARGEST if steps is None else steps,
            f", which is at the end only: {'0 is' if value == 0 else 'this means'} never in other programs",
        )
    elif key == "runtime.check_replicas_every":
        yield LARGEST, ", which no training reaches"
    elif key in _WAITS:
        yield LONGEST_WAIT, ", the longest"
    elif key in _ZERO:
        yield 0, ", which is off"
    elif _is_null_by_default(path):
        yield None, ""


def in_another_key(fault: Fault, data: Mapping[str, Any]) -> Fault:
    """The fault with the key that says off in its place; as it is where there is none, or that is written."""
    key = ".".join(map(str, fault.path))
    if key not in _ELSEWHERE or not is_off(fault.value_at(data)):
        return fault
    target, value, hint = _ELSEWHERE[key]
    section, _, name = target.rpartition(".")
    if data[section].get(name) is not None:
        return fault
    return replace(
        fault, writes={target: value}, fix="", hint=hint, replaces=True, value=fault.value_at(data)
    )


def _is_null_by_default(path: Sequence[str | int]) -> bool:
    section = find_section(path[:-1])
    field = section.written_keys().get(str(path[-1])) if section is not None else None
    return field is not None and not field.is_required() and field.default is None
