"""Bytes of gradients by phase of a step: DeepSpeed's reductions, replayed.

Gradients are in the tensors that autograd makes, in a buffer that collects those of the rank's own
partition, and in an fp32 sum. The reduction bucket holds any one of them (plan.ds_config). Those without
peers are not reduced: they stay where they are, or are added to the sum (runtime/training/lean_zero.py).
Upper bounds; all references are to zero/stage_1_and_2.py of DeepSpeed 0.19.8.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.memory.optimizer_state import ELEMENTS_AT_ONCE, FP32_BYTES, FlatGroup
from planner.plan.ds_config import gradient_dtype, sums_locally, zero_stage
from planner.plan.plan import Plan

# DeepSpeed 0.19.8 without ZeRO flattens gradients in pieces of this many elements (engine.py:151).
_PIECE_ELEMENTS = 500_000_000


@dataclass(frozen=True, kw_only=True)
class GradientMemory:
    """Bytes of a rank's gradients and of DeepSpeed's buffers for them, by phase.

    grows: the first backward pass makes gradients that stay; else a backward pass has `backward` throughout.
    between: kept from one micro-batch to the next. reduction: after the last backward pass. update: while the
    optimizer is given its partition, or steps. bucket_*: of the bucket and the copy of it that is reduced.
    element: bytes of one element. largest: of one tensor. sums: of runtime.reduce once, fp32 sums of all of a
    rank's gradients, from the first backward pass to the last, which reduces them as it adds to them and has
    then last_backward and bucket_last beside them. reduces_in_backward: what is else there after it only
    (runtime.overlap_reduce).
    """

    element: int
    grows: bool
    between: int
    backward: int
    reduction: int
    update: int
    bucket_backward: int
    bucket_between: int
    bucket_reduction: int
    largest: int
    sums: int = 0
    last_backward: int = 0
    bucket_last: int = 0
    reduces_in_backward: bool = False

    def at(self, elements: int, *, is_later: bool) -> int:
        """In a backward pass that has made the gradients of so many elements.

        is_later: those of earlier micro-batches are there; each new one is added to them when it is made.
        """
        if not self.grows:
            return self.backward
        found = self.between + self.largest if is_later else self.element * elements
        return max(found, self.reduction) if self.reduces_in_backward else found


def gradient_memory(
    plan: Plan, groups: Sequence[FlatGroup], places: Sequence[tuple[int, int]], bucket: int
) -> GradientMemory:
    """Of the fullest of some ranks, phase by phase.

    Args:
        places: each rank's place among its data-parallel and its expert-data-parallel peers.
        bucket: elements of DeepSpeed's reduction bucket.
    """
    found = _as_reduced(plan, groups, places, bucket)
    if sums_locally(plan):
        found = _with_sums(found, groups)
    if not plan.strategy.runtime.overlap_reduce or all(group.ranks == 1 for group in groups):
        return found
    # One bucket is filled while the one before is reduced.
    buckets = found.bucket_reduction + found.element * bucket
    if found.sums:
        most = max(found.last_backward, found.reduction + found.largest)
        return replace(found, last_backward=most, bucket_last=buckets, bucket_reduction=buckets)
    return replace(
        found,
        backward=max(found.backward, found.reduction + found.largest),
        bucket_backward=buckets,
        bucket_reduction=buckets,
        reduces_in_backward=True,
    )


def _with_sums(found: GradientMemory, groups: Sequence[FlatGroup]) -> GradientMemory:
    """With runtime.reduce once."""
    # runtime/training/gradient_sums.py: each gradient is added to its sum as soon as it is made, and each sum
    # leaves for the bucket when the last micro-batch's gradient is in it. Without peers the optimizer takes
    # it from where it is.
    alone = FP32_BYTES * sum(group.partition for group in groups if group.ranks == 1)
    return replace(
        found,
        between=0,
        backward=found.largest,
        bucket_backward=0,
        last_backward=found.backward - alone,
        bucket_last=found.bucket_backward,
        sums=FP32_BYTES * sum(group.num_elements for group in groups),
    )


def _as_reduced(
    plan: Plan, groups: Sequence[FlatGroup], places: Sequence[tuple[int, int]], bucket: int
) -> GradientMemory:
    """With nothing kept beside what DeepSpeed reduces."""
    zero, accumulates = zero_stage(plan), plan.batch.accumulation > 1 and not sums_locally(plan)
    is_fp32 = plan.strategy.training.precision == "fp32"
    element = plan.strategy.training.element_bytes
    all_elements = sum(group.num_elements for group in groups)
    largest = max(group.largest for group in groups)
    assert largest <= bucket, f"a bucket of {bucket} elements for a tensor of {largest}"
    shared = [group for group in groups if group.ranks > 1]
    # The bucket, and the copy of it that is reduced.
    in_bucket = sum(group.num_elements for group in shared)
    buckets = element * (bucket + min(in_bucket, bucket)) if shared else 0
    if zero == 0:
        kinds = [
            sum(group.num_elements for group in shared if group.is_expert is kind) for kind in (False, True)
        ]
        shared_largest = max((group.largest for group in shared), default=0)
        return GradientMemory(
            element=element,
            grows=True,
            between=element * all_elements,
            backward=element * all_elements,
            reduction=element * all_elements,
            update=element * all_elements,
            bucket_backward=0,
            bucket_between=0,
            bucket_reduction=element * min(max(kinds), _PIECE_ELEMENTS + shared_largest),
            largest=element * largest,
        )
    if not is_fp32 and gradient_dtype(plan) == "fp32":
        # bf16 gradients are added to one flat fp32 partition (line 1262), which stays to the update. Each
        # leaves for the bucket before the next is made, whosever it is; what is added is made fp32 (1326), a
        # part at a time where there is no bucket.
        sums = FP32_BYTES * sum(group.partition for group in groups)
        buckets += FP32_BYTES * max(
            min(group.largest, group.partition if group.ranks > 1 else ELEMENTS_AT_ONCE) for group in groups
        )
        return GradientMemory(
            element=element,
            grows=False,
            between=sums,
            backward=sums + element * largest,
            reduction=sums,
            update=sums,
            bucket_backward=buckets,
            bucket_between=0,
            bucket_reduction=buckets,
            largest=element * largest,
        )
    owned = [
        sum(tensor.num_elements for group in groups for tensor in group.tensors_of(place[group.is_expert]))
        for place in places
    ]
    padding = [sum(_padding(group, place[group.is_expert]) for group in groups) for place in places]
    # What fills up a partition is a tensor beside the gradients (get_flat_partition).
    update = element * max(own + pad for own, pad in zip(owned, padding, strict=True))
    if zero == 1:
        reductions = _reductions(
            [tensor.num_elements for group in shared for tensor in group.tensors], bucket
        )
        most = max(_peak_of_reductions(shared, place, reductions) for place in places)
        most += all_elements - in_bucket
        return GradientMemory(
            element=element,
            grows=True,
            between=element * all_elements,
            backward=element * all_elements,
            reduction=element * most,
            update=update,
            # The bucket is made at a backward pass's first gradient, and let go of after the reduction.
            bucket_backward=element * bucket if shared else 0,
            bucket_between=element * bucket if shared and accumulates else 0,
            bucket_reduction=buckets,
            largest=element * largest,
        )
    # Once a bucket is reduced, own gradients move into a buffer for all own gradients, made when the first
    # one arrives (line 2177). Each micro-batch collects again while the sum of the earlier ones is kept
    # (line 1040).
    collected = element * max(owned)
    backward = (2 if accumulates else 1) * collected + element * largest
    return GradientMemory(
        element=element,
        grows=False,
        between=collected,
        backward=backward,
        reduction=backward + element * max(padding),
        update=update,
        bucket_backward=buckets,
        bucket_between=0,
        bucket_reduction=buckets,
        largest=element * largest,
    )


def _reductions(sizes: Sequence[int], bucket: int) -> list[tuple[int, int]]:
    """When ZeRO 1 reduces, after backward (line 972): before which tensor, and how many elements have left
    their own tensors for the bucket by then."""
    found, in_bucket, filled = [], 0, 0
    for i, size in enumerate(sizes):
        if filled + size > bucket:
            found.append((i, in_bucket))
            filled = 0
        in_bucket += size
        filled += size
    return [*found, (len(sizes), in_bucket)]


def _peak_of_reductions(
    groups: Sequence[FlatGroup], place: tuple[int, int], reductions: Sequence[tuple[int, int]]
) -> int:
    """Peak elements of what ZeRO 1 reduces: all gradients, or what is left of them when the buffer for the
    rank's own is made, at the first reduction that has one of them (line 2177). From then on they only leave.
    """
    collected = sum(
        tensor.num_elements for group in groups for tensor in group.tensors_of(place[group.is_expert])
    )
    whole = sum(group.num_elements for group in groups)
    before, firsts = 0, []
    for group in groups:
        if group.tensors_of(place[group.is_expert]):
            firsts.append(before + group.first_tensor_of(place[group.is_expert]))
            break
        before += len(group.tensors)
    if not firsts:
        return whole
    _, in_bucket = next(each for each in reductions if each[0] > firsts[0])
    return max(whole, whole - in_bucket + collected)


def _padding(group: FlatGroup, place: int) -> int:
    """Elements of the partition at `place` that no parameter fills."""
    first, last = place * group.partition, (place + 1) * group.partition
    return max(0, last - max(first, group.num_elements))
