"""Rows between the ranks of an EP group: a token goes once to each rank that has one or more of its experts
(model/expert_exchange.py)."""

from functools import lru_cache
from math import comb

from planner.counts.forced_routes import ForcedRoutes

_MAX_TOKENS = 16_384  # of a step; of more, so many in equal blocks are counted
_NUM_BLOCKS = 16


def balanced_ranks(num_experts: int, top_k: int, ep: int) -> float:
    """Ranks that a token is sent to on average, where any `top_k` of the experts are as likely as any others.

    A rank has none of them with probability C(E - E/ep, k) / C(E, k).
    """
    elsewhere = num_experts - num_experts // ep
    return ep * (1 - comb(elsewhere, top_k) / comb(num_experts, top_k))


@lru_cache(maxsize=256)
def forced_ranks(routes: ForcedRoutes, ep: int) -> tuple[float, float]:
    """Ranks that a token of a step is sent to on average; the share of tokens that the fullest rank gets."""
    local = routes.num_experts // ep
    tokens = routes.global_tokens
    num_blocks = 1 if tokens <= _MAX_TOKENS else _NUM_BLOCKS
    length = min(tokens, _MAX_TOKENS) // num_blocks
    to_rank = [0] * ep
    for block in range(num_blocks):
        start = block * tokens // num_blocks
        for token in range(start, start + length):
            for rank in {expert // local for expert in routes.experts_of(token)}:
                to_rank[rank] += 1
    counted = num_blocks * length
    return sum(to_rank) / counted, max(to_rank) / counted
