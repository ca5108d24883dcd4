"""Autograd functions of pipeline transfers: they make send and receive part of a stage's graph.

A stage's graph begins with `recv_activations`, whose backward sends the gradient back, and ends with
`send_activations`, whose backward receives the gradient from the next stage. `send_activations` returns zero,
to which the stage's own losses are added.
"""

from typing import Any

import torch
from torch import Tensor

from runtime.parallel.pipeline_p2p import P2PChannel

# R sequences of a chunk, S tokens of each, C columns of the hidden dim that this rank sends or receives


def recv_activations(channel: P2PChannel, micro_batch: int, chunk: int) -> Tensor:
    """A chunk of activations, [R, S, C]; backward sends their gradient to the previous stage."""
    return _Receive.apply(channel.anchor, channel, micro_batch, chunk)


def send_activations(x_RSC: Tensor, channel: P2PChannel, micro_batch: int, chunk: int) -> Tensor:
    """Sends a chunk of activations and returns zero (fp32), whose backward receives their gradient."""
    return _Send.apply(x_RSC, channel, micro_batch, chunk)


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, channel: P2PChannel, micro_batch: int, chunk: int) -> Tensor:
        ctx.channel, ctx.micro_batch, ctx.chunk = channel, micro_batch, chunk
        return channel.recv(micro_batch, chunk)

    @staticmethod
    def backward(ctx: Any, grad_RSC: Tensor) -> tuple[Tensor | None, ...]:
        ctx.channel.send(ctx.micro_batch, ctx.chunk, grad_RSC)
        return None, None, None, None


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RSC: Tensor, channel: P2PChannel, micro_batch: int, chunk: int) -> Tensor:
        ctx.channel, ctx.micro_batch, ctx.chunk = channel, micro_batch, chunk
        channel.send(micro_batch, chunk, x_RSC)
        return torch.zeros((), device=x_RSC.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # `grad` is the engine's scale of this stage's loss; the received gradient is scaled already.
        return ctx.channel.recv(ctx.micro_batch, ctx.chunk), None, None, None
