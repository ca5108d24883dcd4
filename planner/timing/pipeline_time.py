"""How stages and micro-batches follow each other: a step's bracket from what each stage is busy with.

Stages work one micro-batch forward, one backward, in turn (1F1B): with m micro-batches a step takes the way
of one micro-batch through all stages and back, and m - 1 times what the slowest of them takes for one more.

ideal     communication runs beside computation, also the gradients' reduction
expected  inside a stage nothing overlaps; what is handed to the next stage travels while the sender goes on,
          and a narrow stage works in chunks of its micro-batch: one crosses while it does another
none      a stage also waits while it sends and receives, and what it hands over crosses whole
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from planner.timing.layer_time import Pass
from planner.timing.stage_time import StageTime


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where two stages meet. transfer_s: one micro-batch's activations to the next, or their gradients back.

    num_bytes: what the fullest rank at it sends or receives for that. chunks: into how many the stage without
    layers, on the side `cut`, cuts its micro-batch.
    """

    transfer_s: float
    num_bytes: int = 0
    chunks: int = 1
    cut: Literal["before", "after"] | None = None

    @property
    def both_ways_s(self) -> float:
        return 2 * self.transfer_s

    def hidden_s(self, busy_s: float) -> float:
        """What the chunks of a stage that is busy for so long take off one crossing.

        Of the shorter of the two, all but one chunk runs beside the longer.
        """
        return (1 - 1 / self.chunks) * min(busy_s, self.transfer_s)


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """Seconds of one step."""

    ideal_s: float
    expected_s: float
    none_s: float


def step_bracket(stages: Sequence[StageTime], boundaries: Sequence[Boundary], accumulation: int) -> Bracket:
    """The step's time, from everything overlapped to nothing; `boundaries[i]` is behind `stages[i]`."""
    more = accumulation - 1
    busy = [stage.micro_batch_s for stage in stages]
    hidden = [_overlapped_s(stage.forward) + _overlapped_s(stage.backward) for stage in stages]
    once = [boundary.both_ways_s for boundary in boundaries]
    widest = max((boundary.transfer_s for boundary in boundaries), default=0.0)
    chunked = sum(_chunked_s(stages, boundaries, is_backward=b) for b in (False, True))
    expected = sum(busy) + sum(once) - chunked + more * max(*busy, widest)
    waiting = [b + x for b, x in zip(busy, _transfers_s(boundaries, len(stages)), strict=True)]
    none = sum(busy) + sum(once) + more * max(waiting)
    ideal = max(
        sum(hidden) + more * max(hidden),
        accumulation * widest,
        *(
            accumulation * (stage.forward.communication_s + stage.backward.communication_s)
            + stage.gradient_reduce_s
            for stage in stages
        ),
    )
    after = max(
        stage.gradient_reduce_s + stage.optimizer_s + stage.data_s + stage.other_s for stage in stages
    )
    return Bracket(
        ideal_s=ideal + max(stage.optimizer_s for stage in stages),
        expected_s=expected + after,
        none_s=none + after,
    )


def forward_latency_s(
    stages: Sequence[StageTime], boundaries: Sequence[Boundary], accumulation: int
) -> float:
    """Seconds until the whole global batch has gone forward once, nothing overlapped inside a stage."""
    busy = [stage.forward.total_s for stage in stages]
    transfers = [boundary.transfer_s for boundary in boundaries]
    chunked = _chunked_s(stages, boundaries, is_backward=False)
    return sum(busy) + sum(transfers) - chunked + (accumulation - 1) * max(*busy, *transfers, 0.0)


def _chunked_s(stages: Sequence[StageTime], boundaries: Sequence[Boundary], *, is_backward: bool) -> float:
    """What chunks take off the way of one micro-batch through all stages, in one direction."""
    seconds = 0.0
    for i, boundary in enumerate(boundaries):
        if boundary.cut is not None:
            cut = stages[i if boundary.cut == "before" else i + 1]
            seconds += boundary.hidden_s((cut.backward if is_backward else cut.forward).total_s)
    return seconds


@dataclass(frozen=True, kw_only=True)
class StagePhases:
    """A step of one stage's slowest rank: seconds in the phases of telemetry, which sum to the step.

    stage_wait is transfer (its own hand-overs) and bubble (waiting for other stages).
    """

    phases_s: dict[str, float]
    transfer_s: float
    bubble_s: float

    def share(self, *names: str) -> float:
        whole = sum(self.phases_s.values())
        return sum(self.phases_s[name] for name in names) / whole if whole else 0.0


def stage_phases(
    stages: Sequence[StageTime], boundaries: Sequence[Boundary], accumulation: int, step_s: float
) -> tuple[StagePhases, ...]:
    """The phases of each stage in a step of `step_s` seconds."""
    found = []
    for stage, transfer in zip(stages, _transfers_s(boundaries, len(stages)), strict=True):
        own = {
            "data": stage.data_s,
            "compute": accumulation * (stage.forward.compute_s + stage.backward.compute_s),
            "all_to_all": accumulation * (stage.forward.all_to_all_s + stage.backward.all_to_all_s),
            "tensor_parallel": accumulation
            * (stage.forward.tensor_parallel_s + stage.backward.tensor_parallel_s),
            "stage_wait": 0.0,
            "gradient_reduce": stage.gradient_reduce_s,
            "optimizer": stage.optimizer_s,
            "other": stage.other_s,
        }
        if len(stages) > 1:
            own["stage_wait"] = max(0.0, step_s - sum(own.values()))
        transferred = min(accumulation * transfer, own["stage_wait"])
        found.append(
            StagePhases(
                phases_s=own, transfer_s=transferred, bubble_s=max(0.0, own["stage_wait"] - transferred)
            )
        )
    return tuple(found)


def _overlapped_s(one: Pass) -> float:
    return max(one.compute_s, one.communication_s)


def _transfers_s(boundaries: Sequence[Boundary], num_stages: int) -> list[float]:
    """Of each stage, the hand-overs of one micro-batch at its two ends, both ways."""
    seconds = [0.0] * num_stages
    for i, boundary in enumerate(boundaries):
        seconds[i] += boundary.both_ways_s
        seconds[i + 1] += boundary.both_ways_s
    return seconds
