"""Weight initialization that is equal for every layout: a generator per parameter, keyed by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from .collectives import Shard
from .configuration_switchyard import SwitchyardConfig


class ShardedModel(Protocol):
    """A model with the slice of each global parameter that it holds."""

    config: SwitchyardConfig

    def shards(self) -> dict[str, Shard]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


@torch.no_grad()
def initialize_parameters(model: ShardedModel, seed: int) -> None:
    """Draws the parameters that this rank holds.

    Norms are 1; matrices are normal(0, `initializer_range`), the embedding normal(0, `embedding_std`). The
    global tensor is drawn in fp32 on the CPU, from a generator keyed by (seed, global name), and then sliced;
    stacked experts one by one, keyed by the global expert id too. At most one global tensor is in memory.
    """
    shards = model.shards()
    for name, local in model.named_parameters():
        shard = shards[name]
        if shard.padding:
            local.zero_()
        parameter = shard.real(local)
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        is_embedding = name.endswith("embed_tokens.weight")
        std = model.config.embedding_std if is_embedding else model.config.initializer_range
        if parameter.dim() == 3:
            for place in range(parameter.shape[0]):
                expert = shard.offsets[0] + place
                parameter[place].copy_(_draw(shard.global_shape[1:], std, f"{seed}/{name}/{expert}"))
        else:
            whole = _draw(shard.global_shape, std, f"{seed}/{name}")
            here = zip(shard.offsets, parameter.shape, strict=True)
            parameter.copy_(whole[tuple(slice(start, start + length) for start, length in here)])


def _draw(shape: tuple[int, ...], std: float, key: str) -> Tensor:
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(shape, dtype=torch.float32, device="cpu").normal_(0.0, std, generator=generator)
