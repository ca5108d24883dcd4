"""Sizes that memory-bound operations grow with, by module: elements a rank touches with one micro-batch.

`element_sizes` has what bytes are proportional to, `operation_counts` what the number of operations is.
op_table.yaml has a coefficient for each name here; `python -m benchmarks.count_ops` derives them.
"""

from planner.counts.rank_workload import RankWorkload
from planner.topology.grid import share

# In this order in the table and in reports.
MODULES = ("norms", "rope", "router", "dispatch", "experts", "mlp", "head", "copies", "embedding")
Terms = dict[str, dict[str, float]]


def element_sizes(p: RankWorkload, part: str) -> Terms:
    """Elements by module and name, of one layer ("dense", "moe") or of "embedding", "norm" or "output"."""
    hidden, chunk_head = p.tokens * p.model.hidden_size, p.vocabulary * p.model.hidden_size
    if part == "embedding":
        rotation = float(p.seq_length * p.model.head_dim)
        found = {"embedding": {"hidden": hidden, "weights": chunk_head, "rotation": rotation}}
        if p.tp > 1:
            found["embedding"]["tp_hidden"] = hidden
            found["copies"] = {"tp_once": hidden}  # backward: of the head's input
        return found
    if part == "norm":
        return {"norms": {"normed": hidden, "rows": p.tokens}}
    if part == "output":
        chunks = num_head_chunks(p)
        logits = p.tokens * p.vocabulary
        return {
            "head": {
                "hidden": hidden,
                "logits": logits,
                # The gradient of one chunk is the product as it comes; of several, in bf16, products are
                # added to the first.
                "one_weights": chunk_head if chunks == 1 else 0,
                "many_weights": chunk_head if chunks > 1 else 0,
                "added_weights": (chunks - 1) * chunk_head,
            }
        }
    found = _any_layer(p, hidden)
    if part == "dense":
        _add_mlp(found, p, hidden, share(p.model.intermediate_size or 0, p.tp, 0))
    else:
        _add_moe(found, p, hidden)
    return found


def num_head_chunks(p: RankWorkload) -> int:
    """Chunks of tokens that the head cuts a micro-batch into."""
    return -(-p.tokens // p.head_chunk_tokens)


def _any_layer(p: RankWorkload, hidden: float) -> Terms:
    """Two norms, those of queries and keys, RoPE, residual sums."""
    queries, keys = p.tokens * p.q, p.tokens * p.kv
    normed, rows = 2.0 * hidden, 2.0 * p.tokens
    if p.model.qk_norm != "none":
        normed += queries + keys
        is_head = p.model.qk_norm == "head"
        rows += (queries + keys) / p.model.head_dim if is_head else 2 * p.tokens
    found: Terms = {
        "norms": {"normed": normed, "rows": rows, "hidden": 2.0 * hidden},
        "rope": {
            "queries": queries,
            "keys": keys,
            "hidden": hidden,
            "rotation": float(p.seq_length * p.model.head_dim),
        },
        "copies": {"hidden": hidden},
    }
    if p.tp > 1:
        found["copies"]["tp_hidden"] = hidden
    return found


def _add_mlp(found: Terms, p: RankWorkload, hidden: float, width: int) -> None:
    """A dense MLP or shared experts, and the sum of the gradients of their input."""
    is_gated = p.model.expert == "swiglu"
    if p.tp > 1:
        found["copies"]["tp_mlp_hidden"] = hidden
    found["mlp"] = {"gated_inner" if is_gated else "inner": float(p.tokens * width)}
    if is_gated:
        found["mlp"]["gated_hidden"] = hidden


def _add_moe(found: Terms, p: RankWorkload, hidden: float) -> None:
    model, mine = p.model, float(p.share_tokens)
    routes = p.sent
    found["router"] = {
        "hidden": mine * model.hidden_size,
        "scores": mine * model.num_experts,
        "routes": mine * model.num_experts_per_tok,
        "weights": float(model.num_experts * model.hidden_size),
    }
    if p.tp > 1:
        found["router"] |= {"tp_hidden": hidden, "tp_scores": float(p.tokens * model.num_experts)}
        found["copies"]["tp_moe_hidden"] = hidden
    if p.ep > 1:
        found["dispatch"] = _exchanged(p, mine)
    else:
        found["dispatch"] = {
            "rows": float(routes * model.hidden_size),
            "hidden": mine * model.hidden_size,
            "routes": float(routes),
        }
        if model.num_experts_per_tok > 1:
            found["dispatch"]["summed_rows"] = float(routes * model.hidden_size)
    inner = float(p.computed * model.moe_intermediate_size)
    found["experts"] = {"gated_inner" if model.expert == "swiglu" else "inner": inner}
    if model.num_shared_experts:
        found["copies"]["shared_hidden"] = hidden
        width = model.num_shared_experts * model.moe_intermediate_size
        _add_mlp(found, p, hidden, share(width, p.tp, 0))


def _exchanged(p: RankWorkload, tokens: float) -> dict[str, float]:
    """Of rows between ranks (model/expert_exchange.py). exchanged_rows: copies, and rows that they are summed
    to; several_rows: of the latter those with more than one copy; turn_rows: copies beyond the first."""
    model = p.model
    turns = [(float(p.share_tokens), max(0.0, float(p.sent_rows - p.share_tokens)))]
    exchanged = float(p.sent_rows + p.share_tokens)
    if model.num_experts_per_tok == 1:  # in fewer operations, without a table of ranks and tokens
        found = {"single_routes": float(p.sent + p.received)}
    else:
        found = {"rank_tokens": tokens * p.ep, "ep_routes": float(p.sent + p.received)}
    if model.num_experts > p.ep:
        exchanged += float(p.received_rows + p.received)
        turns.append((float(p.received_rows), float(p.received - p.received_rows)))
        if model.num_experts_per_tok > 1:
            found["sorted_routes"] = float(p.received)
    found["exchanged_rows"] = exchanged * model.hidden_size
    found["turn_rows"] = sum(more for _, more in turns) * model.hidden_size
    found["several_rows"] = sum(min(rows, more) for rows, more in turns) * model.hidden_size
    return found


def operation_counts(p: RankWorkload, part: str) -> Terms:
    """By module and name, how often something is done that a number of operations belongs to."""
    model = p.model
    if part == "embedding":
        once = {"each": 1.0, "tp": float(p.tp > 1)}
        return {"embedding": once, "copies": {"tp_once": float(p.tp > 1)}}
    if part == "norm":
        return {"norms": {"each": 1.0}}
    if part == "output":
        return {
            "head": {
                "each": 1.0,
                "chunks": float(num_head_chunks(p)),
                "many": float(num_head_chunks(p) > 1),
                "tp": float(p.tp > 1),
            }
        }
    norms = 2.0 + (2.0 if model.qk_norm != "none" else 0.0)
    tp, gated = float(p.tp > 1), float(model.expert == "swiglu")
    found: Terms = {
        "norms": {"each": norms, "residual": 2.0},
        "rope": {"each": 1.0, "tp": tp},
        "copies": {"each": 1.0, "tp": tp},
    }
    if part == "dense":
        found["mlp"] = {"each": 1.0, "gated": gated}
        found["copies"]["tp_mlp"] = tp
        return found
    many = float(model.num_experts_per_tok > 1)
    ep, sorts = float(p.ep > 1), float(1 < p.ep < model.num_experts)
    turns = min(model.num_experts_per_tok, p.ep) - 1 if ep else 0
    turns += min(model.num_experts_per_tok, model.num_experts // p.ep) - 1 if sorts else 0
    found["router"] = {"each": 1.0, "many": many, "tp": tp}
    found["dispatch"] = {"ep": ep * many, "ep_single": ep * (1 - many), "sorts": sorts, "turns": float(turns)}
    if not ep:
        found["dispatch"] = {"each": 1.0, "many": many}
    found["experts"] = {"each": 1.0, "gated": gated}
    found["copies"]["tp_moe"] = tp
    if model.num_shared_experts:
        found["mlp"] = {"each": 1.0, "gated": gated}
        found["copies"] |= {"shared": 1.0, "tp_mlp": tp}
    return found
