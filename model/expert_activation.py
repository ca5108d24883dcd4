"""Activation of routed experts, each row weighted by its gate before the last product.

The last product is linear and has no bias, so gate · expert(x) is down_proj(gate · h). So the sum over a
token's experts needs no gates, keeps no row for their gradients, and h is not kept either: backward makes it
again from the first product's result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .fused import Region
from .mlp import ACTIVATIONS
from .norm import at_least_fp32

# R rows, I what the first product makes of a row (F, or 2F: gate and up), F inner size

_aten = torch.ops.aten
# Of ACTIVATIONS: gradient of the result, argument, and where the argument's gradient is written.
_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "silu": lambda grad, x, out: _aten.silu_backward(grad, x, grad_input=out),
    "gelu": lambda grad, x, out: _aten.gelu_backward(grad, x, grad_input=out),
    "relu": lambda grad, x, out: _aten.threshold_backward(grad, x, 0, grad_input=out),
}


def weighted_activation(
    inner_RI: Tensor, gates_R: Tensor, hidden_act: str, *, is_gated: bool, is_fused: bool = False
) -> Tensor:
    """gate · act(inner), or gate · act(first half) · second half where the expert is gated, [R, F].

    The gate is multiplied in its own precision, fp32 at least.
    """
    if is_fused:
        h_RF: Tensor = activation_region(hidden_act, is_gated=is_gated)(inner_RI, gates_R)
        return h_RF
    return _WeightedActivation.apply(inner_RI, gates_R, hidden_act, is_gated)


class _WeightedActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inner_RI: Tensor, gates_R: Tensor, hidden_act: str, is_gated: bool) -> Tensor:
        ctx.save_for_backward(inner_RI, gates_R)
        ctx.hidden_act, ctx.is_gated = hidden_act, is_gated
        x_RF, up_RF = inner_RI.chunk(2, -1) if is_gated else (inner_RI, None)
        h_RF = ACTIVATIONS[hidden_act](x_RF)
        if up_RF is not None:
            h_RF.mul_(up_RF)
        return h_RF.mul_(gates_R[:, None])

    @staticmethod
    def backward(ctx: Any, grad_RF: Tensor) -> tuple[Tensor | None, ...]:
        inner_RI, gates_R = ctx.saved_tensors
        x_RF, up_RF = inner_RI.chunk(2, -1) if ctx.is_gated else (inner_RI, None)
        act_RF = ACTIVATIONS[ctx.hidden_act](x_RF)
        grad_inner_RI = torch.empty_like(inner_RI)
        grad_x_RF, grad_up_RF = grad_inner_RI.chunk(2, -1) if ctx.is_gated else (grad_inner_RI, None)
        grad_h_RF = torch.mul(grad_RF, gates_R[:, None], out=torch.empty_like(grad_RF))
        if up_RF is not None:
            torch.mul(grad_h_RF, act_RF, out=grad_up_RF)
            grad_h_RF.mul_(up_RF)
            act_RF.mul_(up_RF)
        _BACKWARD[ctx.hidden_act](grad_h_RF, x_RF, grad_x_RF)
        # Products are rounded to the dtype of the rows, as both factors are; the sum is not.
        grad_gates_R = act_RF.mul_(grad_RF).sum(-1, dtype=gates_R.dtype)
        return grad_inner_RI, grad_gates_R, None, None


@lru_cache
def activation_region(hidden_act: str, *, is_gated: bool) -> Region:
    """Of what the first product makes of each row, [N, I], and gates, [N]; rounded once, at the end."""
    activation = ACTIVATIONS[hidden_act]

    def run(inner_NI: Tensor, gates_N: Tensor) -> Tensor:
        wide_NI = at_least_fp32(inner_NI)
        if is_gated:
            x_NF, up_NF = wide_NI.chunk(2, -1)
            h_NF = activation(x_NF) * up_NF
        else:
            h_NF = activation(wide_NI)
        return (h_NF * gates_N[:, None]).to(inner_NI.dtype)

    return Region("activation", run, has_rows=(True, True), differentiable=(0, 1))
