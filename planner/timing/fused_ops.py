"""Bytes of fused kernels (runtime.kernels: fused): each reads its inputs once and writes its outputs once.

Derived, not counted. Kernels: norm; RoPE with q/k norms; scores and gates of the router; permutation and
combine; the expert's activation; cross-entropy on the logits in place. Residual sums are eager. What GEMMs
and attention read and write is in their own time.
"""

from collections.abc import Iterator

from planner.counts.rank_workload import RankWorkload
from planner.timing.op_sizes import num_head_chunks
from planner.topology.grid import share

FUSED_KERNELS = "norm, RoPE + q/k norms, router, permutation, activation, cross-entropy"
_FP32 = 4
_INDEX = 8


def fused_traffic(
    p: RankWorkload, part: str, *, is_backward: bool
) -> Iterator[tuple[str, float, float, float]]:
    """Module, operations issued (GEMMs among them), bytes of its memory-bound kernels, and their number.

    Of one layer ("dense", "moe"), or of "embedding", "norm" or "output".
    """
    a, model = p.element_bytes, p.model
    hidden = float(a * p.tokens * model.hidden_size)
    weights = float(p.vocabulary * model.hidden_size)
    if part == "embedding":  # rows of the table, or rows of gradients and a dense gradient
        yield "embedding", 1, hidden + a * weights if is_backward else 2 * hidden, 1
    elif part == "norm":
        yield "norms", 1, (3 if is_backward else 2) * hidden, 1
    elif part == "output" and is_backward:
        yield "head", 2, 2 * hidden + (_FP32 + a) * weights, 2  # both gradients scaled, one cast
    elif part == "output":
        chunks = num_head_chunks(p)
        logits = float(a * p.tokens * p.vocabulary)
        # The GEMM of the weight's gradient adds to what is there, in fp32: all chunks but the first.
        yield "head", 5 * chunks, 2 * logits + 2 * _FP32 * weights * (chunks - 1), 2 * chunks
    else:
        yield from _layer(p, hidden, is_moe=part == "moe", is_backward=is_backward)


def _layer(
    p: RankWorkload, hidden: float, *, is_moe: bool, is_backward: bool
) -> Iterator[tuple[str, float, float, float]]:
    a, model = p.element_bytes, p.model
    # A norm and a residual sum each: forward x in, y out; two in, one out. Backward x and a gradient in, one
    # out; and the sum of the branches' gradients.
    yield "norms", 4, 2 * (6 if is_backward else 5) * hidden, 4
    heads = float(a * p.tokens * (p.q + p.kv))
    again = 1 if is_backward and model.qk_norm != "none" else 0  # the norm's own input
    yield "rope", 12 if is_backward else 6, (2 + again) * heads, 1
    if not is_moe:
        yield _mlp(p, share(model.intermediate_size or 0, p.tp, 0), is_backward=is_backward)
        return
    mine = float(a * p.share_tokens * model.hidden_size)
    row = float(a * model.hidden_size)
    scores = float(_FP32 * p.share_tokens * model.num_experts)
    # Forward: logits in, scores out, which the top-k reads; the aux loss's weights out and in beside scores.
    # Backward: scores and weights in, a gradient out; logits and it in, one out. The GEMM's input is in fp32.
    wide = (_FP32 + a) * p.share_tokens * model.hidden_size
    yield "router", 8, 6 * scores + wide + (_FP32 + _INDEX) * p.sent, 4 if is_backward else 5
    sorts = 2 if 1 < p.ep < model.num_experts else 0  # rows that arrive, and the results that go back
    moved = 2 * (mine + row * (p.sent_rows if p.ep > 1 else p.sent)) + sorts * row * (
        p.received_rows + p.received
    )
    yield "dispatch", 2 + sorts + (5 if p.ep > 1 else 0), moved, 2 + sorts
    inner = float(a * p.computed * model.moe_intermediate_size)
    yield "experts", 5 if is_backward else 3, _activation(p, is_backward=is_backward) * inner, 1
    if model.num_shared_experts:
        width = share(model.num_shared_experts * model.moe_intermediate_size, p.tp, 0)
        yield _mlp(p, width, is_backward=is_backward)
        yield "copies", 0, hidden, 1  # the combine reads their result, or the norm their gradient


def _mlp(p: RankWorkload, width: int, *, is_backward: bool) -> tuple[str, float, float, float]:
    inner = float(p.element_bytes * p.tokens * width)
    return "mlp", 7 if is_backward else 4, _activation(p, is_backward=is_backward) * inner, 1


def _activation(p: RankWorkload, *, is_backward: bool) -> int:
    """Tensors of the inner size: forward one or two in, one out; backward one more in, as many out."""
    if p.model.expert == "swiglu":
        return 5 if is_backward else 3
    return 3 if is_backward else 2
