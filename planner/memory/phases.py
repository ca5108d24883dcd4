"""Memory of a rank in each phase of a step by cause: forward, loss, backward, reduction, update, between.

Activations are at their peak when the forward pass ends, gradients when the backward pass does: what fills a
rank is the fullest moment, not the sum of these peaks. Upper bounds, but for weights, masters and moments.
"""

from dataclasses import dataclass, fields

from planner.memory.activations import StageActivations
from planner.memory.gradients import GradientMemory
from planner.memory.optimizer_state import StaticState


@dataclass(frozen=True, kw_only=True)
class PhaseMemory:
    """Bytes by cause at the fullest moment of a phase.

    activations: kept from forward to backward, of all micro-batches in flight, and recomputed. logits: one
    chunk of them, and the gradients that the loss makes at once. temporaries: tensors of the operations at
    work, such as rows on their way to experts. sums: gradients of micro-batches, summed in fp32 until they
    are reduced once (runtime.reduce). p2p_buffers: on their way to and from other stages. buckets:
    DeepSpeed's reduction buffers. saved_copy: what a checkpoint is written from beside training
    (output.async_save), where a rank's memory is the host's. overhead: what the framework takes outside of
    tensors.
    """

    phase: str
    weights: int
    masters: int
    moments: int
    gradients: int = 0
    sums: int = 0
    activations: int = 0
    logits: int = 0
    temporaries: int = 0
    p2p_buffers: int = 0
    buckets: int = 0
    saved_copy: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        return sum(count for _, count in self.by_cause)

    @property
    def by_cause(self) -> tuple[tuple[str, int], ...]:
        return tuple((name, getattr(self, name)) for name in CAUSES)


CAUSES = tuple(field.name for field in fields(PhaseMemory) if field.name != "phase")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Bytes beside the state at one moment; causes as in PhaseMemory."""

    phase: str
    gradients: int = 0
    sums: int = 0
    activations: int = 0
    logits: int = 0
    temporaries: int = 0
    buckets: int = 0

    @property
    def total(self) -> int:
        return self.gradients + self.sums + self.activations + self.logits + self.temporaries + self.buckets


@dataclass(frozen=True, kw_only=True)
class HeldState:
    """What a micro-batch's size does not change: the state, gradients, and the optimizer's own tensors.

    replayed: of a micro-batch that is computed twice, the first pass's gradients, where they are kept in the
    rank's own memory; None: none is computed twice.
    """

    state: StaticState
    gradients: GradientMemory
    update_temporaries: int
    replayed: int | None = None


def step_moments(
    held: HeldState, work: StageActivations, in_flight: int, accumulation: int
) -> tuple[Moment, ...]:
    """The fullest moment of each phase of a step.

    Args:
        in_flight: micro-batches whose activations the stage keeps at most (1F1B).
        accumulation: micro-batches of a step.
    """
    gradients, inputs, first = held.gradients, work.inputs * accumulation, held.replayed or 0
    found: list[Moment] = []
    for count, is_later in _cases(in_flight, accumulation):
        earlier = gradients.between if is_later else 0
        sums = gradients.sums if is_later else 0
        bucket = gradients.bucket_between if is_later else 0
        kept = count * work.kept - work.head_kept + inputs
        found.append(
            Moment(
                phase="forward",
                gradients=earlier,
                sums=sums,
                activations=kept,
                temporaries=work.forward + work.beside,
                buckets=bucket,
            )
        )
        if work.loss:
            logits = work.head_kept + work.loss
            found.append(
                Moment(
                    phase="loss",
                    gradients=earlier,
                    sums=sums,
                    activations=kept,
                    logits=logits,
                    temporaries=work.beside,
                    buckets=bucket,
                )
            )
        found += [
            Moment(
                phase="backward",
                gradients=gradients.at(elements, is_later=is_later) + first,
                sums=gradients.sums,
                activations=(count - 1) * work.kept + kept_of_one + inputs,
                temporaries=temporaries + work.beside,
                buckets=gradients.bucket_backward,
            )
            for kept_of_one, temporaries, elements in work.backward_moments
        ]
    if gradients.sums:  # the last backward pass: no other micro-batch is in flight
        found += [
            Moment(
                phase="backward",
                gradients=gradients.last_backward + first,
                sums=gradients.sums,
                activations=kept_of_one + inputs,
                temporaries=temporaries + work.beside,
                buckets=gradients.bucket_last,
            )
            for kept_of_one, temporaries, _ in work.backward_moments
        ]
    found.append(
        Moment(
            phase="reduction",
            gradients=gradients.reduction + first,
            activations=inputs + work.lasting,
            buckets=gradients.bucket_reduction,
        )
    )
    if held.replayed is not None:
        found += [
            Moment(
                phase="replay",
                gradients=gradients.reduction + gradients.largest + first,
                activations=kept + inputs,
                logits=logits,
                temporaries=temporaries + work.beside,
                buckets=gradients.bucket_reduction,
            )
            for kept, logits, temporaries in _passes(work)
        ]
    found.append(
        Moment(
            phase="update",
            gradients=gradients.update,
            activations=inputs,
            temporaries=held.update_temporaries,
        )
    )
    fullest: dict[str, Moment] = {}
    for moment in found:
        if moment.phase not in fullest or moment.total > fullest[moment.phase].total:
            fullest[moment.phase] = moment
    return tuple(fullest.values())


def most_bytes(
    held: HeldState, work: StageActivations, in_flight: int, accumulation: int, buffers: int
) -> int:
    """The total of the fullest of `step_moments`, with transfer buffers where there are any; for a search."""
    gradients, first = held.gradients, held.replayed or 0
    most = gradients.reduction + first + work.lasting + gradients.bucket_reduction + buffers
    most = max(most, gradients.update + held.update_temporaries)
    beside = max(work.forward, work.head_kept + work.loss if work.loss else 0) - work.head_kept
    for count, is_later in _cases(in_flight, accumulation):
        forward = count * work.kept + beside + work.beside + buffers
        if is_later:
            forward += gradients.between + gradients.sums + gradients.bucket_between
        if is_later or not gradients.grows:
            backward = gradients.at(0, is_later=is_later) + work.backward
        else:
            at = gradients.at
            backward = max([kept + more + at(n, is_later=False) for kept, more, n in work.backward_moments])
        backward += (
            (count - 1) * work.kept
            + work.beside
            + gradients.sums
            + gradients.bucket_backward
            + buffers
            + first
        )
        most = max(most, forward, backward)
    if gradients.sums:
        last = gradients.last_backward + gradients.sums + gradients.bucket_last
        most = max(most, last + work.backward + work.beside + buffers + first)
    if held.replayed is not None:
        held_then = gradients.reduction + gradients.largest + first + gradients.bucket_reduction
        most = max(most, held_then + max(map(sum, _passes(work))) + work.beside + buffers)
    return most + work.inputs * accumulation


def _passes(work: StageActivations) -> list[tuple[int, int, int]]:
    """Activations, logits and temporaries at the fullest moments of one micro-batch, forward and backward."""
    kept = work.kept - work.head_kept
    found = [(kept, 0, work.forward)]
    if work.loss:
        found.append((kept, work.head_kept + work.loss, 0))
    return found + [(kept_of_one, 0, temporaries) for kept_of_one, temporaries, _ in work.backward_moments]


def _cases(in_flight: int, accumulation: int) -> tuple[tuple[int, bool], ...]:
    """How many micro-batches are in flight, and whether gradients of earlier ones are there: at first there
    are none. Where all are in flight at once, all forward passes come before them."""
    if accumulation > in_flight:
        return ((in_flight, True),)
    if accumulation > 1:
        return ((in_flight, False), (in_flight - 1, True))
    return ((1, False),)
