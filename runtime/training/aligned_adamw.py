"""AdamW by torch's fused kernel, with the same rounding for every element on a CPU, wherever it lies.

torch 2.13's CPU kernel (aten/src/ATen/native/cpu/FusedAdamKernel.cpp) computes the last elements of a tensor,
which do not fill a vector register, one by one, and rounds some of them otherwise. Under ZeRO a rank updates
a flat partition: a parameter that TP partners share lies at another place in each one's, and would drift
apart by where partitions end. Here such elements are copied to a tensor of a register's size, updated there,
and copied back.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

# fp32 in a register of AVX-512; registers of others hold a divisor of it.
_LANES = 16


class AlignedAdamW(AdamW):
    """A torch AdamW that steps so; an existing one gets this class, and its state stays as it is."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the loss is not computed again"
        for group in self.param_groups:
            self._update([p for p in group["params"] if p.grad is not None], group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        held: list[tuple[Tensor, ...]] = []  # parameter, gradient, both moments
        counts: list[Tensor] = []
        tails: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []
        for parameter in parameters:
            assert parameter.dtype == torch.float32, f"AdamW updates fp32, not {parameter.dtype}"
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
            assert parameter.grad is not None
            own = (parameter, parameter.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"])
            flat = tuple([tensor.detach().view(-1) for tensor in own])
            whole = len(flat[0]) // _LANES * _LANES
            if whole:
                held.append(tuple([tensor[:whole] for tensor in flat]))
                counts.append(state["step"])
            if whole < len(flat[0]):
                ends = tuple([tensor[whole:] for tensor in flat])
                padded = tuple([end.new_zeros(_LANES) for end in ends])
                for end, copy in zip(ends, padded, strict=True):
                    copy[: len(end)] = end
                held.append(padded)
                counts.append(state["step"])
                tails.append((ends, padded))
        if not held:
            return
        weights, gradients, averages, squares = (list(tensors) for tensors in zip(*held, strict=True))
        torch._fused_adamw_(
            weights,
            gradients,
            averages,
            squares,
            [],
            counts,
            lr=float(group["lr"]),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        for ends, padded in tails:
            for end, copy in zip(ends, padded, strict=True):
                end.copy_(copy[: len(end)])


def align(optimizer: Optimizer) -> None:
    """Gives a torch AdamW on a CPU this step."""
    assert type(optimizer) is AdamW, type(optimizer)
    optimizer.__class__ = AlignedAdamW
    optimizer._patch_step_function()  # torch does that in the constructor: hooks around a step
