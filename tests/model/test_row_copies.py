"""Copies of rows and their sums, against plain loops."""

import pytest
import torch
from torch import Tensor

from model.row_copies import RowCopies, copy_rows, row_copies, stable_order, sum_copies

# Of each row its copies, in the order in which they are summed.
LISTS = {
    "some without": [[3, 0], [], [4], [1, 5, 2], []],
    "one each": [[2], [0], [1]],
    "two each": [[3, 1], [0, 2]],
    "none": [[], []],
    "no rows": [],
}


def copies_of(lists: list[list[int]]) -> RowCopies:
    numbers = [number for one in lists for number in one]
    rows = torch.zeros(len(numbers), dtype=torch.int64)
    for row, one in enumerate(lists):
        rows[one] = row
    longest = max(map(len, lists), default=0)
    sizes = [sum(len(one) > turn for one in lists) for turn in range(longest)]
    lengths = torch.tensor([len(one) for one in lists], dtype=torch.int64)
    return row_copies(rows, torch.tensor(numbers, dtype=torch.int64), lengths, sizes)


def sums(x: Tensor, lists: list[list[int]]) -> Tensor:
    """In fp32, in the stated order, rounded once."""
    found = torch.zeros(len(lists), x.shape[1])
    for row, one in enumerate(lists):
        for number in one:
            found[row] += x[number].float()
    return found.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LISTS)
def test_sums_have_the_bits_of_a_loop_and_copies_are_their_backward(name: str, dtype: torch.dtype) -> None:
    lists = LISTS[name]
    copies = copies_of(lists)
    generator = torch.Generator().manual_seed(3)
    number = sum(map(len, lists))
    x_CD = torch.randn(number, 5, generator=generator).to(dtype).requires_grad_()
    rows_ND = torch.randn(len(lists), 5, generator=generator).to(dtype).requires_grad_()
    total = sum_copies(x_CD, copies)
    assert torch.equal(total, sums(x_CD.detach(), lists))
    copied = copy_rows(rows_ND, copies)
    for row, one in enumerate(lists):
        assert torch.equal(copied[one], rows_ND[row].expand(len(one), 5))
    total.backward(rows_ND.detach())
    assert torch.equal(x_CD.grad, copied.detach())
    copied.backward(x_CD.detach())
    assert torch.equal(rows_ND.grad, total.detach())


def test_a_stable_order_is_that_of_a_stable_sort() -> None:
    keys = torch.randint(0, 300, (5000,), generator=torch.Generator().manual_seed(1))
    expected = sorted(range(5000), key=lambda index: int(keys[index]))
    assert stable_order(keys).tolist() == expected
