"""Activation recomputation: backward computes a part of the model a second time instead of keeping it.

Decisions are not made a second time. A score that rounds in another way, or a router's bias that has moved
since, would send a token to another expert than in the first pass, and its gradient with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

RecomputeKind = Literal["none", "layer", "attention", "experts"]
_Decision = TypeVar("_Decision")

# Non-reentrant: a reentrant checkpoint cuts what a layer returns beside its hidden states from the graph.
# The model draws no random numbers, so their state is not kept.
checkpointed: Callable[..., Any] = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, keeping its arguments alone; backward calls it again for what else it needs."""
    return partial(checkpointed, function)


class RoutingReplay:
    """Decisions of a layer's first pass over some tokens: routes, capacity, counts, rows and who sends them.

    Made outside of what is recomputed and passed in, so that the second pass finds what the first decided.
    Without gradient. `forced_BSK`: experts that were set before any pass (see `run_layers`).
    """

    def __init__(self, forced_BSK: Tensor | None = None) -> None:
        self.forced_BSK = forced_BSK
        self._decisions: dict[str, Any] = {}

    def once(self, name: str, decide: Callable[[], _Decision]) -> _Decision:
        """What `decide` returned in the first pass, which alone calls it."""
        if name not in self._decisions:
            self._decisions[name] = decide()
        decision: _Decision = self._decisions[name]
        return decision
