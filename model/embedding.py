"""Vocabulary-parallel token embedding: rows of the matrix sharded over TP, results summed.

If tp does not divide the vocabulary, the first ranks have one row more and the others a row of zeros that is
never looked up, predicted or stored. TP partners need parameters of one size to sum gradients in one order: a
flat gradient buffer is reduced in buckets, and buffers of different lengths are cut in different places.

Without tp it is torch's `nn.Embedding`, the class that Hugging Face's tools look for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .collectives import ModelGroups, Shard, padded_share_of, reduce_from_tp
from .linear import mark_tp_sharded

# B sequences, S tokens of each, V vocabulary, D hidden


def make_embedding(vocab_size: int, hidden_size: int, groups: ModelGroups) -> nn.Module:
    """The embedding with its rows split over tp; without tp, `nn.Embedding`, its weights not drawn yet."""
    if groups.tp is None:
        embedding = nn.Embedding(vocab_size, hidden_size, device="meta")
        return embedding.to_empty(device=torch.get_default_device())
    return VocabEmbedding(vocab_size, hidden_size, groups)


class VocabEmbedding(nn.Module):
    """Rows [start, start + length) of the [V, D] embedding."""

    def __init__(self, vocab_size: int, hidden_size: int, groups: ModelGroups) -> None:
        super().__init__()
        self.groups = groups
        self.start, self.length, padding = padded_share_of(vocab_size, groups.tp)
        self.shard = Shard((vocab_size, hidden_size), (self.start, 0), padding)
        self.weight = nn.Parameter(torch.empty(self.length + padding, hidden_size))
        mark_tp_sharded(self.weight, groups)

    def forward(self, ids_BS: Tensor) -> Tensor:
        """[B, S, D]; zeros for an id outside the vocabulary."""
        local_BS = ids_BS - self.start
        elsewhere_BS = (local_BS < 0) | (local_BS >= self.length)
        x_BSD = functional.embedding(local_BS.masked_fill(elsewhere_BS, 0), self.weight)
        x_BSD = x_BSD.masked_fill(elsewhere_BS[..., None], 0.0)
        return reduce_from_tp(x_BSD, self.groups.tp)

    def shards(self) -> dict[str, Shard]:
        return {"weight": self.shard}
