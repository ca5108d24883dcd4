"""Weights held in FP8 for evaluation and generation: a byte a parameter, and 4 an output for its scale.

Those of linear layers and experts are kept as the codes that `float8_product` would make of them; the rest
(embedding, norms, router) in bf16. Nothing of such a model can be trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .e4m3 import Quantized, quantize
from .experts import Experts
from .float8 import multiply
from .products import ExpertRows

# R rows, K contracted


def hold_in_float8(model: nn.Module, path: str, tensor: Tensor) -> None:
    """Gives a model without tp, made on the meta device, its weight or buffer `path`. The name stays; scales
    are under NAME_scale. Nothing else of the tensor is kept."""
    parent, _, name = path.rpartition(".")
    module = model.get_submodule(parent)
    if name in module._buffers:
        module._buffers[name] = tensor.clone()
        return
    is_experts = isinstance(module, Experts)
    if is_experts or isinstance(module, nn.Linear):
        module.__class__ = StoredExperts if is_experts else StoredLinear
        held = quantize(tensor.to(torch.bfloat16))
        module.register_buffer(f"{name}_scale", held.scales)
        tensor = held.codes
    else:
        tensor = tensor.to(torch.bfloat16)
    module._parameters[name] = nn.Parameter(tensor, requires_grad=False)


class StoredLinear(nn.Linear):
    """`nn.Linear` without bias, its weight as codes."""

    weight_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y_RN = _product(x.reshape(-1, x.shape[-1]), self.weight, self.weight_scale)
        return y_RN.view(*x.shape[:-1], y_RN.shape[-1])


class StoredExperts(Experts):
    """`Experts`, their weights as codes."""

    def times(self, x_RK: Tensor, name: str, rows: ExpertRows) -> Tensor:
        return _product(x_RK, getattr(self, name), getattr(self, f"{name}_scale"), rows)


def _product(x_RK: Tensor, codes: Tensor, scales: Tensor, rows: ExpertRows | None = None) -> Tensor:
    weight = Quantized(codes=codes, scales=scales, dtype=x_RK.dtype)
    return multiply(quantize(x_RK), weight.transposed, rows)
