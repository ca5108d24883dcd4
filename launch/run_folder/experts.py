"""Experts of a run: which get too many tokens, which none."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

# Over the mean of its layer. An expert that has less than DEAD of it learns next to nothing.
OVERLOADED, DEAD = 2.0, 0.01
# Tokens per expert of a layer below which chance leaves some experts without any.
MIN_MEAN = 100


@dataclass(frozen=True, kw_only=True)
class Expert:
    """layer: counted over the MoE layers, from 0. share: its tokens over the mean of the layer."""

    layer: int
    expert: int
    share: float

    def __str__(self) -> str:
        return f"layer {self.layer} expert {self.expert} ({self.share:.2f}×)"


@dataclass(frozen=True, kw_only=True)
class ExpertHealth:
    """The worst first."""

    dead: tuple[Expert, ...]
    overloaded: tuple[Expert, ...]


def shares(tokens: Sequence[Sequence[float]]) -> list[list[float]]:
    """Of each expert, over the mean of its layer; 1 where a layer has no tokens."""
    means = [sum(layer) / len(layer) for layer in tokens]
    return [
        [count / mean if mean > 0 else 1.0 for count in layer]
        for layer, mean in zip(tokens, means, strict=True)
    ]


def expert_health(tokens: Sequence[Sequence[float]]) -> ExpertHealth:
    """Of the tokens of several steps together, [MoE layers][num_experts]; few tokens tell nothing."""
    experts = [
        Expert(layer=i, expert=j, share=share)
        for i, layer in enumerate(shares(tokens))
        if sum(tokens[i]) >= MIN_MEAN * len(layer)
        for j, share in enumerate(layer)
    ]
    dead = sorted((e for e in experts if e.share < DEAD), key=lambda e: (e.share, e.layer, e.expert))
    overloaded = sorted((e for e in experts if e.share > OVERLOADED), key=lambda e: -e.share)
    return ExpertHealth(dead=tuple(dead), overloaded=tuple(overloaded))


def add(total: list[list[float]] | None, tokens: Sequence[Sequence[float]]) -> list[list[float]]:
    """The sum; of `tokens` alone where the model has changed its shape."""
    if total is None or [len(layer) for layer in total] != [len(layer) for layer in tokens]:
        return [list(layer) for layer in tokens]
    return [list(map(operator.add, x, y)) for x, y in zip(total, tokens, strict=True)]
