"""FP8 products split over TP: the codes of one process to the bit, its results within 1e-5."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.collectives import ModelGroups, copy_to_tp, share_of
from model.e4m3 import quantize
from model.float8 import quantize_both
from model.linear import make_column_linear, make_row_linear, use_float8
from model.lm_head import chunked_cross_entropy, make_lm_head
from tests.support.float8_reference import product_in_fp8, wild
from tests.support.model_cases import relative
from tests.support.model_layouts import group_of
from tests.support.ranks import run_ranks

ROWS, INPUTS, OUTPUTS = 24, 40, 32  # 2 and 4 divide them, 3 does not
TOLERANCE = 1e-5


def shared() -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and the gradient of x Wᵀ, alike in every process; their largest values are in a few columns,
    which only one partner holds."""
    return (
        wild((ROWS, INPUTS), torch.float32, 1),
        wild((OUTPUTS, INPUTS), torch.float32, 2),
        wild((ROWS, OUTPUTS), torch.float32, 3),
    )


def part(size: int, tp: Any) -> slice:
    start, length = share_of(size, tp)
    return slice(start, start + length)


def _codes(split: str) -> list[bool]:
    """Whether this rank's codes and scales are its part of those of the whole product."""
    x, weight, grad = shared()
    tp = group_of(dist.get_world_size())
    if split == "inputs":
        mine = part(INPUTS, tp)
        whole = (quantize(x), quantize(weight))
        found = quantize_both(x[:, mine], weight[:, mine], -1, tp)
        expected = [(q.codes[:, mine], q.scales) for q in whole]
    else:
        mine = part(OUTPUTS, tp)
        a, b = quantize(grad), quantize(weight, -2)
        found = quantize_both(grad[:, mine], weight[mine], -2, tp)
        expected = [(a.codes[:, mine], a.scales), (b.codes[mine], b.scales)]
    return [
        torch.equal(q.codes.view(torch.uint8), codes.view(torch.uint8)) and torch.equal(q.scales, scales)
        for q, (codes, scales) in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("split", ["inputs", "outputs"])
@pytest.mark.parametrize("tp", [2, 3, 4])
def test_codes_and_scales_are_those_of_one_process(split: str, tp: int) -> None:
    assert run_ranks(tp, _codes, split) == [[True, True]] * tp


def _layer(kind: str) -> tuple[Tensor, Tensor, slice, Tensor]:
    """Output, gradient of the input, this rank's part of the weight and its gradient; None: not split."""
    x, weight, grad = shared()
    tp = group_of(dist.get_world_size())
    groups = ModelGroups(tp=tp)
    make = make_column_linear if kind == "column" else make_row_linear
    layer: nn.Module = make(INPUTS, OUTPUTS, groups)
    use_float8(layer)
    x.requires_grad_()
    if kind == "column":
        mine = part(OUTPUTS, tp)
        with torch.no_grad():
            layer.shard.real(layer.weight).copy_(weight[mine])
        y = layer(copy_to_tp(x, tp))
        y.backward(grad[:, mine])
    else:
        mine = part(INPUTS, tp)
        with torch.no_grad():
            layer.weight.copy_(weight[:, mine])
        y = layer(x[:, mine])
        y.backward(grad)
    return y.detach(), x.grad, mine, layer.shard.real(layer.weight.grad)


def assert_rows_close(found: Tensor, expected: Tensor) -> None:
    """Row by row: rows are of very different size."""
    for row, wanted in zip(found, expected, strict=True):
        assert relative(row.double(), wanted) < TOLERANCE or wanted.norm() == row.norm() == 0


@pytest.mark.parametrize("tp", [2, 3, 4])
def test_a_column_parallel_layer_is_that_of_one_process(tp: int) -> None:
    """The input's gradient sums over the outputs, which are split."""
    y_whole, grad_x, grad_weight = product_in_fp8(*shared())
    for y, found_grad_x, mine, found_grad_weight in run_ranks(tp, _layer, "column"):
        assert_rows_close(y, y_whole[:, mine])
        assert_rows_close(found_grad_x, grad_x)
        assert_rows_close(found_grad_weight, grad_weight[mine])


@pytest.mark.parametrize("tp", [2, 3, 4])
def test_a_row_parallel_layer_is_that_of_one_process(tp: int) -> None:
    """The output sums over the inputs, which are split."""
    y_whole, grad_x, grad_weight = product_in_fp8(*shared())
    for y, found_grad_x, mine, found_grad_weight in run_ranks(tp, _layer, "row"):
        assert_rows_close(y, y_whole)
        assert_rows_close(found_grad_x[:, mine], grad_x[:, mine])
        assert_rows_close(found_grad_weight, grad_weight[:, mine])


def _head(hidden: int, vocabulary: int, chunk_tokens: int) -> tuple[float, Tensor, Tensor]:
    """Loss, gradient of the input, this rank's part of the weight's gradient."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(ROWS, hidden, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, hidden, generator=generator)
    targets = torch.randint(0, vocabulary, (ROWS,), generator=generator)
    tp = group_of(dist.get_world_size())
    head = make_lm_head(hidden, vocabulary, ModelGroups(tp=tp))
    use_float8(head)
    with torch.no_grad():
        shard = head.weight if tp is None else head.shard.real(head.weight)
        shard.copy_(weight[part(vocabulary, tp)])
    loss = chunked_cross_entropy(head, x, targets, None, chunk_tokens).sum
    loss.backward()
    grad = head.weight.grad if tp is None else head.shard.real(head.weight.grad)
    return loss.item(), x.grad, grad


@pytest.mark.parametrize("vocabulary", [64, 67])
def test_the_head_s_loss_and_gradients_are_those_of_one_process(vocabulary: int) -> None:
    """Logits differ by rounding only, but a gradient near a border between two codes may take the other:
    the two runs are held to the noise of one rounding of the logits."""
    ((loss, grad_x, grad_weight),) = run_ranks(1, _head, 16, vocabulary, 7)
    ranks = run_ranks(3, _head, 16, vocabulary, 7)
    for found, found_grad_x, _ in ranks:
        assert abs(found / loss - 1) < 1e-6
        assert relative(found_grad_x, grad_x) < 1e-3
    assert relative(torch.cat([grad for *_, grad in ranks]), grad_weight) < TOLERANCE


def _without_the_maximum(call: Any) -> Any:
    import model.float8

    model.float8.max_over_tp = lambda x, group: x
    return call()


def test_without_the_maximum_over_tp_the_comparison_fails() -> None:
    """So that it can: scales of one partner's part alone are other scales."""
    for split in ("inputs", "outputs"):
        found = run_ranks(2, _without_the_maximum, partial(_codes, split))
        assert not all(all(rank) for rank in found)
