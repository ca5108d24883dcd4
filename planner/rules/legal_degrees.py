"""Legal degrees: the nearest tp or ep that keeps every rule on it, so that no fix leads to the next."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from planner.rules.legal_values import divisors, find_nearest
from planner.rules.partial import UnknownValueError
from planner.strategy.schema import Strategy

_Value = TypeVar("_Value")
_MOST_TP = 1024


def nearest_tp(s: Strategy, wanted: int) -> int:
    """The tp closest to what was wanted that every rule on tp allows, 1 if need be; keys that are faulty
    themselves are left out."""
    with _unnoticed(s):
        dividends = tuple(_known(_dividends(s)))
        least = min(_known(_maxima(s)), default=_MOST_TP)
        ep = next(_known([lambda: s.parallel.ep]), 1)
        experts = next(_known([lambda: s.model.num_experts]), ep)
    nests = ep if experts % ep == 0 else 1  # an illegal ep changes, and 1 nests in any
    legal = tuple(
        tp
        for tp in range(1, min(_MOST_TP, least) + 1)
        if all(size % tp == 0 for size in dividends) and (nests == 1 or not (nests % tp and tp % nests))
    )
    return find_nearest(legal or (1,), wanted)


def nearest_ep(s: Strategy, wanted: int) -> int:
    """The divisor of the experts closest to what was wanted, of those that nest with tp."""
    legal = divisors(s.model.num_experts)
    with _unnoticed(s):
        tp = next(_known([lambda: s.parallel.tp]), 1)
    nested = tuple(ep for ep in legal if not (ep % tp and tp % ep))
    return find_nearest(nested or legal, wanted)


def _dividends(s: Strategy) -> Iterator[Callable[[], int]]:
    """What tp has to divide."""
    model = s.model
    if next(_known([lambda: s.parallel.placement]), "colocated") == "colocated":
        yield lambda: model.num_attention_heads
        yield lambda: model.num_key_value_heads
        yield lambda: (model.intermediate_size or 0) if model.first_dense_layers else 0
        yield lambda: model.num_shared_experts * model.moe_intermediate_size
    yield lambda: model.hidden_size if model.aggregation == "linear" else 0


def _maxima(s: Strategy) -> Iterator[Callable[[], int]]:
    """What tp must not exceed: no shard is empty, and partners are on one host."""
    yield lambda: s.model.vocab_size
    yield lambda: s.model.hidden_size
    yield lambda: _MOST_TP if s.cluster.gpu.is_cpu else s.cluster.gpus_per_host


def _known(reads: Iterable[Callable[[], _Value]]) -> Iterator[_Value]:
    for read in reads:
        try:
            yield read()
        except UnknownValueError:
            continue  # it has its own Problem


@contextmanager
def _unnoticed(s: Strategy) -> Iterator[None]:
    """A fix reads more keys than the rule, and a broken rule is attributed to what the rule has read."""
    reads = getattr(s, "reads", None)
    before = set(reads or ())
    yield
    if reads is not None:
        reads.clear()
        reads.update(before)
