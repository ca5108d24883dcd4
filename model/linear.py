"""Tensor-parallel linear layers: column-parallel (split outputs) and row-parallel (split inputs).

Without tp they are torch's `nn.Linear`, the class that adapters, quantization and pruning look for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .collectives import ModelGroups, Shard, padded_share_of, reduce_from_tp, share_of
from .float8 import Float8Module, float8_product


def make_column_linear(in_features: int, out_features: int, groups: ModelGroups, unit: int = 1) -> nn.Module:
    """The layer with its outputs split over tp in units of `unit`; without tp, `nn.Linear`."""
    if groups.tp is None:
        return make_linear(in_features, out_features)
    return ColumnLinear(in_features, out_features, groups, unit)


def make_row_linear(in_features: int, out_features: int, groups: ModelGroups, unit: int = 1) -> nn.Module:
    """The layer with its inputs split over tp in units of `unit`; without tp, `nn.Linear`."""
    if groups.tp is None:
        return make_linear(in_features, out_features)
    return RowLinear(in_features, out_features, groups, unit)


def make_linear(in_features: int, out_features: int) -> nn.Linear:
    """Without bias, and with memory only: weights are drawn by name (model/initialization.py).

    nn.Linear's own initialization would consume random numbers and, in a large model, minutes.
    """
    linear = nn.Linear(in_features, out_features, bias=False, device="meta")
    return linear.to_empty(device=torch.get_default_device())


def use_float8(model: nn.Module) -> None:
    """From now on every linear layer and every expert of the model multiplies in FP8 (model/float8.py), in
    training and in evaluation. Parameters and their names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Float8Linear
        elif isinstance(module, Float8Module):
            module.is_float8 = True


class Float8Linear(nn.Linear):
    """`nn.Linear` without bias whose product is in FP8."""

    def forward(self, x: Tensor) -> Tensor:
        return float8_product(x, self.weight)


class ColumnLinear(Float8Module):
    """y = W x with the outputs split over tp; `x` must have come through `copy_to_tp`.

    The outputs are split in units of `unit` (a head). A shorter share is padded with zeros to the longest, so
    that TP partners' parameters have one size (see model/embedding.py).
    """

    def __init__(self, in_features: int, out_features: int, groups: ModelGroups, unit: int = 1) -> None:
        super().__init__()
        assert out_features % unit == 0, f"{out_features} outputs are not divisible by the unit {unit}"
        start, length, missing = padded_share_of(out_features // unit, groups.tp)
        self.groups = groups
        self.shard = Shard((out_features, in_features), (start * unit, 0), missing * unit)
        self.weight = nn.Parameter(torch.empty((length + missing) * unit, in_features))
        mark_tp_sharded(self.weight, groups)

    @property
    def real_weight(self) -> Tensor:
        """The weight without its padding, whose gradient is then zero."""
        return self.shard.real(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_float8:
            return float8_product(x, self.real_weight, outputs_over=self.groups.tp)
        return functional.linear(x, self.real_weight)

    def shards(self) -> dict[str, Shard]:
        return {"weight": self.shard}


class RowLinear(Float8Module):
    """y = W x with the inputs split over tp; `x` is this rank's inputs, y is complete on every rank."""

    def __init__(self, in_features: int, out_features: int, groups: ModelGroups, unit: int = 1) -> None:
        super().__init__()
        assert in_features % unit == 0, f"{in_features} inputs are not divisible by the unit {unit}"
        start, length = share_of(in_features // unit, groups.tp)
        self.groups = groups
        self.shard = Shard((out_features, in_features), (0, start * unit))
        self.weight = nn.Parameter(torch.empty(out_features, length * unit))
        mark_tp_sharded(self.weight, groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_float8:
            part = float8_product(x, self.weight, inputs_over=self.groups.tp)
        else:
            part = functional.linear(x, self.weight)
        return reduce_from_tp(part, self.groups.tp)

    def shards(self) -> dict[str, Shard]:
        return {"weight": self.shard}


def mark_tp_sharded(parameter: nn.Parameter, groups: ModelGroups) -> None:
    """Marks for DeepSpeed: without them its norm counts a split parameter on the first tp rank only."""
    if groups.tp is not None:
        parameter.model_parallel = True  # type: ignore[attr-defined]  # DeepSpeed's marks are attributes
        parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
