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
from runtime.training.grad_norm import is_expert, is_split_over_tp
from runtime.training.held_tensors import VALUE, held_tensors


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
    held = held_tensors(engine.optimizer)
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


def _adam(optimizer: torch.optim.Optimizer | DeepSpeedZeroOptimizer) -> torch.optim.Optimizer:
    return optimizer.optimizer if isinstance(optimizer, DeepSpeedZeroOptimizer) else optimizer


def is_owner(parameter: Tensor, groups: RankGroups, *, partitioned: bool) -> bool:
    """Whether this rank is the first of those that hold the same elements."""
    if is_expert(parameter):
        return partitioned or groups.edp.rank == 0
    first_copy = is_split_over_tp(parameter) or groups.tp.rank == 0
    return first_copy and (partitioned or groups.data.rank == 0)
