"""Activation memory: bytes that each module keeps from forward to backward, as autograd saves its tensors.

A tensor that two modules keep is counted once, where it is made or first kept. tests/planner/live/
test_module_flops.py compares these sums with what autograd saves. Fused kernels (runtime.kernels) keep their
inputs alone (model/fused.py).
"""

from planner.counts.rank_workload import RankWorkload

_INDEX = 8  # bytes of an int64
_WIDE = 4  # bytes of fp32, in which norms and the router compute, and of an int32


def norm(p: RankWorkload, tokens: int, width: int, num_norms: int = 1) -> int:
    """The fp32 input, the normalised vector and one factor a norm; its output belongs to who keeps it.

    Fused: the input as it is.
    """
    if p.is_fused:
        return tokens * width * p.element_bytes
    return tokens * (width * (_WIDE + p.element_bytes) + _WIDE * num_norms)


def layer_norms(p: RankWorkload) -> int:
    """Both norms of a layer, and those of queries and keys."""
    return 2 * norm(p, p.tokens, p.model.hidden_size) + query_key_norms(p)


def query_key_norms(p: RankWorkload) -> int:
    model, tokens = p.model, p.tokens
    if model.qk_norm == "head":
        return norm(p, tokens, p.q, p.heads) + norm(p, tokens, p.kv, p.kv // model.head_dim)
    if model.qk_norm == "projection":
        return norm(p, tokens, p.q) + norm(p, tokens, p.kv)
    return 0


def projections(p: RankWorkload) -> int:
    """The input of queries, keys and values; the output projection's is attention's result."""
    return p.element_bytes * p.tokens * p.model.hidden_size


def attention(p: RankWorkload) -> int:
    """Turned queries and keys, values, the result, one logsumexp a head: what fused attention keeps.

    Results of single documents are kept beside the result that they are joined to.
    """
    results = 2 if p.joins_documents else 1
    return p.tokens * (p.element_bytes * ((1 + results) * p.q + 2 * p.kv) + _WIDE * p.heads)


def rotation(p: RankWorkload) -> int:
    """Cosine and sine, which all layers of a stage share; and all sequences, unless they pack documents or
    the kernel is fused."""
    num_positions = p.tokens if p.packs_documents or p.is_fused else p.seq_length
    return 2 * p.element_bytes * num_positions * p.model.head_dim


def router(p: RankWorkload) -> int:
    """The fp32 input and weight, logits, scores, the balance loss's cost, the chosen experts, and what gates
    are normalized from; the experts keep the gates. Fused: without the last, and without one sum a token.
    """
    model, u = p.model, p.share_tokens
    kept = _WIDE * u * model.hidden_size
    if p.element_bytes != _WIDE:
        kept += _WIDE * model.num_experts * model.hidden_size
    kept += _WIDE * model.num_experts * (2 * u + p.tokens)
    kept += _INDEX * p.tokens * model.num_experts_per_tok
    if p.is_fused:
        return kept
    kept += _WIDE * u
    if model.normalizes_gates:
        kept += _WIDE * u * (1 + model.num_experts_per_tok)
    return kept


def dispatch(p: RankWorkload) -> int:
    """The numbers by which rows are sorted there and back."""
    model, a = p.model, p.element_bytes
    if model.dispatch == "deepspeed":
        # The input, and three [tokens, experts, capacity] tensors: combine weights in fp32 and as cast, mask.
        dense = p.tokens * model.num_experts * p.stock_capacity
        return a * model.hidden_size * (p.tokens + p.sent) + dense * (_WIDE + 2 * a)
    return row_order(p)


def routing_replay(p: RankWorkload) -> int:
    """What a second pass over a layer replays, beside `row_order`: the chosen experts of all tokens; with a
    capacity which of them are kept."""
    routes = p.tokens * p.model.num_experts_per_tok
    return (_INDEX + (p.model.dispatch == "capacity")) * routes


def row_order(p: RankWorkload) -> int:
    """Of `dispatch`, which row is which route, which the functions that move rows hold until their graph is
    gone. Under ep: routes in order of rank; of rows sent the token, and which are summed; the same of routes
    received, their order and gates (model/expert_exchange.py)."""
    if p.model.dispatch == "deepspeed":
        return 0
    if p.ep > 1:
        local, routes = p.model.num_experts // p.ep, p.share_tokens * p.model.num_experts_per_tok
        indices = routes + 2 * (p.sent_rows + 1) + 2 * p.share_tokens + p.received + local
        if local > 1:
            indices += 2 * p.received + 2 * p.received_rows
        return _INDEX * indices + _WIDE * p.received
    return _INDEX * (2 * p.share_tokens * p.model.num_experts_per_tok + p.model.num_experts)


def experts(p: RankWorkload) -> int:
    """Every expert's input and gates, what its first product makes of them, the input of its last one.

    Backward makes the activation again (model/expert_activation.py); DeepSpeed's dispatch keeps it.
    """
    model = p.model
    inner = 3 if model.expert == "swiglu" else 2  # gate and up are one tensor of twice the size
    if model.dispatch == "deepspeed":
        if model.expert == "swiglu":
            inner = 4
        elif model.hidden_act == "relu":
            inner = 1  # relu keeps its result, which the product keeps too
    return expert_rows(p) + p.element_bytes * p.computed * inner * model.moe_intermediate_size


def expert_rows(p: RankWorkload) -> int:
    """Of `experts`, the inputs and gates alone, and where each one's rows end."""
    gates = 0 if p.model.dispatch == "deepspeed" else _WIDE * p.computed
    rows = p.element_bytes * p.computed * p.model.hidden_size
    return rows + gates + _WIDE * (p.model.num_experts // p.ep)


def mlp(p: RankWorkload, width: int, *, keeps_input: bool) -> int:
    """A dense or shared MLP of local width `width`."""
    is_relu = p.model.hidden_act == "relu"
    if p.model.expert == "swiglu":
        inner = 3 if is_relu or p.is_fused else 4
    else:
        inner = 1 if is_relu else 2
    return p.element_bytes * p.tokens * (inner * width + keeps_input * p.model.hidden_size)


def shared_keeps_input(p: RankWorkload) -> bool:
    """Whether shared experts keep their input beside the router's fp32 copy or share of it."""
    return p.element_bytes != _WIDE or p.tp > 1


def embedding(p: RankWorkload) -> int:
    """The token ids; under tp also which of them are another rank's."""
    return p.tokens * (_INDEX + (p.tp > 1))


def aggregation(p: RankWorkload) -> int:
    """Its share of the final norm's output."""
    return p.element_bytes * p.tokens * -(-p.model.hidden_size // p.tp)


def head(p: RankWorkload) -> int:
    """The gradients of its input and of its weight, which the loss makes in the forward pass."""
    return p.element_bytes * p.tokens * p.model.hidden_size + head_weight(p, p.tokens)


def head_weight(p: RankWorkload, tokens: int) -> int:
    """Of `head`, the gradient of the weight from one call with so many tokens: fp32, but for a product of one
    chunk."""
    element = p.element_bytes if tokens <= p.head_chunk_tokens else _WIDE
    return element * p.vocabulary * p.model.hidden_size
