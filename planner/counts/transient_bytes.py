"""Bytes that a module's operations need beside what is kept: tensors that live and die inside one pass.

Upper bounds, read off model/: which tensors are alive at once at the worst operation, and what the caller
holds meanwhile. tests/planner/live holds them to live ranks. Fused kernels (runtime.kernels) have their fp32
values in registers and write nothing but their results.
"""

from planner.counts.rank_workload import RankWorkload

_INDEX = 8  # bytes of an int64
_WIDE = 4  # bytes of fp32
_EAGER_SWIGLU = 5  # inner rows alive at once in backward of act(gate) · up


def attention(p: RankWorkload, *, is_backward: bool) -> int:
    """The block with its norms."""
    a, hidden = p.element_bytes, p.tokens * p.model.hidden_size
    heads = p.tokens * (p.q + 2 * p.kv)
    norms = max(hidden, p.tokens * p.q if p.model.qk_norm != "none" else 0)
    widest = max(p.q, p.model.hidden_size)
    codes = float8(p, p.tokens, widest, p.q * p.model.hidden_size)
    if not is_backward:
        # The residual; a norm's squares and its product; or queries, keys and values as they turn; and the
        # projection's result with its sum over TP and the next residual.
        turned = p.tokens * (p.q + p.kv if p.is_fused else 3 * p.q)
        return a * hidden + max(
            (_wide(p) + a) * norms, a * (heads + turned), 3 * a * hidden, a * (heads + hidden) + codes
        )
    # The residual's gradient, and its sum with the branch's. A norm's backward has four fp32 tensors at once.
    turned = p.tokens * (p.q + p.kv if p.is_fused else 4 * p.q)
    turning = a * (2 * heads + turned) + a * hidden + codes
    return 2 * a * hidden + max((4 * _wide(p) + 2 * a) * norms, turning)


def float8(p: RankWorkload, rows: int, width: int, weights: int) -> int:
    """Of a product of `rows` of `width` elements at most with so many weights: codes and decoded values of
    both, and of the larger what one operation makes beside, a scaled copy or indices (model/float8.py).

    FP8 units take the codes: there the decoded values are not made, and this is an upper bound.
    """
    if not p.is_float8:
        return 0
    a, row_elements = p.element_bytes, rows * width
    return (1 + a) * (row_elements + weights) + (a + _WIDE) * max(row_elements, weights)


def _wide(p: RankWorkload) -> int:
    """Bytes of an fp32 copy of an element, which a fused kernel does not write."""
    return 0 if p.is_fused else _WIDE


def mlp(p: RankWorkload, width: int, *, is_backward: bool) -> int:
    """A dense or shared MLP of local width `width`, with the norm before it."""
    a, hidden = p.element_bytes, p.tokens * p.model.hidden_size
    codes = float8(p, p.tokens, max(width, p.model.hidden_size), width * p.model.hidden_size)
    if not is_backward:
        return a * hidden + max((_wide(p) + a) * hidden, 3 * a * hidden, 2 * a * hidden + codes)
    rows = _inner_gradients(p) * p.tokens * width
    return 2 * a * hidden + max((4 * _wide(p) + 2 * a) * hidden, a * (rows + 2 * hidden) + codes)


def _inner_gradients(p: RankWorkload) -> int:
    """Rows of the inner width alive at once in an MLP's backward; fused: gradients alone."""
    if p.model.expert != "swiglu":
        return 2
    return 3 if p.is_fused else _EAGER_SWIGLU


def moe(p: RankWorkload, *, is_backward: bool) -> int:
    """Norm, router, dispatch, experts, combine."""
    a, hidden = p.element_bytes, p.tokens * p.model.hidden_size
    norm = (4 * _wide(p) + 2 * a if is_backward else _wide(p) + a) * hidden
    steps = _experts_backward(p) if is_backward else _experts_forward(p)
    # Under tp the shares are gathered to whole vectors, and cut from them.
    whole = 2 * a * hidden if p.tp > 1 else 0
    return (1 + is_backward) * a * hidden + whole + max(norm, _router(p), steps)


def _router(p: RankWorkload) -> int:
    """Logits, scores and weights of all experts; under tp the fp32 copy of all tokens. Then the sort by
    expert: routes, their order, and what it needs beside."""
    scores = _WIDE * 5 * p.tokens * p.model.num_experts
    everyone = _WIDE * p.tokens * p.model.hidden_size if p.tp > 1 else 0
    routes = p.tokens * p.model.num_experts_per_tok
    return max(scores + everyone, _INDEX * 6 * routes) + 2 * _WIDE * p.share_tokens * p.model.hidden_size


def _experts_forward(p: RankWorkload) -> int:
    """Sent rows; the received ones, copied for each route, as results and as their sums, of which those of
    several are made in fp32; what came back, summed likewise. Without ep a row a route, summed in fp32."""
    hidden, a = p.model.hidden_size, p.element_bytes
    exchange = a * hidden * (p.sent + p.received) + _one_by_one(p) + _experts_float8(p) + _packed(p)
    if p.ep > 1:
        copied = p.received if p.model.num_experts > p.ep else 0
        several = max(p.received // 2, p.share_tokens) if p.model.num_experts_per_tok > 1 else 0
        exchange += hidden * (a * (2 * p.received_rows + copied) + (a + _WIDE) * several)
        exchange += _INDEX * 7 * p.ep * p.share_tokens
    combined = 0 if p.is_fused else p.share_tokens * p.model.num_experts_per_tok
    combine = hidden * (a * combined + (a + _wide(p)) * p.share_tokens) + a * hidden * p.sent
    return max(exchange, combine) + _INDEX * 4 * max(p.sent, p.received)


def _experts_backward(p: RankWorkload) -> int:
    """Gradients of rows on their way, and of the experts' inner rows beside their activation."""
    hidden, a, model = p.model.hidden_size, p.element_bytes, p.model
    copies = 1 if model.num_experts == p.ep else 2
    moving = a * hidden * (p.sent_rows + copies * p.received) if p.ep > 1 else a * hidden * p.sent
    inner = a * p.computed * model.moe_intermediate_size * _expert_gradients(p)
    return moving + a * hidden * p.computed + inner + _one_by_one(p) + _experts_float8(p) + _packed(p)


def _packed(p: RankWorkload) -> int:
    """Rows as bytes for the network (model/e4m3.py): both ends', a scaled copy or indices, codes apart."""
    if not p.sends_float8 or p.ep == 1:
        return 0
    hidden = p.model.hidden_size
    return (hidden + _WIDE) * (p.sent + p.received) + (_WIDE + 1) * hidden * max(p.sent, p.received)


def _experts_float8(p: RankWorkload) -> int:
    """Of the first product, whose weights are all of a rank's experts'."""
    model = p.model
    inner = model.moe_intermediate_size * (2 if model.expert == "swiglu" else 1)
    weights = model.num_experts // p.ep * inner * model.hidden_size
    return float8(p, p.computed, max(inner, model.hidden_size), weights)


def _expert_gradients(p: RankWorkload) -> int:
    """Of the last product's input, of what it is weighted, of the first product's result; the activation."""
    is_gated = p.model.expert == "swiglu"
    if p.model.dispatch == "deepspeed":
        return _EAGER_SWIGLU if is_gated else 2
    if p.is_fused:
        return _inner_gradients(p)
    return _EAGER_SWIGLU if is_gated else 4


def _one_by_one(p: RankWorkload) -> int:
    """Experts whose rows no grouped kernel takes are computed one by one, and their results joined
    (model/experts.py): sizes that are not multiples of 16 bytes."""
    model, a = p.model, p.element_bytes
    if all(size * a % 16 == 0 for size in (model.hidden_size, model.moe_intermediate_size)):
        return 0
    widest = max(model.hidden_size, model.moe_intermediate_size * (2 if model.expert == "swiglu" else 1))
    return a * p.computed * (widest + model.hidden_size)
