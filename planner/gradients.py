"""The most that gradients take on a rank before an update: DeepSpeed's reductions, replayed in bytes.

Gradients live in the tensors that autograd makes, in a buffer that collects those of the rank's own
partition, and in an fp32 sum. The reduction bucket is counted apart. A bound from above, never more than one
largest tensor too high; all references are to zero/stage_1_and_2.py of DeepSpeed 0.19.8.
"""

from functools import lru_cache

from planner.ds_config import gradient_dtype, zero_stage
from planner.parameters import ParameterTensor
from planner.placement import Stage
from planner.plan import Plan
from planner.state import FP32_BYTES, FlatGroup, groups_of


def gradient_bytes(plan: Plan, stage: Stage, tp_rank: int, places: tuple[int, int], bucket: int) -> int:
    """Peak bytes of gradients, beside the bucket.

    Args:
        places: the rank's place among its data-parallel and its expert-data-parallel peers.
        bucket: elements of DeepSpeed's reduction bucket.
    """
    groups = groups_of(plan, stage, tp_rank)
    is_fp32 = plan.strategy.training.precision == "fp32"
    return _peak(
        groups,
        places,
        bucket,
        zero_stage(plan),
        FP32_BYTES if is_fp32 else 2,
        # bf16 gradients are added to one flat fp32 partition from the first micro-batch on (line 1262).
        not is_fp32 and gradient_dtype(plan) == "fp32",
        plan.batch.accumulation > 1,
    )


@lru_cache(maxsize=4096)
def _peak(
    groups: tuple[FlatGroup, ...],
    places: tuple[int, int],
    bucket: int,
    zero: int,
    element: int,
    has_flat_sum: bool,
    accumulates: bool,
) -> int:
    whole = sum(group.num_elements for group in groups)
    if zero == 0:
        return element * whole
    largest = max(tensor.num_elements for group in groups for tensor in group.tensors)
    mine = [_own(group, places[group.is_expert]) for group in groups]
    own = sum(tensor.num_elements for held in mine for tensor in held)
    if has_flat_sum:
        # A gradient too large for the bucket stays until the end of backward where it is the rank's own.
        oversized = sum(t.num_elements for held in mine for t in held if t.num_elements > bucket)
        sums = sum(group.partition for group in groups)
        return FP32_BYTES * sums + element * (oversized + (0 if oversized else largest))
    # A group's own part is flattened, and made fp32, while all groups' gradients are still there (line 3114).
    wider = element if element == FP32_BYTES else element + FP32_BYTES
    update = element * own + wider * max(group.partition for group in groups)
    if zero == 2:
        # Each micro-batch collects anew while the sum of the earlier ones is kept (line 1040).
        return max(element * (own * (2 if accumulates else 1) + largest), update)
    return max(element * _reduced_at_the_end(groups, mine, bucket), update)


def _own(group: FlatGroup, place: int) -> tuple[ParameterTensor, ...]:
    """The tensors of which a part lies in the partition at `place`; each is collected whole."""
    first, last = place * group.partition, (place + 1) * group.partition
    own, offset = [], 0
    for tensor in group.tensors:
        if offset < last and offset + tensor.num_elements > first:
            own.append(tensor)
        offset += tensor.num_elements
    return tuple(own)


def _reduced_at_the_end(
    groups: tuple[FlatGroup, ...], mine: list[tuple[ParameterTensor, ...]], bucket: int
) -> int:
    """ZeRO 1: all gradients are there, then pass through the bucket in order (line 972).

    What is in the bucket leaves its own tensor; own gradients go on into a buffer for all own gradients,
    made when the first one arrives (line 2177).
    """
    own_names = {tensor.name for held in mine for tensor in held}
    collected = sum(tensor.num_elements for held in mine for tensor in held)
    live = peak = sum(group.num_elements for group in groups)
    is_collecting = False
    waiting: list[ParameterTensor] = []
    filled = 0
    for tensor in [tensor for group in groups for tensor in group.tensors] + [None]:
        if tensor is None or filled + tensor.num_elements > bucket:
            for reduced in waiting:
                if reduced.name in own_names:
                    if not is_collecting:
                        is_collecting = True
                        live += collected
                        peak = max(peak, live)
                    if reduced.num_elements > bucket:
                        live -= reduced.num_elements
            waiting, filled = [], 0
        if tensor is not None:
            if tensor.num_elements <= bucket:
                live -= tensor.num_elements
            waiting.append(tensor)
            filled += tensor.num_elements
    return peak
