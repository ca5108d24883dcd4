"""Which pieces each rank of a plan writes into a checkpoint, without its ranks, engine or weights.

engine_state.py says the same of an engine that runs; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import prod

import torch
from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer
from torch import Tensor

from planner import Plan
from planner.memory.optimizer_state import partition_elements
from planner.plan.ds_config import zero_stage
from runtime.checkpoint.engine_state import is_owner
from runtime.checkpoint.safetensors_writer import OwnedPiece
from runtime.parallel.groups import RankGroups, tables_of
from runtime.training.engine import parameter_groups
from runtime.training.grad_norm import is_expert
from runtime.training.held_tensors import MOMENTS, VALUE
from runtime.training.training_model import make_shard


def planned_pieces(
    plan: Plan, rank: int, dtype_of: Callable[[str, str], torch.dtype]
) -> Iterator[OwnedPiece]:
    """The pieces of a rank, with tensors on torch's meta device.

    Args:
        dtype_of: of a tensor by its name and kind.
    """
    groups = tables_of(plan, rank)
    with torch.device("meta"):
        model = make_shard(plan.strategy, groups)
    shards = model.shards()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if groups.data.rank == 0 and groups.tp.rank == 0:
        for name, buffer in model.named_buffers():
            shape = tuple(buffer.shape)
            yield _piece(name, VALUE, shape, (0,) * len(shape), shape, None, dtype_of)
    is_partitioned = zero_stage(plan) > 0
    for parameter, flat in _held(model, plan, groups, is_partitioned=is_partitioned):
        name = names[id(parameter)]
        shard = shards[name]
        shape = tuple(shard.real(parameter).shape)
        if flat is not None:
            flat = (flat[0], min(flat[1], prod(shape)))
            if flat[0] >= flat[1]:
                continue
        if is_owner(parameter, groups, partitioned=is_partitioned):
            for kind in (VALUE, *MOMENTS):
                yield _piece(name, kind, shard.global_shape, shard.offsets, shape, flat, dtype_of)


def _held(
    model: torch.nn.Module, plan: Plan, groups: RankGroups, *, is_partitioned: bool
) -> Iterator[tuple[Tensor, tuple[int, int] | None]]:
    """Each parameter, in the optimizer's order; under ZeRO those of which the rank has a part, and the range
    of its elements.

    DeepSpeed concatenates a group's parameters and cuts the result into equal partitions.
    """
    decay = plan.strategy.training.optimizer.weight_decay
    for group in split_params_into_different_moe_groups_for_optimizer(parameter_groups(model, decay)):
        parameters: Sequence[Tensor] = group["params"]
        if not parameters:
            continue
        if not is_partitioned:
            yield from ((parameter, None) for parameter in parameters)
            continue
        peers = groups.edp if is_expert(parameters[0]) else groups.data
        offsets = list(accumulate((parameter.numel() for parameter in parameters), initial=0))
        size = partition_elements(offsets[-1], peers.size)
        first = peers.rank * size
        for parameter, offset in zip(parameters, offsets, strict=False):
            start, stop = max(offset, first), min(offset + parameter.numel(), first + size)
            if start < stop:
                yield parameter, (start - offset, stop - offset)


def _piece(
    name: str,
    kind: str,
    global_shape: tuple[int, ...],
    offsets: tuple[int, ...],
    shape: tuple[int, ...],
    flat: tuple[int, int] | None,
    dtype_of: Callable[[str, str], torch.dtype],
) -> OwnedPiece:
    held = shape if flat is None else (flat[1] - flat[0],)
    return OwnedPiece(
        name=name,
        kind=kind,
        global_shape=global_shape,
        offsets=offsets,
        shape=shape,
        flat=flat,
        tensor=torch.empty(held, dtype=dtype_of(name, kind), device="meta"),
    )
