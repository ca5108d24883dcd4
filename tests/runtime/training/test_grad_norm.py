"""Gradient norm: as exact as fp32 can print it, for any size, dtype and cut."""

import numpy as np
import pytest
import torch

from runtime.training.grad_norm import sum_of_squares


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 1023, 1024, 2**20 + 1, 12_000_000])
def test_the_sum_of_squares_is_numpys_in_fp64(size: int, dtype: torch.dtype) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
    exact = np.square(values.double().numpy()).sum()
    assert sum_of_squares(values).item() == pytest.approx(exact, rel=4e-7)


def test_a_cut_of_a_tensor_does_not_change_its_norm() -> None:
    values = torch.randn(12_000_000, generator=torch.Generator().manual_seed(0))
    parts = sum(sum_of_squares(part) for part in values.split(3_999_999))
    assert float(parts) == pytest.approx(sum_of_squares(values).item(), rel=1e-8)


def test_a_tensor_that_is_not_contiguous_counts_every_element() -> None:
    values = torch.arange(6_000.0).view(2, 3_000).t()
    assert sum_of_squares(values).item() == pytest.approx(5_999 * 6_000 * 11_999 / 6, rel=4e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    values = torch.ones(5_000)
    values[4_321] = bad
    assert not torch.isfinite(sum_of_squares(values))
