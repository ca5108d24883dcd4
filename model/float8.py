"""FP8 products: e4m3 codes with one scale a row, forward and for the input's gradient.

A row is what the product sums over: x Wᵀ quantizes the rows of x and those of W, the input's gradient the
rows of the output's gradient and the columns of W. The weight's gradient is computed from the unquantized
tensors. Where TP splits what is summed over, the largest magnitude of a row is that of all partners' parts:
the same input has the same codes in every layout.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .collectives import Group, max_over_tp
from .e4m3 import Quantized, largest_of, quantize
from .products import ExpertRows, product, weight_gradient

# R rows, K contracted, N outputs, L experts of this rank

# FP8 tensor cores take sizes that are multiples of this (torch 2.13, _scaled_mm and _scaled_grouped_mm).
KERNEL_MULTIPLE = 16


class Float8Module(nn.Module):
    """A module whose products are in FP8 once `is_float8` is set (`use_float8`, model/linear.py)."""

    is_float8 = False


def quantize_both(
    a_RK: Tensor, b: Tensor, b_dim: int, group: Group | None = None
) -> tuple[Quantized, Quantized]:
    """Both factors of a product over `b_dim` of `b`; `group`: of TP partners, each with a part of the sum."""
    largest_a, largest_b = largest_of(a_RK), largest_of(b, b_dim)
    if group is not None:
        together = max_over_tp(torch.cat([largest_a.flatten(), largest_b.flatten()]), group)
        parts = together.split([largest_a.numel(), largest_b.numel()])
        largest_a, largest_b = parts[0].view_as(largest_a), parts[1].view_as(largest_b)
    return quantize(a_RK, -1, largest_a), quantize(b, b_dim, largest_b)


def float8_product(
    x: Tensor,
    weight: Tensor,
    rows: ExpertRows | None = None,
    *,
    inputs_over: Group | None = None,
    outputs_over: Group | None = None,
) -> Tensor:
    """x Wᵀ in FP8, [..., N] in the dtype of x: for the weight of a linear layer, [N, K], or those of experts,
    [L, N, K] with `rows`.

    `inputs_over`, `outputs_over`: the TP group that K or N is split over.
    """
    y_RN = _Float8Product.apply(x.reshape(-1, x.shape[-1]), weight, rows, inputs_over, outputs_over)
    return y_RN.view(*x.shape[:-1], y_RN.shape[-1])


class Float8Weight:
    """The weight [N, K] of a layer that gets its rows in chunks: quantized once for all of them.

    `outputs_over`: the TP group that N is split over. Without gradient.
    """

    def __init__(self, weight_NK: Tensor, outputs_over: Group | None) -> None:
        self._rows = quantize(weight_NK).transposed
        self._weight_NK, self._group = weight_NK, outputs_over

    def product(self, x_RK: Tensor) -> Tensor:
        return multiply(quantize(x_RK), self._rows)

    def input_gradient(self, grad_RN: Tensor) -> Tensor:
        return multiply(self._quantized_over_outputs(grad_RN, -1), self._columns)

    @cached_property
    def _columns(self) -> Quantized:
        return self._quantized_over_outputs(self._weight_NK, -2)

    def _quantized_over_outputs(self, x: Tensor, dim: int) -> Quantized:
        largest = largest_of(x, dim)
        if self._group is not None:
            largest = max_over_tp(largest, self._group)
        return quantize(x, dim, largest)


def multiply(a_RK: Quantized, b_KN: Quantized, rows: ExpertRows | None = None) -> Tensor:
    """The product of quantized matrices, [R, N] in their dtype. With `rows` b is [L, K, N]."""
    if not has_kernel(a_RK.codes, b_KN.codes, a_RK.dtype):
        return product(a_RK.values, b_KN.values.mT, rows)
    b_codes = b_KN.codes.mT.contiguous().mT  # FP8 tensor cores read the second factor by column
    if rows is None:
        return torch._scaled_mm(
            a_RK.codes, b_codes, a_RK.scales, b_KN.scales, out_dtype=a_RK.dtype, use_fast_accum=True
        )
    return torch._scaled_grouped_mm(
        a_RK.codes,
        b_codes,
        a_RK.scales.flatten(),
        b_KN.scales.squeeze(1),
        offs=rows.ends_L,
        out_dtype=a_RK.dtype,
        use_fast_accum=True,
    )


def has_kernel(a_codes: Tensor, b_codes: Tensor, dtype: torch.dtype) -> bool:
    """Whether FP8 units multiply these; if not, bf16 (or fp32) multiplies the decoded values."""
    sizes = b_codes.shape[-2:]
    if not a_codes.is_cuda or not len(a_codes) or dtype != torch.bfloat16:
        return False
    return not any(size % KERNEL_MULTIPLE for size in sizes) and device_has_kernel(
        a_codes.device, grouped=b_codes.dim() == 3
    )


@lru_cache
def device_has_kernel(device: torch.device, *, grouped: bool) -> bool:
    """Row-wise `_scaled_mm` runs on sm_89 and newer, `_scaled_grouped_mm` on sm_90 only (torch 2.13)."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    capability = torch.cuda.get_device_capability(device)
    return capability == (9, 0) if grouped else capability >= (8, 9)


class _Float8Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_RK: Tensor,
        weight: Tensor,
        rows: ExpertRows | None,
        inputs_over: Group | None,
        outputs_over: Group | None,
    ) -> Tensor:
        ctx.save_for_backward(x_RK, weight)
        ctx.rows, ctx.outputs_over = rows, outputs_over
        a, b = quantize_both(x_RK, weight, -1, inputs_over)
        return multiply(a, b.transposed, rows)

    @staticmethod
    def backward(ctx: Any, grad_RN: Tensor) -> tuple[Tensor | None, ...]:
        x_RK, weight = ctx.saved_tensors
        grad_RN = grad_RN.contiguous()
        grad_x_RK = grad_weight = None
        if ctx.needs_input_grad[0]:
            a, b = quantize_both(grad_RN, weight, -2, ctx.outputs_over)
            grad_x_RK = multiply(a, b, ctx.rows)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(grad_RN, x_RK, ctx.rows)
        return grad_x_RK, grad_weight, None, None, None
