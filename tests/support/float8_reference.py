"""FP8 from its definition, in fp64 and without torch's float8 types: what a quantized row stands for."""

import math
from functools import cache

import torch
from torch import Tensor

# OCP 8-bit floating point, E4M3: 4 bits of exponent (bias 7), 3 of mantissa, no infinity, 448 the largest.
LARGEST = 448.0


@cache
def e4m3_numbers() -> Tensor:
    """Every number of E4M3 that is not negative, in order; a number's place is its code."""
    numbers = []
    for code in range(127):
        exponent, mantissa = divmod(code, 8)
        numbers.append(
            mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        )
    assert numbers[-1] == LARGEST
    return torch.tensor(numbers, dtype=torch.float64)


def scale_of(largest: float) -> float:
    """The smallest power of two that the row's largest magnitude is divided by to fit, 2^-126 at least."""
    exponent = -126
    while largest > LARGEST * 2.0**exponent:
        exponent += 1
    return 2.0**exponent


def quantized(x: Tensor, dim: int = -1) -> Tensor:
    """fp64: each row along `dim` rounded to E4M3 times its scale, ties to the even code."""
    rows = x.double().movedim(dim, -1)
    largest = rows.abs().amax(-1)
    scales = torch.tensor([scale_of(v) for v in largest.flatten().tolist()], dtype=torch.float64)
    scales = scales.view(*largest.shape, 1)
    numbers = e4m3_numbers()
    wanted = (rows / scales).abs().contiguous()
    above = torch.searchsorted(numbers, wanted).clamp(max=len(numbers) - 1)
    below = (above - 1).clamp(min=0)
    to_above, to_below = numbers[above] - wanted, wanted - numbers[below]
    takes_above = (to_above < to_below) | ((to_above == to_below) & (above % 2 == 0))
    code = torch.where(takes_above, above, below)
    return (numbers[code] * rows.sign() * scales).movedim(-1, dim)


def product_in_fp8(x_RK: Tensor, weight_NK: Tensor, grad_RN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """fp64: x Wᵀ of quantized rows; the input's gradient of the quantized gradient and columns; the
    weight's gradient of what was not quantized."""
    y_RN = quantized(x_RK) @ quantized(weight_NK).T
    grad_x_RK = quantized(grad_RN) @ quantized(weight_NK, 0)
    return y_RN, grad_x_RK, grad_RN.double().T @ x_RK.double()


def wild(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Values over many powers of two, rows of very different size, a row of zeros and one of equal values."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.exp(3 * torch.randn(shape, generator=generator))
    x = x * torch.logspace(-9, 6, shape[-2])[:, None]
    x[..., 1, :] = 0.0
    x[..., 2, :] = math.pi
    return x.to(dtype)
