"""Causal self-attention with RoPE, GQA and optional QK-norm, heads sharded over TP.

Query, key and value projections are split by column, the output projection by row.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import Cache

from .collectives import ModelGroups, copy_to_tp, sum_gradients
from .configuration_switchyard import SwitchyardConfig
from .document_attention import Documents, attend_within
from .fused import FusedModule, Region
from .linear import make_column_linear, make_row_linear
from .norm import HeadNorm, ProjectionNorm, normalize

# B sequences, S tokens of each now, L tokens of each with those in the cache, D hidden, H heads, d head size


class Attention(FusedModule):
    """Causal self-attention of one layer; `layer` is its global number, the index into a KV cache.

    Raises:
        ValueError: if tp does not divide the query heads and the key/value heads.
    """

    def __init__(self, config: SwitchyardConfig, layer: int, groups: ModelGroups) -> None:
        super().__init__()
        tp = 1 if groups.tp is None else groups.tp.size
        for name in ("num_attention_heads", "num_key_value_heads"):
            if getattr(config, name) % tp:
                raise ValueError(
                    f"tp {tp} does not divide {name} ({getattr(config, name)}); legal: a divisor"
                )
        num_heads, num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        head_dim = config.head_dim
        assert num_kv_heads is not None, "SwitchyardConfig fills it in"
        assert head_dim is not None, "SwitchyardConfig fills it in"
        self.layer, self.groups, self.head_dim = layer, groups, head_dim
        self.is_grouped = num_kv_heads != num_heads
        num_q, num_kv = num_heads * head_dim, num_kv_heads * head_dim
        self.q_proj = make_column_linear(config.hidden_size, num_q, groups, head_dim)
        self.k_proj = make_column_linear(config.hidden_size, num_kv, groups, head_dim)
        self.v_proj = make_column_linear(config.hidden_size, num_kv, groups, head_dim)
        self.o_proj = make_row_linear(num_q, config.hidden_size, groups, head_dim)
        self.qk_norm = config.qk_norm
        if config.qk_norm == "head":
            self.q_norm: nn.Module = HeadNorm(head_dim, config.rms_norm_eps, groups)
            self.k_norm: nn.Module = HeadNorm(head_dim, config.rms_norm_eps, groups)
        elif config.qk_norm == "projection":
            self.q_norm = ProjectionNorm(num_q, head_dim, config.rms_norm_eps, groups)
            self.k_norm = ProjectionNorm(num_kv, head_dim, config.rms_norm_eps, groups)

    def forward(
        self,
        x_BSD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: tuple[Tensor | None, bool] | Documents,
        cache: Cache | None = None,
    ) -> Tensor:
        """`rotation` from `rotations`, for fused RoPE through `rotation_rows`; `mask` from
        model/attention_mask.py, or the documents of packed sequences, which have no cache. A cache is
        extended by these tokens."""
        x_BSD = copy_to_tp(x_BSD, self.groups.tp)
        q, k = self.q_proj(x_BSD), self.k_proj(x_BSD)
        if self.qk_norm == "projection":
            q, k = self.q_norm(q), self.k_norm(k)
        q_BHSd, k_BHLd = self._rotated(self._heads(q), self._heads(k), rotation)
        v_BHLd = self._heads(self.v_proj(x_BSD)).transpose(1, 2)
        if cache is not None:
            k_BHLd, v_BHLd = cache.update(k_BHLd, v_BHLd, self.layer)
        if isinstance(mask, Documents):
            y_BHSd = attend_within(q_BHSd, k_BHLd, v_BHLd, mask, is_grouped=self.is_grouped)
        else:
            allowed, is_causal = mask
            y_BHSd = functional.scaled_dot_product_attention(
                q_BHSd, k_BHLd, v_BHLd, attn_mask=allowed, is_causal=is_causal, enable_gqa=self.is_grouped
            )
        return self.o_proj(y_BHSd.transpose(1, 2).flatten(2))

    def _rotated(
        self, q_BSHd: Tensor, k_BSHd: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys, [B, H, S, d], with each head's norm, if it has one, and RoPE."""
        if "rope" in self.fused:
            args = (q_BSHd.flatten(0, 1), k_BSHd.flatten(0, 1), *rotation)
            if self.qk_norm == "head":
                assert isinstance(self.q_norm, HeadNorm)
                assert isinstance(self.k_norm, HeadNorm)
                weights = (sum_gradients(norm.weight, self.groups.tp) for norm in (self.q_norm, self.k_norm))
                q_NHd, k_NHd = rope_region(self.q_norm.eps)(*args, *weights)
            else:
                q_NHd, k_NHd = rope_region(None)(*args)
            q_BSHd, k_BSHd = q_NHd.view_as(q_BSHd), k_NHd.view_as(k_BSHd)
            return q_BSHd.transpose(1, 2), k_BSHd.transpose(1, 2)
        if self.qk_norm == "head":
            q_BSHd, k_BSHd = self.q_norm(q_BSHd), self.k_norm(k_BSHd)
        return rotate(q_BSHd.transpose(1, 2), rotation), rotate(k_BSHd.transpose(1, 2), rotation)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


def rotations(positions_BS: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine for `rotate`, [B or 1, 1, S, d], the angles in fp32 at least.

    Pairs are (i, i + d/2), as in Hugging Face's models.
    """
    wide = torch.promote_types(dtype, torch.float32)
    exponent = torch.arange(0, head_dim, 2, device=positions_BS.device, dtype=wide) / head_dim
    angles = positions_BS[:, None, :, None].to(wide) * theta**-exponent
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)


def rotation_rows(rotation: tuple[Tensor, Tensor], num_sequences: int) -> tuple[Tensor, Tensor]:
    """What `rotations` gives, for each token: [B·S, d]."""
    cos, sin = (a.squeeze(1).expand(num_sequences, -1, -1).flatten(0, 1) for a in rotation)
    return cos, sin


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, signed_sin = rotation
    return x * cos + x.roll(x.shape[-1] // 2, -1) * signed_sin


@lru_cache
def rope_region(norm_eps: float | None) -> Region:
    """RoPE of queries and keys, [N, H, d], by the cosine and signed sine of each token, [N, d]; with
    `norm_eps` after the norm of each head, whose weights [d] then come last."""

    def turn(x_NHd: Tensor, cos_Nd: Tensor, signed_sin_Nd: Tensor, weight_d: Tensor | None) -> Tensor:
        if weight_d is not None and norm_eps is not None:
            x_NHd = normalize(x_NHd, weight_d, norm_eps)
        # By halves: compiled from `rotate`, with its roll, it takes five times as long as eager on a CPU
        # (docs/performance.md).
        first, second = x_NHd.chunk(2, -1)
        cos = cos_Nd.chunk(2, -1)[0][:, None]
        sin = signed_sin_Nd.chunk(2, -1)[1][:, None]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def run(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        q_weight, k_weight = weights if weights else (None, None)
        return turn(q, cos, sin, q_weight), turn(k, cos, sin, k_weight)

    if norm_eps is None:
        return Region("rope", run, has_rows=(True,) * 4, differentiable=(0, 1), linear={0: 0, 1: 1})
    has_rows = (*(True,) * 4, False, False)
    return Region("rope", run, has_rows=has_rows, differentiable=(0, 1, 4, 5))
