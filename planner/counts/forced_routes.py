"""Routes that runtime.force_routing sets: the experts of each token, and rows by expert, counted exactly.

A token is known by its index in the global batch (sequence · seq_length + position), so that every layout,
and one process, routes it alike. Two pools of experts share the routes: favored tokens have `num_favored`
routes to the first, and every other route goes to the second. Each pool is dealt out in turn, so that any run
of consecutive tokens loads the experts of a pool equally, but for one row.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from planner.strategy.force_routing import RANK_KINDS
from planner.strategy.schema import Strategy

SHARE_PARTS = 10**6  # a share is rounded to so many parts
_SHIFT_MODULUS = 10**9  # keeps token numbers times SHARE_PARTS within 64 bits


@dataclass(frozen=True, kw_only=True)
class ForcedRoutes:
    """The routes of one step. First pool: `pool_size` experts from `pool_first` on; second: all others.

    shift: added to a token's index, so that steps and seeds differ. num_favored: routes of a favored token
    to the first pool. share_parts: favored tokens of SHARE_PARTS. is_burst: they are consecutive. stride: the
    ranks over which consecutive routes are spread; 1: not spread.
    """

    num_experts: int
    top_k: int
    global_tokens: int
    shift: int
    pool_first: int = 0
    pool_size: int = 0
    num_favored: int = 0
    share_parts: int = 0
    is_burst: bool = False
    is_ragged: bool = False
    stride: int = 1

    def experts_of(self, index: Any) -> list[Any]:
        """The top_k experts of a token, all different. `index` is an int, or an integer array of any library,
        and so are the results."""
        token = index + self.shift
        if self.is_ragged:
            # Each class of tokens takes its turn over one expert more than the class before.
            num_classes = self.num_experts - self.top_k + 1
            size, turn = self.top_k + token % num_classes, token // num_classes
            return [self._number((turn * self.top_k + j) % size) for j in range(self.top_k)]
        before = self._favored_before(token)
        is_favored = self._favored_before(token + 1) - before
        first, rest = self.num_favored * before, self.top_k * token - self.num_favored * before
        rest_size = self.num_experts - self.pool_size
        experts = []
        for j in range(self.top_k):
            place = self.pool_size + (rest + j - self.num_favored * is_favored) % rest_size
            if j < self.num_favored:
                place = is_favored * ((first + j) % self.pool_size) + (1 - is_favored) * place
            experts.append(self._number(place))
        return experts

    def rows(self, start: int, stop: int) -> list[int]:
        """Routes to each expert from the tokens `start` to `stop` of the global batch."""
        begin, end = start + self.shift, stop + self.shift
        turns = _Turns(self.num_experts)
        if self.is_ragged:
            num_classes = self.num_experts - self.top_k + 1
            for offset in range(num_classes):
                first, last = ((at - offset + num_classes - 1) // num_classes for at in (begin, end))
                turns.add(0, self.top_k + offset, first * self.top_k, last * self.top_k)
        else:
            first, last = (self.num_favored * self._favored_before(at) for at in (begin, end))
            if self.pool_size and self.num_favored:
                turns.add(0, self.pool_size, first, last)
            rest_size = self.num_experts - self.pool_size
            turns.add(self.pool_size, rest_size, self.top_k * begin - first, self.top_k * end - last)
        found = [0] * self.num_experts
        for place, rows in enumerate(turns.totals()):
            found[self._number(place)] = rows
        return found

    def _favored_before(self, token: Any) -> Any:
        """How many favored tokens have a smaller number."""
        if not self.is_burst:
            return token * self.share_parts // SHARE_PARTS
        length = -(-self.global_tokens * self.share_parts // SHARE_PARTS)
        rounds, place = token // self.global_tokens, token % self.global_tokens
        return rounds * length + place - (place - length) * (place > length)

    def _number(self, place: Any) -> Any:
        """The expert at a place in the order of the pools."""
        if self.stride > 1:
            return place % self.stride * (self.num_experts // self.stride) + place // self.stride
        return (self.pool_first + place) % self.num_experts


class _Turns:
    """Rows by place, where routes are dealt out over consecutive places in turn."""

    def __init__(self, num_places: int) -> None:
        self._changes = [0] * (num_places + 1)

    def add(self, first: int, size: int, begin: int, end: int) -> None:
        """Routes `begin` to `end` over `size` places from `first` on; route r has place r modulo size."""
        each, more = divmod(end - begin, size)
        place = begin % size
        self._range(first, first + size, each)
        self._range(first + place, first + min(size, place + more), 1)
        self._range(first, first + max(0, place + more - size), 1)

    def _range(self, start: int, stop: int, rows: int) -> None:
        self._changes[start] += rows
        self._changes[stop] -= rows

    def totals(self) -> list[int]:
        return list(accumulate(self._changes[:-1]))


def forced_routes(strategy: Strategy, step: int) -> ForcedRoutes | None:
    """The routes of step `step` (counted from 1); None where the router chooses. The rules hold."""
    forced = strategy.runtime.force_routing
    if forced is None:
        return None
    model, training = strategy.model, strategy.training
    num_experts, top_k = model.num_experts, model.num_experts_per_tok
    tokens = training.global_batch * training.seq_length
    shift = (training.seed + step) % _SHIFT_MODULUS
    pool_first = pool_size = num_favored = 0
    ep = forced_ep(strategy)
    local = num_experts // ep
    match forced.kind:
        case "hot_expert" | "rotating" | "burst":
            turned = step if forced.kind == "rotating" else 0
            pool_first, pool_size, num_favored = (training.seed + turned) % num_experts, 1, 1
        case "hot_rank":
            pool_first, pool_size, num_favored = training.seed % ep * local, local, min(top_k, local)
        case "empty_rank":
            pool_first, pool_size = training.seed % ep * local, local
        case "ragged":
            pool_first = training.seed % num_experts
        case "balanced" | "spread":
            pass
    return ForcedRoutes(
        num_experts=num_experts,
        top_k=top_k,
        global_tokens=tokens,
        shift=-shift % tokens if forced.kind == "burst" else shift,  # the burst begins at token seed + step
        pool_first=pool_first,
        pool_size=pool_size,
        num_favored=num_favored,
        share_parts=0 if forced.share is None else max(1, round(forced.share * SHARE_PARTS)),
        is_burst=forced.kind == "burst",
        is_ragged=forced.kind == "ragged",
        stride=ep if forced.kind == "spread" else 1,
    )


def forced_ep(strategy: Strategy) -> int:
    """The expert parallel degree whose ranks runtime.force_routing names; 1 for kinds that name none."""
    forced = strategy.runtime.force_routing
    if forced is None or forced.kind not in RANK_KINDS:
        return 1
    return forced.ep or strategy.parallel.ep
