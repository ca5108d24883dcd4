"""How many operations a rank issues beside and with its products, and the bytes that they move.

Counted, not fitted: a dispatch mode over the model and over an engine of DeepSpeed 0.19.8 (torch 2.13, CPU,
November 2026) saw every operation that is no view, with the bytes of its inputs and outputs; the bytes are
sums of a few terms that hold within 3 % over twelve shapes. Another version of torch moves them a little.
"""

from dataclasses import dataclass

from planner.counts.rank_workload import RankWorkload
from planner.strategy.schema import ModelShape


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Operations issued, and bytes moved by the memory-bound ones.

    fresh_bytes: of them, those written to memory that was not there before.
    """

    operations: float
    num_bytes: float
    fresh_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Of one MoE layer: operations, and bytes for each element of [tokens, hidden], of the routes' rows
    [routes, hidden], of their inner rows [routes, inner] (mlp, swiglu), of the scores, for each route."""

    operations: int
    hidden: float
    rows: float
    inner: tuple[float, float]
    scores: float
    route: float
    ep: tuple[int, float]  # more operations, and bytes an element of the rows, where experts are elsewhere
    tp: tuple[int, float]  # more operations, and bytes an element of [tokens, hidden], under tp


_FP32 = (
    _Layer(
        operations=71,
        hidden=154,
        rows=25,
        inner=(8.7, 20.7),
        scores=42,
        route=320,
        ep=(16, 34),
        tp=(6, 37),
    ),
    _Layer(
        operations=87,
        hidden=346,
        rows=45,
        inner=(12.7, 52.7),
        scores=80,
        route=194,
        ep=(4, 32),
        tp=(6, 37),
    ),
)
_BF16 = (
    _Layer(
        operations=79,
        hidden=131,
        rows=25,
        inner=(4.8, 10.8),
        scores=45,
        route=304,
        ep=(16, 18),
        tp=(7, 25),
    ),
    _Layer(
        operations=96,
        hidden=285,
        rows=47,
        inner=(6.5, 26.5),
        scores=84,
        route=178,
        ep=(4, 16),
        tp=(6, 19),
    ),
)
# Of `hidden`, the part that belongs to heads, which tp splits: rotary embedding of queries and keys, copies.
_HEADS_SHARE = 0.47
# A dense layer against an MoE layer of the same width, whose router and dispatch it lacks: 29 of 71.
_DENSE_SHARE = 0.41
# glibc takes memory for anything this large from the system, and gives it back, each time (mallopt(3),
# M_MMAP_THRESHOLD: at most 32 MiB on 64-bit machines).
_MAPPED_BYTES = 32 * 2**20
_CHUNK_OPERATIONS = 35  # of the head, in each chunk of tokens; forward makes the gradients too


def layers(p: RankWorkload, num_dense: int, num_moe: int, *, is_backward: bool) -> Traffic:
    """One pass of one micro-batch through the layers of a stage."""
    one = (_BF16 if p.element_bytes == 2 else _FP32)[is_backward]
    model, elements = p.model, p.tokens * p.model.hidden_size
    hidden = one.hidden * elements * (1 - _HEADS_SHARE + _HEADS_SHARE / p.tp)
    operations = float(one.operations)
    if p.tp > 1:
        operations += one.tp[0]
        hidden += one.tp[1] * elements
    dense_width = (model.intermediate_size or 0) / p.tp
    inner = one.inner[model.expert == "swiglu"]
    dense = num_dense * (hidden + inner * p.tokens * dense_width)
    rows = p.sent * model.hidden_size
    routed = one.rows * rows + inner * p.computed * model.moe_intermediate_size + one.route * p.sent
    if p.ep > 1:
        routed += one.ep[1] * p.received * model.hidden_size
    shared = model.num_shared_experts * inner * p.tokens * model.moe_intermediate_size / p.tp
    moe = num_moe * (hidden + routed + shared + one.scores * p.tokens * model.num_experts)
    issued = num_dense * operations * _DENSE_SHARE + num_moe * (operations + (one.ep[0] if p.ep > 1 else 0))
    return Traffic(operations=issued, num_bytes=dense + moe)


def embedding(p: RankWorkload, *, is_backward: bool) -> Traffic:
    """The lookup, and what is made once a micro-batch (masks, rotations)."""
    elements, table = p.tokens * p.model.hidden_size, p.vocabulary * p.model.hidden_size
    split = 8 if p.tp > 1 else 0
    if is_backward:
        return Traffic(
            operations=4 + split / 2, num_bytes=p.element_bytes * (2 * elements + table)
        )  # a dense gradient
    return Traffic(operations=14 + split, num_bytes=(2 + split) * p.element_bytes * elements)


def output(p: RankWorkload, *, is_backward: bool) -> Traffic:
    """Final norm, aggregation, head and loss; the head's gradients are made in the forward pass."""
    elements = p.tokens * p.model.hidden_size
    logits = p.tokens * p.vocabulary
    head = p.vocabulary * p.model.hidden_size
    wide = p.element_bytes == 2
    if is_backward:
        return Traffic(operations=20, num_bytes=105 * elements + 14 * head)
    operations = 20 + _CHUNK_OPERATIONS * chunks(p)
    num_bytes = 40 * elements + (56 if wide else 44) * logits + (21 if wide else 14) * head * chunks(p)
    return Traffic(operations=operations, num_bytes=num_bytes)


def chunks(p: RankWorkload) -> int:
    """Into how many chunks of tokens the head cuts a micro-batch."""
    return -(-p.tokens // p.head_chunk_tokens)


def reduction(zero_stage: int, num_tensors: int, num_elements: float, *, is_bf16: bool) -> Traffic:
    """What DeepSpeed does to gradients around one reduction: flatten, scale, copy.

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


def update(zero_stage: int, num_tensors: int, groups: tuple[float, ...], *, is_fused: bool) -> Traffic:
    """Norm, clipping, AdamW and the copy to the weights of what one rank updates.

    On a CPU AdamW is not fused (plan.ds_config) and passes over its state again and again; fused it reads
    and writes each of them once. Not fused it makes two tensors of each group's size, the denominator twice.

    Args:
        groups: elements of each flat group that the rank updates.
    """
    num_elements = sum(groups)
    if is_fused:
        return Traffic(operations=100 + 5 * num_tensors, num_bytes=56 * num_elements)
    if zero_stage == 0:
        return Traffic(operations=12 + 15.8 * num_tensors, num_bytes=95 * num_elements)
    fresh = sum(2 * mapped(4 * group) for group in groups)
    return Traffic(operations=100 + 5 * num_tensors, num_bytes=115 * num_elements, fresh_bytes=fresh)


def mapped(num_bytes: float) -> float:
    """Bytes that come fresh from the system with a tensor of so many: all of a large one, none of others."""
    return num_bytes if num_bytes >= _MAPPED_BYTES else 0.0


OTHER_OPERATIONS = 20  # sums over the world, counts of tokens
DATA_OPERATIONS = 50  # reading rows and making tensors of them


def operation_bytes(model: ModelShape, tokens: int) -> float:
    """What a usual operation moves: it reads two tensors of [tokens, hidden] and writes one, in fp32."""
    return 12.0 * tokens * model.hidden_size
