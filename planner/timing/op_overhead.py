"""Operations that a rank issues beside and with its GEMMs, and the bytes that they move.

Of a micro-batch they come from op_table.yaml, counted on the decoder; with runtime.kernels fused from
fused_ops.py, derived. Around reductions they were counted on an engine of DeepSpeed 0.19.8 (torch 2.13, CPU,
November 2026); of the update they are what runtime/training/fused_update.py reads and writes.
"""

from dataclasses import dataclass

from planner.counts.rank_workload import RankWorkload
from planner.timing import op_sizes
from planner.timing.fused_ops import fused_traffic
from planner.timing.op_table import op_table


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Operations issued, and bytes moved by the memory-bound ones.

    fresh_bytes: of them, those written to memory that was not there before.
    """

    operations: float
    num_bytes: float
    fresh_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModuleTraffic:
    """What a module of op_sizes.MODULES does in one pass of one micro-batch.

    operation_bytes: what a usual one of its operations moves.
    """

    module: str
    operations: float
    num_bytes: float
    operation_bytes: float


def part_traffic(
    p: RankWorkload, part: str, *, is_backward: bool, is_fused: bool = False
) -> tuple[ModuleTraffic, ...]:
    """One pass of one micro-batch through one layer ("dense", "moe"), "embedding", "norm" or "output"."""
    if is_fused:
        return tuple(
            ModuleTraffic(
                module=module,
                operations=operations,
                num_bytes=num_bytes,
                operation_bytes=max(1.0, num_bytes / kernels),
            )
            for module, operations, num_bytes, kernels in fused_traffic(p, part, is_backward=is_backward)
        )
    table, precision = op_table(), "bf16" if p.element_bytes == 2 else "fp32"
    sizes, counts = op_sizes.element_sizes(p, part), op_sizes.operation_counts(p, part)
    found = []
    for module, elements in sizes.items():
        own, times = table.coefficients[precision, module, is_backward], counts[module]
        found.append(
            ModuleTraffic(
                module=module,
                operations=sum([value * times.get(name, 0.0) for name, value in own.operations]),
                num_bytes=sum([value * elements.get(name, 0.0) for name, value in own.num_bytes]),
                operation_bytes=operation_bytes(p, module),
            )
        )
    return tuple(found)


def operation_bytes(p: RankWorkload, module: str) -> float:
    """What a usual operation of a module moves: two tensors of its kind read and one written, in fp32."""
    model = p.model
    elements = {
        "router": p.share_tokens * model.num_experts,
        "dispatch": p.sent * model.hidden_size,
        "experts": p.computed * model.moe_intermediate_size,
        "head": min(p.tokens, p.head_chunk_tokens) * p.vocabulary,
    }
    return 12.0 * elements.get(module, p.tokens * model.hidden_size)


# glibc takes memory for anything this large from the system, and gives it back, each time (mallopt(3),
# M_MMAP_THRESHOLD: at most 32 MiB on 64-bit machines).
_MAPPED_BYTES = 32 * 2**20


def reduction(zero_stage: int, num_tensors: int, num_elements: float, *, is_bf16: bool) -> Traffic:
    """What DeepSpeed does to gradients that have peers around one reduction: flatten, scale, copy.

    Under ZeRO the bucket is allocated again for every reduction (stage_1_and_2.py:1040), however little of it
    is filled; what is reduced is a flat copy of its content.
    """
    element = 2 if is_bf16 else 4
    if zero_stage == 0:
        return Traffic(operations=4 + num_tensors, num_bytes=28 * num_elements)
    fresh = element * num_elements + mapped(element * num_elements)
    if zero_stage == 1:
        return Traffic(
            operations=2 + 2 * num_tensors,
            num_bytes=(22 if is_bf16 else 44) * num_elements,
            fresh_bytes=fresh,
        )
    operations = 2 + (3 if is_bf16 else 1) * num_tensors
    return Traffic(operations=operations, num_bytes=(34 if is_bf16 else 32) * num_elements, fresh_bytes=fresh)


def summation(num_tensors: int, num_elements: float, *, is_bf16: bool) -> Traffic:
    """Adding one micro-batch's gradients to fp32 sums: both read, the sum written; derived, not counted.

    In sums of our own, or in the partition of DeepSpeed's ZeRO 2 where there are no peers to reduce with.
    """
    return Traffic(operations=num_tensors, num_bytes=((2 if is_bf16 else 4) + 8) * num_elements)


def update(
    zero_stage: int, num_tensors: int, num_elements: float, *, is_bf16: bool, moment_bytes: int = 4
) -> Traffic:
    """Norm, clipping, AdamW and the weights of what one rank updates.

    The gradient is read for the norm and for the update; master and moments are read and written. bf16
    weights are written; their gradients are bf16 under ZeRO 1, made fp32 in the cache, and fp32 sums under
    ZeRO 2. What is fp32 already is written back as it is clipped.

    Args:
        num_elements: that the rank updates.
        moment_bytes: of an element of a moment. Less than 4 is derived: each is read and written once.
    """
    gradient = 2 if is_bf16 and zero_stage == 1 else 4
    clipped = 0 if gradient == 2 else 4
    weight = 2 if is_bf16 else 0
    each = 2 * gradient + clipped + 8 + 4 * moment_bytes + weight
    return Traffic(operations=100 + 5 * num_tensors, num_bytes=each * num_elements)


def mapped(num_bytes: float) -> float:
    """Bytes that come fresh from the system with a tensor of so many: all of a large one, none of others."""
    return num_bytes if num_bytes >= _MAPPED_BYTES else 0.0


OTHER_OPERATIONS = 20  # sums over the world, counts of tokens
DATA_OPERATIONS = 50  # reading rows and making tensors of them
