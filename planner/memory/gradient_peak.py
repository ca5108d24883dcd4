"""The most that gradients take on a rank before an update: DeepSpeed's reductions, replayed in bytes.

Gradients live in the tensors that autograd makes, in a buffer that collects those of the rank's own
partition, and in an fp32 sum. The reduction bucket is counted apart. A bound from above, never more than one
largest tensor too high; all references are to zero/stage_1_and_2.py of DeepSpeed 0.19.8.
"""

from collections.abc import Iterator

from planner.counts.parameters import ParameterTensor, stage_parameters
from planner.memory.optimizer_state import FP32_BYTES, FlatGroup, groups_of
from planner.plan.ds_config import gradient_dtype, zero_stage
from planner.plan.plan import Plan
from planner.topology.placement import Stage


def gradient_bytes(plan: Plan, stage: Stage, tp_rank: int, places: tuple[int, int], bucket: int) -> int:
    """Peak bytes of gradients, beside the bucket.

    Args:
        places: the rank's place among its data-parallel and its expert-data-parallel peers.
        bucket: elements of DeepSpeed's reduction bucket.
    """
    groups = groups_of(plan, stage, tp_rank)
    zero = zero_stage(plan)
    is_fp32 = plan.strategy.training.precision == "fp32"
    element = FP32_BYTES if is_fp32 else 2
    whole = sum(group.num_elements for group in groups)
    if zero == 0:
        return element * whole
    # From backward's end to its beginning: the order in which autograd makes gradients.
    backward = stage_parameters(plan.strategy.model, stage, tp_rank)[::-1]
    largest = max(tensor.num_elements for tensor in backward)
    # bf16 gradients are added to one flat fp32 partition (line 1262), which stays to the update.
    is_summed = not is_fp32 and gradient_dtype(plan) == "fp32"
    sums = sum(group.partition for group in groups)
    if is_summed and largest <= bucket:  # each leaves before the next is made, whosever it is
        return FP32_BYTES * sums + element * largest
    own = frozenset(name for group in groups for name in _own(group, places[group.is_expert]))
    if is_summed:
        return FP32_BYTES * sums + element * _replay(backward, own, bucket, collects=False)
    # A group's own part is flattened, and made fp32, while all groups' gradients are still there (line 3114).
    # What fills up its partition is a tensor beside them (get_flat_partition).
    collected = sum(tensor.num_elements for tensor in backward if tensor.name in own)
    padding = sum(_padding(group, places[group.is_expert]) for group in groups)
    wider = element if is_fp32 else element + FP32_BYTES
    update = element * (collected + padding) + wider * max(group.partition for group in groups)
    if zero == 1:
        forward = tuple(tensor for group in groups for tensor in group.tensors)
        return max(element * _replay(forward, own, bucket, made_before=True), update)
    # Each micro-batch collects anew while the sum of the earlier ones is kept (line 1040).
    earlier = collected if plan.batch.accumulation > 1 else 0
    return max(element * (earlier + _replay(backward, own, bucket)), update)


def _own(group: FlatGroup, place: int) -> Iterator[str]:
    """The tensors of which a part lies in the partition at `place`; each is collected whole."""
    first, last = place * group.partition, (place + 1) * group.partition
    offset = 0
    for tensor in group.tensors:
        if offset < last and offset + tensor.num_elements > first:
            yield tensor.name
        offset += tensor.num_elements


def _padding(group: FlatGroup, place: int) -> int:
    """Elements of the partition at `place` that no parameter fills."""
    first, last = place * group.partition, (place + 1) * group.partition
    return max(0, last - max(first, group.num_elements))


def _replay(
    tensors: tuple[ParameterTensor, ...],
    own: frozenset[str],
    bucket: int,
    *,
    made_before: bool = False,
    collects: bool = True,
) -> int:
    """Peak elements of gradients outside of the bucket.

    ZeRO 2 sends each through the bucket when it is made; ZeRO 1 (`made_before`) all in the end (line 972).
    What is in the bucket has left its own tensor; one too large for it waits outside (line 1449). Once the
    bucket is reduced, own gradients go on into a buffer for all own gradients, made when the first one
    arrives (line 2177), or with `collects` false into the fp32 sum. Then what was too large stays where it
    was, if it is the rank's own or made before.
    """
    live = peak = sum(tensor.num_elements for tensor in tensors) if made_before else 0
    all_own = sum(tensor.num_elements for tensor in tensors if tensor.name in own)
    is_collecting = False
    waiting: list[ParameterTensor] = []
    filled = 0
    for tensor in (*tensors, None):
        if tensor is not None and not made_before:
            live += tensor.num_elements
            peak = max(peak, live)
        if tensor is None or filled + tensor.num_elements > bucket:
            for reduced in waiting:
                is_own = reduced.name in own
                if is_own and collects and not is_collecting:
                    is_collecting = True
                    live += all_own
                    peak = max(peak, live)
                leaves = collects if is_own else not made_before
                if leaves and reduced.num_elements > bucket:
                    live -= reduced.num_elements
            waiting, filled = [], 0
        if tensor is not None:
            if tensor.num_elements <= bucket:
                live -= tensor.num_elements
            waiting.append(tensor)
            filled += tensor.num_elements
    return peak
