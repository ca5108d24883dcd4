"""Fingerprints of tensors: no flip of a bit is missed."""

import pytest
import torch

from runtime.parallel.fingerprint import fingerprint

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8)
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _values(dtype: torch.dtype, size: int = 37) -> torch.Tensor:
    return (torch.randn(size, generator=torch.Generator().manual_seed(3)) * 50).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_counts(dtype: torch.dtype) -> None:
    x = _values(dtype)
    whole, width = int(fingerprint(x)), 8 * x.element_size()
    for place in range(len(x)):
        for bit in range(width):
            changed = x.clone()
            changed.view(_SIGNED[x.element_size()])[place] ^= -(1 << bit) if bit == width - 1 else 1 << bit
            assert int(fingerprint(changed)) != whole, (place, bit)


def test_two_equal_flips_do_not_cancel_and_order_counts() -> None:
    x = _values(torch.float32)
    changed, swapped = x.clone(), x.clone()
    changed.view(torch.int32)[torch.tensor([2, 30])] ^= 1 << 12
    swapped[[4, 9]] = x[[9, 4]]
    assert len({int(fingerprint(each)) for each in (x, changed, swapped)}) == 3


def test_zeros_of_both_signs_and_kinds_of_nan_differ() -> None:
    bits = [0, -(1 << 31), 0x7FC00000, 0x7F800001, 0x7FC00001]
    found = {int(fingerprint(torch.tensor([one], dtype=torch.int32).view(torch.float32))) for one in bits}
    assert len(found) == len(bits)


def test_large_tensors_are_looked_at_in_parts() -> None:
    x = _values(torch.float32, 2**19 + 41)
    for place in (0, 2**19 - 1, 2**19, 2**19 + 40):
        changed = x.clone()
        changed.view(torch.int32)[place] ^= 1
        assert int(fingerprint(changed)) != int(fingerprint(x)), place


def test_a_tensor_has_one_whatever_its_strides() -> None:
    x = _values(torch.float32, 36).view(6, 6)
    assert torch.equal(fingerprint(x.T), fingerprint(x.T.contiguous()))
    assert int(fingerprint(x.T)) != int(fingerprint(x))
