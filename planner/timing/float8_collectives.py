"""MAX all-reduces of FP8 products that TP splits the sum of: their number and size (model/float8.py).

A row-parallel product has one in the forward pass, for the rows of its input and of its weight; a
column-parallel product one in backward, for those of the output's gradient and the columns of its weight. The
head's are all in the forward pass, where the loss makes its gradients.
"""

from planner.counts.rank_workload import RankWorkload

_MAGNITUDE = 4  # bytes, fp32
Maxima = tuple[tuple[int, int], ...]  # how often, bytes


def layer_maxima(p: RankWorkload, dense: int, moe: int) -> tuple[Maxima, Maxima]:
    """Of the layers, in a forward and in a backward pass."""
    if not p.is_float8 or p.tp == 1:
        return (), ()
    with_mlp = dense + (moe if p.model.num_shared_experts else 0)
    inward = 2 if p.model.expert == "swiglu" else 1
    each = _MAGNITUDE * (p.tokens + p.model.hidden_size)
    return ((dense + moe + with_mlp, each),), ((3 * (dense + moe) + inward * with_mlp, each),)


def attention_maxima(p: RankWorkload, layers: int) -> Maxima:
    """Of the attention of `layers`, in a forward pass."""
    if not p.is_float8 or p.tp == 1:
        return ()
    return ((layers, _MAGNITUDE * (p.tokens + p.model.hidden_size)),)


def output_maxima(p: RankWorkload) -> Maxima:
    """Of aggregation and head."""
    if not p.is_float8 or p.tp == 1:
        return ()
    hidden = p.model.hidden_size
    full, rest = divmod(p.tokens, p.head_chunk_tokens)
    chunks = ((full, _MAGNITUDE * p.head_chunk_tokens), (int(rest > 0), _MAGNITUDE * rest))
    found: Maxima = (*chunks, (1, _MAGNITUDE * hidden))
    if p.model.aggregation == "linear":
        found = (*found, (1, _MAGNITUDE * (p.tokens + hidden)))
    return tuple((times, size) for times, size in found if times)
