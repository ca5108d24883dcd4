"""One rank's training state as views with global names: what a save reads and a load writes.

Both use the same list. The value of a parameter is its most precise copy: the fp32 master weight if there is
one. Under ZeRO 1 and 2 a rank holds a flat range of a parameter's local tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from model.collectives import Shard
from runtime.parallel.groups import RankGroups
from runtime.training.fused_update import moments
from runtime.training.grad_norm import is_expert, is_split_over_tp

VALUE = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class View:
    """A tensor of the training state, in place.

    name: of the parameter in the full model. kind: "weight", "exp_avg" or "exp_avg_sq".
    shard: where this rank's local tensor, of `shape` without its padding, sits in the global one.
    flat: the range of the flattened local tensor that `tensor` holds; None if it holds all of it.
    is_owner: exactly one rank of the world is, for each element; it writes the checkpoint.
    """

    name: str
    kind: str
    shard: Shard
    shape: tuple[int, ...]
    flat: tuple[int, int] | None
    tensor: Tensor
    is_owner: bool


def views(engine: DeepSpeedEngine, groups: RankGroups) -> Iterator[View]:
    """Every buffer, every parameter and both Adam moments that this rank holds, in a fixed order.

    Before the first step Adam has no moments; they are created as zeros, as in its first step.
    """
    names = {id(p): name.removeprefix("model.") for name, p in engine.module.named_parameters()}
    shards = engine.module.model.shards()
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer):
        held = _partitioned(engine.optimizer)
    else:
        held = _unpartitioned(engine.optimizer)
    first = groups.data.rank == 0 and groups.tp.rank == 0
    for name, buffer in engine.module.model.named_buffers():
        shape = tuple(buffer.shape)
        where = Shard(shape, (0,) * buffer.dim())
        yield View(name=name, kind=VALUE, shard=where, shape=shape, flat=None, tensor=buffer, is_owner=first)
    for parameter, flat, tensors in held:
        name = names[id(parameter)]
        shard = shards[name]
        real = shard.real(parameter)
        owner = is_owner(parameter, groups, partitioned=flat is not None)
        if flat is not None:  # padding is at the end
            flat = (flat[0], min(flat[1], real.numel()))
            if flat[0] >= flat[1]:
                continue
        for kind, tensor in tensors.items():
            yield View(
                name=name,
                kind=kind,
                shard=shard,
                shape=tuple(real.shape),
                flat=flat,
                tensor=shard.real(tensor) if flat is None else tensor[: flat[1] - flat[0]],
                is_owner=owner,
            )


def refresh_weights(engine: DeepSpeedEngine) -> None:
    """After a load under ZeRO: copies master weights into the weights and gathers the peers'. Collective."""
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer):
        engine.optimizer.update_lp_params()


def set_optimizer_steps(engine: DeepSpeedEngine, steps: int) -> None:
    """Sets Adam's number of updates, for its bias correction."""
    for state in _adam(engine.optimizer).state.values():
        state["step"].fill_(steps)


def optimizer_steps(engine: DeepSpeedEngine) -> int:
    """The number of updates Adam has made, without skipped steps."""
    counts = {int(state["step"]) for state in _adam(engine.optimizer).state.values()}
    assert len(counts) <= 1, f"Adam's parameters disagree on their step: {counts}"
    return counts.pop() if counts else 0


# A parameter, the flat range of it that this rank holds (None: all), and its value and moments there.
HeldTensors = Iterator[tuple[Tensor, tuple[int, int] | None, dict[str, Tensor]]]


def _unpartitioned(optimizer: torch.optim.Optimizer) -> HeldTensors:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = moments(optimizer, parameter)
            yield parameter, None, {VALUE: parameter.data} | {kind: state[kind] for kind in MOMENTS}


def _partitioned(optimizer: DeepSpeedZeroOptimizer) -> HeldTensors:
    """DeepSpeed 0.19.8 concatenates a group's parameters and cuts the result into equal partitions.

    Offsets: stage_1_and_2.py, round_robin_bit16_offsets (round robin itself is off in our config).
    """
    for index, parameters in enumerate(optimizer.round_robin_bit16_groups):
        master = optimizer.single_partition_of_fp32_groups[index]
        state = moments(optimizer.optimizer, master)
        tensors = {VALUE: master.data} | {kind: state[kind] for kind in MOMENTS}
        size = optimizer.partition_size[index]
        first = torch.distributed.get_rank(optimizer.real_dp_process_group[index]) * size
        for parameter, offset in zip(parameters, optimizer.round_robin_bit16_offsets[index], strict=True):
            start = max(offset, first)
            stop = min(offset + parameter.numel(), first + size)
            if start < stop:
                flat = (start - offset, stop - offset)
                yield parameter, flat, {k: t[start - first : stop - first] for k, t in tensors.items()}


def _adam(optimizer: torch.optim.Optimizer | DeepSpeedZeroOptimizer) -> torch.optim.Optimizer:
    return optimizer.optimizer if isinstance(optimizer, DeepSpeedZeroOptimizer) else optimizer


def is_owner(parameter: Tensor, groups: RankGroups, *, partitioned: bool) -> bool:
    """Whether this rank is the first of those that hold the same elements."""
    if is_expert(parameter):
        return partitioned or groups.edp.rank == 0
    first_copy = is_split_over_tp(parameter) or groups.tp.rank == 0
    return first_copy and (partitioned or groups.data.rank == 0)
