"""The most that gradients take on a rank before an update: DeepSpeed's reductions, replayed in bytes.

Gradients live in the tensors that autograd makes, in a buffer that collects those of the rank's own
partition, and in an fp32 sum. The reduction bucket is counted apart. A bound from above, never more than one
largest tensor too high; all references are to zero/stage_1_and_2.py of DeepSpeed 0.19.8.
"""

from collections.abc import Sequence

from planner.counts.parameters import ParameterTensor, stage_parameters
from planner.memory.optimizer_state import FP32_BYTES, FlatGroup
from planner.plan.ds_config import gradient_dtype, zero_stage
from planner.plan.plan import Plan
from planner.topology.placement import Stage


def gradient_bytes(
    plan: Plan,
    stage: Stage,
    groups: Sequence[FlatGroup],
    tp_rank: int,
    places: Sequence[tuple[int, int]],
    bucket: int,
) -> int:
    """Peak bytes of gradients, beside the bucket, of the fullest of some ranks.

    Args:
        groups: those of their place in the TP group, `tp_rank`.
        places: each rank's place among its data-parallel and its expert-data-parallel peers.
        bucket: elements of DeepSpeed's reduction bucket.
    """
    zero = zero_stage(plan)
    is_fp32 = plan.strategy.training.precision == "fp32"
    element = plan.strategy.training.element_bytes
    if zero == 0:
        return element * sum(group.num_elements for group in groups)
    # bf16 gradients are added to one flat fp32 partition (line 1262), which stays to the update.
    is_summed = not is_fp32 and gradient_dtype(plan) == "fp32"
    sums = sum(group.partition for group in groups)
    if is_summed:
        largest = max(group.largest for group in groups)
        if largest <= bucket:  # each leaves before the next is made, whosever it is
            return FP32_BYTES * sums + element * largest
    # Each micro-batch collects again while the sum of the earlier ones is kept (line 1040).
    keeps_earlier = zero == 2 and plan.batch.accumulation > 1
    if is_summed or zero == 2:
        # From backward's end to its beginning: the order in which autograd makes gradients.
        backward = stage_parameters(plan.strategy.model, stage, tp_rank)[::-1]
    else:
        reductions = _reductions(
            [tensor.num_elements for group in groups for tensor in group.tensors], bucket
        )
    peak = 0
    for place in places:
        owned = [tensor for group in groups for tensor in group.tensors_of(place[group.is_expert])]
        if is_summed:
            found = FP32_BYTES * sums + element * _replay(backward, owned, bucket, collects=False)
        else:
            # A group's own part is flattened, and made fp32, while all groups' gradients are still there
            # (line 3114). What fills up its partition is a tensor beside them (get_flat_partition).
            collected = sum(tensor.num_elements for tensor in owned)
            padding = sum(_padding(group, place[group.is_expert]) for group in groups)
            wider = element if is_fp32 else element + FP32_BYTES
            update = element * (collected + padding) + wider * max(group.partition for group in groups)
            if zero == 1:
                replayed = _peak_of_reductions(groups, place, reductions, collected)
            else:
                replayed = (collected if keeps_earlier else 0) + _replay(backward, owned, bucket)
            found = max(element * replayed, update)
        peak = max(peak, found)
    return peak


def _reductions(sizes: Sequence[int], bucket: int) -> list[tuple[int, int]]:
    """When ZeRO 1 reduces, after backward (line 972): before which tensor, and how many elements have left
    their own tensors for the bucket by then; one too large for it does not."""
    found, in_bucket, filled = [], 0, 0
    for i, size in enumerate(sizes):
        if filled + size > bucket:
            found.append((i, in_bucket))
            filled = 0
        in_bucket += size if size <= bucket else 0
        filled += size
    return [*found, (len(sizes), in_bucket)]


def _peak_of_reductions(
    groups: Sequence[FlatGroup],
    place: tuple[int, int],
    reductions: Sequence[tuple[int, int]],
    collected: int,
) -> int:
    """Peak elements under ZeRO 1: all gradients, or what is left of them when the buffer for the rank's own
    is made, at the first reduction that has one of them (line 2177). From then on they only leave."""
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


def _replay(
    tensors: Sequence[ParameterTensor],
    owned: Sequence[ParameterTensor],
    bucket: int,
    *,
    collects: bool = True,
) -> int:
    """Peak elements of gradients outside of the bucket under ZeRO 2.

    Each goes through the bucket when it is made. What is in the bucket has left its own tensor; one too large
    for it waits outside (line 1449). Once the bucket is reduced, own gradients move into a buffer for all own
    gradients, made when the first one arrives (line 2177), or with `collects` false into the fp32 sum. Then
    an own one that was too large stays where it was.
    """
    own = frozenset(tensor.name for tensor in owned)
    all_own = sum(tensor.num_elements for tensor in owned)
    live = peak = 0
    is_collecting = False
    waiting: list[ParameterTensor] = []
    filled = 0
    for tensor in (*tensors, None):
        if tensor is not None:
            live += tensor.num_elements
            peak = max(peak, live)
        if tensor is None or filled + tensor.num_elements > bucket:
            for reduced in waiting:
                is_own = reduced.name in own
                if is_own and collects and not is_collecting:
                    is_collecting = True
                    live += all_own
                    peak = max(peak, live)
                if (collects or not is_own) and reduced.num_elements > bucket:
                    live -= reduced.num_elements
            waiting, filled = [], 0
        if tensor is not None:
            if tensor.num_elements <= bucket:
                live -= tensor.num_elements
            waiting.append(tensor)
            filled += tensor.num_elements
    return peak
