"""Oracle of runtime.force_routing: tokens one after the other, experts dealt out from queues."""

from collections import deque
from fractions import Fraction
from math import ceil

from planner import Strategy


def experts_of(strategy: Strategy, step: int) -> list[list[int]] | None:
    """The experts of every token of the global batch of step `step` (from 1), by the definitions of
    docs/how-to/forced-routing.md; None where the routers choose."""
    forced = strategy.runtime.force_routing
    if forced is None:
        return None
    num_experts, top_k, seed = (
        strategy.model.num_experts,
        strategy.model.num_experts_per_tok,
        strategy.training.seed,
    )
    num_tokens = strategy.training.global_batch * strategy.training.seq_length
    ep = forced.ep or strategy.parallel.ep
    local = num_experts // ep
    hot: deque[int] = deque()
    order = list(range(num_experts))
    skipped: list[int] = []
    shift = seed + step
    if forced.kind in ("hot_expert", "burst"):
        hot.append(seed % num_experts)
    elif forced.kind == "rotating":
        hot.append((seed + step) % num_experts)
    elif forced.kind == "hot_rank":
        hot.extend(seed % ep * local + i for i in range(local))
    elif forced.kind == "empty_rank":
        skipped = [seed % ep * local + i for i in range(local)]
    elif forced.kind == "spread":
        order = [rank * local + i for i in range(local) for rank in range(ep)]
    if forced.kind == "burst":
        shift = -(seed + step) % num_tokens
    left_out = [*hot, *skipped]
    if left_out:  # the others in turn, beginning behind those
        order = [(left_out[-1] + 1 + i) % num_experts for i in range(num_experts)]
    rest = deque(expert for expert in order if expert not in left_out)
    ragged = [deque((seed + i) % num_experts for i in range(size)) for size in range(top_k, num_experts + 1)]
    share, credit = Fraction(str(forced.share or 0)), Fraction(0)

    found = []
    for number in range(shift + num_tokens):
        if forced.kind == "ragged":
            found.append(_deal(ragged[number % len(ragged)], top_k))
            continue
        credit += share
        is_favored = credit >= 1
        credit -= is_favored
        if forced.kind == "burst":
            is_favored = number % num_tokens < ceil(share * num_tokens)
        mine = _deal(hot, min(top_k, len(hot))) if is_favored else []
        found.append(mine + _deal(rest, top_k - len(mine)))
    return found[shift:]


def _deal(queue: deque[int], count: int) -> list[int]:
    dealt = []
    for _ in range(count):
        dealt.append(queue[0])
        queue.rotate(-1)
    return dealt
