"""torch's AdamW on a CPU with the same rounding for every element (fused_update.py says why)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from runtime.training.fused_update import Piece, fused_update, moments


class AlignedAdamW(AdamW):
    """A torch AdamW that steps so; an existing one gets this class, and its state stays as it is.

    grad_scale: divides all gradients, as in torch's own fused step.
    """

    grad_scale: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the loss is not computed again"
        for group in self.param_groups:
            pieces = [self._piece(parameter) for parameter in group["params"] if parameter.grad is not None]
            fused_update(pieces, group, self.grad_scale)

    def _piece(self, parameter: Tensor) -> Piece:
        assert parameter.dtype == torch.float32, f"AdamW updates fp32, not {parameter.dtype}"
        assert parameter.grad is not None
        state = moments(self, parameter)
        state["step"] += 1
        return Piece(
            master=parameter.detach().view(-1),
            gradient=parameter.grad.reshape(-1),
            average=state["exp_avg"].view(-1),
            square=state["exp_avg_sq"].view(-1),
            steps=state["step"],
        )


def align(optimizer: Optimizer) -> None:
    """Gives a torch AdamW on a CPU this step."""
    assert type(optimizer) is AdamW, type(optimizer)
    optimizer.__class__ = AlignedAdamW
    optimizer._patch_step_function()  # torch does that in the constructor: hooks around a step
