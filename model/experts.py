"""Expert MLPs of this EP rank: stacked weights, one grouped GEMM for all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .collectives import ModelGroups, Shard
from .configuration_switchyard import SwitchyardConfig
from .mlp import ACTIVATIONS

# R rows in order of their expert, D hidden, F inner size, E all experts, L experts of this rank


class Experts(nn.Module):
    """Experts [first, first + L) of a layer. `mlp`: up_proj [L, F, D]; `swiglu`: gate_up_proj [L, 2F, D],
    the gate's rows first; both: down_proj [L, D, F].

    Raises:
        ValueError: if ep does not divide the experts.
    """

    def __init__(self, config: SwitchyardConfig, groups: ModelGroups) -> None:
        super().__init__()
        ep, rank = (1, 0) if groups.ep is None else (groups.ep.size, groups.ep.rank)
        if config.num_experts % ep:
            raise ValueError(f"ep {ep} does not divide num_experts ({config.num_experts}); legal: a divisor")
        self.num_local = config.num_experts // ep
        self.first = rank * self.num_local
        self.activation = ACTIVATIONS[config.hidden_act]
        self.is_gated = config.expert == "swiglu"
        hidden, inner = config.hidden_size, config.moe_intermediate_size
        if self.is_gated:
            self.gate_up_proj = nn.Parameter(torch.empty(self.num_local, 2 * inner, hidden))
        else:
            self.up_proj = nn.Parameter(torch.empty(self.num_local, inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.num_local, hidden, inner))
        self.num_experts = config.num_experts
        for parameter in self.parameters():
            # DeepSpeed's marks: gradients are reduced over the ranks with the same experts, not over all.
            parameter.allreduce = False  # type: ignore[attr-defined]  # marks are attributes
            parameter.group_name = f"ep_size_{ep}"  # type: ignore[attr-defined]

    def forward(self, x_RD: Tensor, counts_L: Tensor) -> Tensor:
        """`x_RD`: first all rows of the first local expert, and so on; `counts_L` sums to R."""
        ends_L = counts_L.cumsum(0).to(torch.int32)
        if self.is_gated:
            gate, up = self._product(x_RD, self.gate_up_proj, ends_L, counts_L).chunk(2, -1)
            h_RF = self.activation(gate) * up
        else:
            h_RF = self.activation(self._product(x_RD, self.up_proj, ends_L, counts_L))
        return self._product(h_RF, self.down_proj, ends_L, counts_L)

    def blocks(self, x_LCD: Tensor) -> Tensor:
        """The same for C rows of every local expert, as padded dispatch passes them."""
        if self.is_gated:
            gate, up = torch.bmm(x_LCD, self.gate_up_proj.transpose(1, 2)).chunk(2, -1)
            h_LCF = self.activation(gate) * up
        else:
            h_LCF = self.activation(torch.bmm(x_LCD, self.up_proj.transpose(1, 2)))
        return torch.bmm(h_LCF, self.down_proj.transpose(1, 2))

    def shards(self) -> dict[str, Shard]:
        return {
            name: Shard((self.num_experts, *parameter.shape[1:]), (self.first, 0, 0))
            for name, parameter in self.named_parameters()
        }

    @staticmethod
    def _product(x_RI: Tensor, weight_LOI: Tensor, ends_L: Tensor, counts_L: Tensor) -> Tensor:
        if can_group(weight_LOI):
            return functional.grouped_mm(x_RI.contiguous(), weight_LOI.transpose(1, 2), offs=ends_L)
        parts = x_RI.split(counts_L.tolist())
        products = [
            functional.linear(part, weight) for part, weight in zip(parts, weight_LOI.unbind(0), strict=True)
        ]
        return torch.cat(products)


def can_group(weight_LOI: Tensor) -> bool:
    """Whether `grouped_mm` supports this weight; if not, experts are computed one after the other.

    It refuses fp64 and strides that are not multiples of 16 bytes (torch 2.13, aten/native/GroupedMMUtils.h).
    """
    aligned = all(size * weight_LOI.element_size() % 16 == 0 for size in weight_LOI.shape[1:])
    return aligned and weight_LOI.dtype in (torch.float32, torch.bfloat16, torch.float16)
