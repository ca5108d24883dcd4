"""Records of a run's steps and of its ranks' steps, from lines that may be of another version, or damaged."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.prediction.breakdown import COMMUNICATION, PHASES, USEFUL

_EXACT = 1 << 53  # integers up to here are exact as floats


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One line of telemetry.jsonl. None: not in the line, or not a finite number.

    time: seconds since 1970, by the clock of rank 0's host. elapsed_s: since the attempt's first step began,
    by a clock that nobody sets.
    """

    step: int
    attempt: int
    step_s: float
    loss: float | None
    validation_loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens: float | None
    mfu: float | None
    dropped_tokens: float | None
    balance: float | None
    overload: Mapping[str, float]
    phases_s: Mapping[str, float]
    predicted: Mapping[str, float]
    time: float | None
    elapsed_s: float | None
    is_loss_not_finite: bool
    is_skipped: bool  # the gradient was not finite, so no rank made an update

    @property
    def tokens_per_s(self) -> float | None:
        return None if self.tokens is None else self.tokens / self.step_s


@dataclass(frozen=True, kw_only=True, slots=True)
class RankRecord:
    """One step of one rank, from its own file or from its host's."""

    rank: int
    step: int
    attempt: int
    phases_s: Mapping[str, float]
    memory_bytes: float | None
    gpu: Mapping[str, float]

    @property
    def step_s(self) -> float:
        return sum(self.phases_s.values())

    @property
    def own_s(self) -> float:
        """Seconds of the step in which the rank did not wait for others."""
        return sum(seconds for name, seconds in self.phases_s.items() if name not in COMMUNICATION)

    def share(self, names: Sequence[str]) -> float | None:
        total = self.step_s
        return sum(self.phases_s.get(name, 0.0) for name in names) / total if total > 0 else None

    @property
    def communication_share(self) -> float | None:
        return self.share(COMMUNICATION)

    @property
    def utilization(self) -> float | None:
        return self.share(USEFUL)


def parse_step(line: Mapping[str, Any]) -> StepRecord | None:
    """None where the line is not one of a step."""
    step, step_s = line.get("step"), number(line.get("step_s"))
    if type(step) is not int or step < 0 or step_s is None or step_s <= 0:
        return None
    not_finite = line.get("not_finite")
    return StepRecord(
        step=step,
        attempt=_attempt(line),
        step_s=step_s,
        loss=number(line.get("loss")),
        validation_loss=number(line.get("validation_loss")),
        learning_rate=number(line.get("learning_rate")),
        grad_norm=number(line.get("grad_norm")),
        tokens=number(line.get("tokens")),
        mfu=number(line.get("mfu")),
        dropped_tokens=number(line.get("dropped_tokens")),
        balance=number(line.get("balance")),
        overload=numbers(line.get("overload")),
        phases_s=_phases(line.get("phases_s")),
        predicted=numbers(line.get("predicted")),
        time=number(line.get("time")),
        elapsed_s=number(line.get("elapsed_s")),
        is_loss_not_finite=isinstance(not_finite, Mapping) and "loss" in not_finite,
        is_skipped=isinstance(not_finite, Mapping) and "grad_norm" in not_finite,
    )


def parse_rank(line: Mapping[str, Any], rank: int) -> RankRecord | None:
    """A line of ranks/rank-NNNN.jsonl; None where it is not one of a step."""
    step, phases_s = line.get("step"), _phases(line.get("phases_s"))
    if type(step) is not int or step < 0 or not phases_s:
        return None
    return RankRecord(
        rank=rank,
        step=step,
        attempt=_attempt(line),
        phases_s=phases_s,
        memory_bytes=number(line.get("memory_bytes")),
        gpu=numbers(line.get("gpu")),
    )


def parse_host(line: Mapping[str, Any]) -> Iterator[RankRecord]:
    """The ranks of a line of ranks/host-NAME.jsonl."""
    ranks, phases_s = line.get("ranks"), line.get("phases_s")
    if not isinstance(ranks, list) or not isinstance(phases_s, Mapping):
        return
    for place, rank in enumerate(ranks):
        if type(rank) is not int or rank < 0:
            continue
        one = {
            "step": line.get("step"),
            "attempt": line.get("attempt"),
            "phases_s": {name: _at(values, place) for name, values in phases_s.items()},
            "memory_bytes": _at(line.get("memory_bytes"), place),
            "gpu": _at(line.get("gpu"), place),
        }
        record = parse_rank(one, rank)
        if record is not None:
            yield record


def parse_experts(line: Mapping[str, Any]) -> tuple[int, list[list[float]]] | None:
    """Step and tokens of each expert of each layer, of a line of experts.jsonl."""
    step, tokens = line.get("step"), line.get("tokens")
    if type(step) is not int or not isinstance(tokens, list) or not tokens:
        return None
    layers = [_counts(layer) for layer in tokens if isinstance(layer, list) and layer]
    widths = {len(layer) for layer in layers}
    return (step, layers) if len(layers) == len(tokens) and len(widths) == 1 else None


def _counts(values: list[Any]) -> list[float]:
    """0 for what is not a finite number."""
    if {*map(type, values)} == {int} and min(values) > -_EXACT and max(values) < _EXACT:
        return values  # as ranks write them; a long run has millions
    return [number(value) or 0.0 for value in values]


def number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def numbers(values: Any) -> dict[str, float]:
    """The finite numbers of an object, by name."""
    if not isinstance(values, Mapping):
        return {}
    found = {str(name): number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _phases(values: Any) -> dict[str, float]:
    """Of the phases that this version knows; times are not negative."""
    return {name: value for name, value in numbers(values).items() if name in PHASES and value >= 0}


def _attempt(line: Mapping[str, Any]) -> int:
    attempt = line.get("attempt")
    return attempt if type(attempt) is int else 0


def _at(values: Any, place: int) -> Any:
    return values[place] if isinstance(values, list) and place < len(values) else None
