"""Tensor-parallel MLP (plain or SwiGLU) of the dense layers and the shared experts."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from .collectives import ModelGroups, copy_to_tp
from .linear import make_column_linear, make_row_linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "relu": functional.relu,
}


class MLP(nn.Module):
    """`mlp`: down(act(up(x))); `swiglu`: down(act(gate(x)) · up(x)). Inner size `width`, split over tp."""

    def __init__(self, kind: str, hidden_act: str, hidden_size: int, width: int, groups: ModelGroups) -> None:
        super().__init__()
        self.groups = groups
        self.activation = ACTIVATIONS[hidden_act]
        self.is_gated = kind == "swiglu"
        if self.is_gated:
            self.gate_proj = make_column_linear(hidden_size, width, groups)
        self.up_proj = make_column_linear(hidden_size, width, groups)
        self.down_proj = make_row_linear(width, hidden_size, groups)

    def forward(self, x: Tensor) -> Tensor:
        x = copy_to_tp(x, self.groups.tp)
        if self.is_gated:
            return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return self.down_proj(self.activation(self.up_proj(x)))
