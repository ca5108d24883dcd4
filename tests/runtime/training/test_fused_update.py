"""The update of many pieces: AdamW's definition in bf16 and fp32, wherever pieces and chunks end."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.training import fused_update
from runtime.training.fused_update import Piece

GROUP: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
SIZE = 5000


def _state(dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Master, weight and the gradients of three steps."""
    generator = torch.Generator().manual_seed(0)
    weight, *gradients = torch.randn(4, SIZE, generator=generator).to(dtype).unbind(0)
    return weight.float(), weight.clone(), [gradient.contiguous() for gradient in gradients]


def _updated(dtype: torch.dtype, ends: tuple[int, ...] = (), divisor: float | None = None) -> list[Tensor]:
    """Master, both moments and the weight after three updates of pieces that end at `ends`."""
    master, weight, gradients = _state(dtype)
    average, square, steps = torch.zeros(SIZE), torch.zeros(SIZE), torch.zeros(())
    for gradient in gradients:
        steps += 1
        whole = Piece(
            master=master,
            gradient=gradient,
            average=average,
            square=square,
            steps=steps,
            rounded=weight if dtype != torch.float32 else None,
        )
        cuts = [0, *ends, SIZE]
        pieces = [whole.part(start, stop) for start, stop in pairwise(cuts)]
        fused_update.fused_update(pieces, GROUP, None if divisor is None else torch.tensor(divisor))
    return [master, average, square, weight]


def _by_definition(dtype: torch.dtype, divisor: float) -> Tensor:
    """Loshchilov and Hutter 2019, algorithm 2, in fp64."""
    weight, _, gradients = _state(dtype)
    exact, mean, squares = weight.double(), torch.zeros(SIZE).double(), torch.zeros(SIZE).double()
    for step, gradient in enumerate(gradients, 1):
        g = gradient.double() / divisor
        mean, squares = 0.9 * mean + 0.1 * g, 0.95 * squares + 0.05 * g**2
        unbiased = (squares / (1 - 0.95**step)).sqrt() + 1e-8
        exact = exact * (1 - 3e-3 * 0.1) - 3e-3 * (mean / (1 - 0.9**step)) / unbiased
    return exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("divisor", [None, 40.0])
def test_updates_are_those_of_the_definition(dtype: torch.dtype, divisor: float | None) -> None:
    master, _, square, weight = _updated(dtype, divisor=divisor)
    torch.testing.assert_close(master.double(), _by_definition(dtype, divisor or 1.0), rtol=1e-6, atol=1e-7)
    if dtype != torch.float32:
        assert torch.equal(weight, master.to(dtype))
    # AdamW hides a factor of all gradients in its weights; its moments do not.
    plain = _updated(dtype)[2]
    torch.testing.assert_close(square * (divisor or 1.0) ** 2, plain, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [64, 1024, 2**19])
def test_where_pieces_and_chunks_end_does_not_show(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _updated(dtype)
    monkeypatch.setattr(fused_update, "update_chunk_elements", lambda *, is_cpu: at_once)
    for found, expected in zip(_updated(dtype, (7, 300, 301, 2049)), whole, strict=True):
        assert torch.equal(found, expected)
