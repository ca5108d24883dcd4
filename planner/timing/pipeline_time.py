"""Pipeline schedule (1F1B) in seconds: a step's bracket from what each stage is busy with.

Stages work one micro-batch forward, one backward, in turn (1F1B): with m micro-batches a step takes the way
of one micro-batch through all stages and back, and m - 1 times what the slowest of them takes for one more.

full overlap  communication runs beside computation, also the gradients' reduction
expected      inside a stage nothing overlaps but what runtime.overlap_* names; a transfer to the next
              stage runs beside the sender's next micro-batch, and a narrow stage works in chunks: one
              crosses while it computes another
no overlap    a stage also waits while it sends and receives, and a micro-batch crosses in one piece
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.timing.boundary_time import Boundary
from planner.timing.layer_time import PassTime
from planner.timing.stage_time import StageTime


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """Seconds of one step."""

    full_overlap_s: float
    expected_s: float
    no_overlap_s: float


def step_bracket(
    stages: Sequence[StageTime], boundaries: Sequence[Boundary], accumulation: int, replays: float = 0.0
) -> Bracket:
    """The step's time, from everything overlapped to nothing; `boundaries[i]` is behind `stages[i]`.

    `replays`: micro-batches that are computed once more, when the others are done.
    """
    more = accumulation - 1
    busy = [stage.micro_batch.total_s for stage in stages]
    hidden = [_overlapped_s(stage.forward) + _overlapped_s(stage.backward) for stage in stages]
    once = sum(boundary.both_ways_s for boundary in boundaries)
    widest = max((boundary.transfer_s for boundary in boundaries), default=0.0)
    waiting = [b + x for b, x in zip(busy, _transfers_s(boundaries, len(stages)), strict=True)]
    ideal = max(
        sum(hidden) + more * max(hidden),
        accumulation * widest,
        *(
            accumulation * (stage.forward.communication_s + stage.backward.communication_s)
            + stage.gradient_reduce_s
            for stage in stages
        ),
    )
    after = max(stage.after_s for stage in stages)
    return Bracket(
        full_overlap_s=ideal + max(stage.optimizer_s for stage in stages) + replays * sum(hidden),
        expected_s=expected_step_s(stages, boundaries, accumulation, replays),
        no_overlap_s=(1 + replays) * (sum(busy) + once) + more * max(waiting) + after,
    )


def expected_step_s(
    stages: Sequence[StageTime], boundaries: Sequence[Boundary], accumulation: int, replays: float = 0.0
) -> float:
    """The expected time alone, which is all that a search asks for."""
    busy = [stage.micro_batch.total_s for stage in stages]
    later = [stage.later_s for stage in stages]
    after = max([stage.exposed_after_s for stage in stages])
    if not boundaries:
        return (1 + replays) * busy[0] + (accumulation - 1) * later[0] + after
    once = sum([boundary.both_ways_s for boundary in boundaries])
    widest = max([boundary.transfer_s for boundary in boundaries])
    chunked = sum([_chunked_s(stages, boundaries, is_backward=b) for b in (False, True)])
    first = sum(busy) + once - chunked
    return (1 + replays) * first + (accumulation - 1) * max(*later, widest) + after


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

    stage_wait is transfer (the stage's own P2P) and bubble (waiting for other stages).
    """

    phases_s: dict[str, float]
    transfer_s: float
    bubble_s: float

    def share(self, *names: str) -> float:
        whole = sum(self.phases_s.values())
        return sum(self.phases_s[name] for name in names) / whole if whole else 0.0


def stage_phases(
    stages: Sequence[StageTime],
    boundaries: Sequence[Boundary],
    accumulation: int,
    step_s: float,
    replays: float = 0.0,
) -> tuple[StagePhases, ...]:
    """The phases of each stage in a step of `step_s` seconds."""
    found = []
    passes = accumulation + replays
    for stage, transfer in zip(stages, _transfers_s(boundaries, len(stages)), strict=True):
        own = {
            "data": stage.data_s,
            "compute": passes * (stage.forward.compute_s + stage.backward.compute_s),
            "all_to_all": passes * (stage.forward.all_to_all_s + stage.backward.all_to_all_s)
            - (accumulation - 1) * stage.all_to_all_hidden_s,
            "tensor_parallel": passes * (stage.forward.tensor_parallel_s + stage.backward.tensor_parallel_s),
            "stage_wait": 0.0,
            "gradient_reduce": stage.gradient_reduce_s - stage.reduce_hidden_s,
            "optimizer": stage.optimizer_s,
            "other": stage.other_s,
        }
        if len(stages) > 1:
            own["stage_wait"] = max(0.0, step_s - sum(own.values()))
        transferred = min(passes * transfer, own["stage_wait"])
        found.append(
            StagePhases(
                phases_s=own, transfer_s=transferred, bubble_s=max(0.0, own["stage_wait"] - transferred)
            )
        )
    return tuple(found)


def _overlapped_s(one: PassTime) -> float:
    return max(one.compute_s, one.communication_s)


def _transfers_s(boundaries: Sequence[Boundary], num_stages: int) -> list[float]:
    """Of each stage, the transfers of one micro-batch at its two ends, both ways."""
    seconds = [0.0] * num_stages
    for i, boundary in enumerate(boundaries):
        seconds[i] += boundary.both_ways_s
        seconds[i + 1] += boundary.both_ways_s
    return seconds
