"""Expert MLPs of this EP rank: stacked weights, one grouped GEMM for all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .collectives import ModelGroups, Shard
from .configuration_switchyard import SwitchyardConfig
from .expert_activation import weighted_activation
from .float8 import Float8Module, float8_product
from .fused import FusedModule
from .mlp import ACTIVATIONS
from .products import ExpertRows, product

# R rows in order of their expert, D hidden, F inner size, E all experts, L experts of this rank


class Experts(Float8Module, FusedModule):
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
        self.hidden_act = config.hidden_act
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

    def forward(self, x_RD: Tensor, counts_L: Tensor, gates_R: Tensor) -> Tensor:
        """gate · expert(x) of each row. `x_RD`: first all rows of the first local expert, and so on;
        `counts_L` sums to R; `gates_R` in fp32 at least."""
        rows = ExpertRows.of(counts_L)
        inner_RI = self.times(x_RD, "gate_up_proj" if self.is_gated else "up_proj", rows)
        h_RF = weighted_activation(
            inner_RI,
            gates_R,
            self.hidden_act,
            is_gated=self.is_gated,
            is_fused="activation" in self.fused,
        )
        return self.times(h_RF, "down_proj", rows)

    def times(self, x_RK: Tensor, name: str, rows: ExpertRows) -> Tensor:
        """x Wᵀ of each row and the weight `name` of its expert."""
        weight: Tensor = getattr(self, name)
        return float8_product(x_RK, weight, rows) if self.is_float8 else product(x_RK, weight, rows)

    def blocks(self, x_LCD: Tensor) -> Tensor:
        """expert(x) for C rows of every local expert, as padded dispatch passes them."""
        if self.is_float8:
            num_local, capacity, _ = x_LCD.shape
            counts_L = torch.full((num_local,), capacity, dtype=torch.int64, device=x_LCD.device)
            ones_R = torch.ones(num_local * capacity, device=x_LCD.device)
            return self(x_LCD.flatten(0, 1), counts_L, ones_R).view_as(x_LCD)
        activation = ACTIVATIONS[self.hidden_act]
        if self.is_gated:
            gate, up = torch.bmm(x_LCD, self.gate_up_proj.transpose(1, 2)).chunk(2, -1)
            h_LCF = activation(gate) * up
        else:
            h_LCF = activation(torch.bmm(x_LCD, self.up_proj.transpose(1, 2)))
        return torch.bmm(h_LCF, self.down_proj.transpose(1, 2))

    def shards(self) -> dict[str, Shard]:
        return {
            name: Shard((self.num_experts, *parameter.shape[1:]), (self.first, 0, 0))
            for name, parameter in self.named_parameters()
        }
