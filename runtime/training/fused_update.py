"""AdamW of many pieces of parameters by torch's fused kernel: gradients in any dtype, no copy of all of them.

A gradient that is not fp32 is made so a few at a time, in memory that stays in a processor's cache, and the
weights are rounded from the masters right after these are updated.

On a CPU every element is rounded alike, wherever it lies. torch 2.13's CPU kernel
(aten/src/ATen/native/cpu/FusedAdamKernel.cpp) computes the last elements of a tensor, which do not fill a
vector register, one by one, and rounds some of them otherwise. Under ZeRO a rank updates the pieces of a flat
partition, and where these end depends on the number of data-parallel ranks: so would the bits of an update.
Here such elements are copied to a tensor of a register's size, updated there, and copied back.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from planner.memory.optimizer_state import update_chunk_elements

# fp32 in a register of AVX-512; registers of others hold a divisor of it.
_LANES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Flat tensors of one length. gradient: in any dtype; `steps`: AdamW's count, one element, of this update
    already. rounded: the weight that follows the master, None where the master is the weight."""

    master: Tensor
    gradient: Tensor
    average: Tensor
    square: Tensor
    steps: Tensor
    rounded: Tensor | None = None

    def part(self, start: int, stop: int) -> "Piece":
        return Piece(
            master=self.master[start:stop],
            gradient=self.gradient[start:stop],
            average=self.average[start:stop],
            square=self.square[start:stop],
            steps=self.steps,
            rounded=None if self.rounded is None else self.rounded[start:stop],
        )

    def padded(self) -> "Piece":
        """A copy with zeros to a register's size."""
        return Piece(
            master=_padded(self.master),
            gradient=_padded(self.gradient),
            average=_padded(self.average),
            square=_padded(self.square),
            steps=self.steps,
        )


@torch.no_grad()
def fused_update(pieces: Iterable[Piece], group: dict[str, Any], divisor: Tensor | None) -> None:
    """One AdamW update.

    Args:
        group: with the learning rate and the other settings.
        divisor: of all gradients, an fp32 scalar that clips them; None: they are used as they are.
    """
    direct: list[Piece] = []
    cut: list[Piece] = []
    for piece in pieces:
        is_direct = piece.gradient.dtype == torch.float32 and piece.rounded is None
        (direct if is_direct else cut).append(piece)
    if direct:
        _update(direct, group, divisor, None)
    if not cut:
        return
    device = cut[0].master.device
    chunk = update_chunk_elements(is_cpu=device.type == "cpu")
    size = min(chunk, sum(len(piece.master) for piece in cut)) + _LANES * len(cut)
    is_wide = all(piece.gradient.dtype == torch.float32 for piece in cut)
    scratch = None if is_wide else torch.empty(size, dtype=torch.float32, device=device)
    batch: list[Piece] = []
    filled = 0
    for piece in cut:
        for part in _chunks(piece, chunk):
            if filled + len(part.master) > chunk:
                _update(batch, group, divisor, scratch)
                batch, filled = [], 0
            batch.append(part)
            filled += len(part.master)
    _update(batch, group, divisor, scratch)


def moments(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """AdamW's state of one parameter, created as in torch.optim.AdamW's first step: fused, its count is where
    the parameter is."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


def _chunks(piece: Piece, chunk: int) -> Iterator[Piece]:
    """The piece in parts of at most `chunk` elements, a multiple of a register's size but for the last."""
    if len(piece.master) <= chunk:
        yield piece
        return
    for start in range(0, len(piece.master), chunk):
        yield piece.part(start, min(start + chunk, len(piece.master)))


def _update(
    batch: list[Piece], group: dict[str, Any], divisor: Tensor | None, scratch: Tensor | None
) -> None:
    """Of pieces that `scratch` holds, each filled up to a register's size; None: all gradients are fp32."""
    is_cpu = batch[0].master.device.type == "cpu"
    held: list[Piece] = []
    ends: list[tuple[Piece, Piece]] = []
    for piece in batch:
        length = len(piece.master)
        whole = length // _LANES * _LANES if is_cpu else length
        if whole == length:
            held.append(piece)
            continue
        end = piece.part(whole, length)
        copy = end.padded()
        ends.append((end, copy))
        held += [piece.part(0, whole), copy] if whole else [copy]
    if not held:
        return
    gradients = [piece.gradient for piece in held]
    if scratch is not None:
        sizes = [len(gradient) for gradient in gradients]
        wide = list(scratch[: sum(sizes)].split(sizes))
        torch._foreach_copy_(wide, gradients)
        gradients = wide
    torch._fused_adamw_(
        [piece.master for piece in held],
        gradients,
        [piece.average for piece in held],
        [piece.square for piece in held],
        [],
        [piece.steps for piece in held],
        lr=float(group["lr"]),
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
        grad_scale=divisor,
    )
    for end, copy in ends:
        for own, updated in (
            (end.master, copy.master),
            (end.average, copy.average),
            (end.square, copy.square),
        ):
            own.copy_(updated[: len(own)])
    rounded = [(piece.rounded, piece.master) for piece in batch if piece.rounded is not None]
    if rounded:
        torch._foreach_copy_([low for low, _ in rounded], [master for _, master in rounded])


def _padded(values: Tensor) -> Tensor:
    found = values.new_zeros(_LANES)
    found[: len(values)] = values
    return found
