"""Tensor-parallel MLP (plain or SwiGLU) of the dense layers and the shared experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor
from torch.nn import functional

from .collectives import ModelGroups, copy_to_tp
from .fused import FusedModule, Region
from .linear import make_column_linear, make_row_linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "relu": functional.relu,
}


class MLP(FusedModule):
    """`mlp`: down(act(up(x))); `swiglu`: down(act(gate(x)) · up(x)). Inner size `width`, split over tp."""

    def __init__(self, kind: str, hidden_act: str, hidden_size: int, width: int, groups: ModelGroups) -> None:
        super().__init__()
        self.groups = groups
        self.hidden_act, self.activation = hidden_act, ACTIVATIONS[hidden_act]
        self.is_gated = kind == "swiglu"
        if self.is_gated:
            self.gate_proj = make_column_linear(hidden_size, width, groups)
        self.up_proj = make_column_linear(hidden_size, width, groups)
        self.down_proj = make_row_linear(width, hidden_size, groups)

    def forward(self, x: Tensor) -> Tensor:
        x = copy_to_tp(x, self.groups.tp)
        if self.is_gated:
            gate, up = self.gate_proj(x), self.up_proj(x)
            if "swiglu" in self.fused:
                h_NF = swiglu_region(self.hidden_act)(gate.flatten(0, -2), up.flatten(0, -2))
                return self.down_proj(h_NF.view_as(up))
            return self.down_proj(self.activation(gate) * up)
        return self.down_proj(self.activation(self.up_proj(x)))


@lru_cache
def swiglu_region(hidden_act: str) -> Region:
    """act(gate) · up of [N, F]. An activation without a factor is one kernel in eager PyTorch too."""
    activation = ACTIVATIONS[hidden_act]

    def run(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
        return activation(gate_NF) * up_NF

    return Region("swiglu", run, has_rows=(True, True), differentiable=(0, 1))
