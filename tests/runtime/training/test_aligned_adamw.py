"""The optimizer's step on a CPU: AdamW's definition, and the same bits wherever an element lies."""

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from runtime.training.aligned_adamw import AlignedAdamW, align

SIZES = (1, 7, 15, 16, 17, 33, 1000, 4099)


def _stepped(optimizer_class: type[AdamW], weight: Tensor, gradients: list[Tensor]) -> Tensor:
    parameter = torch.nn.Parameter(weight.clone())
    optimizer = optimizer_class([parameter], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def _values(size: int) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(size)
    weight, *gradients = torch.randn(6, size, generator=generator).unbind(0)
    return weight, gradients


def _whole_and_cut(optimizer_class: type[AdamW]) -> tuple[Tensor, Tensor]:
    """7,168 elements updated at once, and in parts of 7."""
    weight, gradients = _values(7 * 1024)
    parts = [
        _stepped(optimizer_class, weight[start : start + 7], [g[start : start + 7] for g in gradients])
        for start in range(0, len(weight), 7)
    ]
    return _stepped(optimizer_class, weight, gradients), torch.cat(parts)


def test_where_a_tensor_is_cut_does_not_show() -> None:
    whole, cut = _whole_and_cut(AlignedAdamW)
    assert torch.equal(whole, cut)


@pytest.mark.skipif("AVX" not in torch.backends.cpu.get_cpu_capability(), reason="other vector registers")
def test_torchs_own_kernel_still_rounds_the_last_elements_otherwise() -> None:
    """A failure is good news: runtime/training/aligned_adamw.py can go."""
    whole, cut = _whole_and_cut(AdamW)
    assert not torch.equal(whole, cut)


@pytest.mark.parametrize("size", SIZES)
def test_steps_are_those_of_the_definition(size: int) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in fp64."""
    weight, gradients = _values(size)
    exact, mean, square = weight.double(), torch.zeros(size).double(), torch.zeros(size).double()
    for step, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient.double()
        square = 0.95 * square + 0.05 * gradient.double() ** 2
        unbiased = (square / (1 - 0.95**step)).sqrt() + 1e-8
        exact = exact * (1 - 3e-3 * 0.1) - 3e-3 * (mean / (1 - 0.9**step)) / unbiased
    torch.testing.assert_close(
        _stepped(AlignedAdamW, weight, gradients).double(), exact, rtol=1e-6, atol=1e-7
    )


def test_an_optimizer_keeps_its_state_and_skips_what_has_no_gradient() -> None:
    weight, gradients = _values(33)
    with_gradient, without = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(weight.clone())
    optimizer = AdamW([with_gradient, without], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for step, gradient in enumerate(gradients):
        if step == 2:
            align(optimizer)
        with_gradient.grad = gradient.clone()
        optimizer.step()
    # The last of 33 elements was rounded by torch's kernel twice.
    torch.testing.assert_close(with_gradient.detach(), _stepped(AlignedAdamW, weight, gradients))
    assert int(optimizer.state[with_gradient]["step"]) == len(gradients)
    assert torch.equal(without.detach(), weight)
