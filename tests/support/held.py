"""Memory of a live rank's tensors by cause; each storage counts once."""

import gc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.experts import Experts
from model.observers import NO_CLOCK
from planner import Plan
from runtime.data.rows import Rows
from runtime.training.gradient_sums import GradientSums
from runtime.training.lean_zero import LeanZeroOptimizer
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from tests.support.layout import start
from tests.support.live_memory import watch
from tests.support.reference import tokens_of


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes on one rank: state right after a step, and the most that gradients took on the way."""

    weights: int
    masters: int
    moments: int
    gradients: int
    everything: int  # in any tensor that Python knows, right after the step
    largest: int  # of the rank's tensors
    num_groups: int  # of the optimizer
    peaks: dict[str, int]  # of all tensors, in each phase of a step
    rows: int  # the most that its experts got at once


def held_by_rank(plan: Plan) -> Held:
    """Runs two steps of `plan` on this rank and weighs what it holds."""
    # What the parent of the forked ranks holds (tests before this one) is not this rank's.
    inherited = all_tensors()
    engine, groups = start(plan)
    peak, live = _Peak(engine), watch(engine)
    known = {t.untyped_storage().data_ptr() for t in inherited}
    for tensor in all_tensors():
        if tensor.untyped_storage().data_ptr() not in known:
            live.track(tensor)
    rows: list[int] = []
    for module in engine.modules():
        if isinstance(module, Experts):
            module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    for step in range(2):
        live.peaks.clear()  # the first step makes the optimizer's state
        live.enter("forward")
        data = Rows(tokens_BS1=tokens_of(plan.strategy, step))
        batches = training_batches(data.part, plan.batch, groups.stage, groups.data.rank, engine.device)
        totals = data.totals()
        with live:
            train_step(engine, groups, batches, totals, NO_CLOCK)
        del batches
        live.enter("between steps")
        live.look()
    adam = getattr(engine.optimizer, "optimizer", engine.optimizer)
    masters = getattr(engine.optimizer, "single_partition_of_fp32_groups", [])
    weights = [*engine.module.parameters(), *engine.module.buffers()]
    weights += getattr(engine.optimizer, "bit16_groups_flat", [])
    # fp32 weights are their own masters.
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    masters = [master for master in masters if master.untyped_storage().data_ptr() not in own]
    return Held(
        weights=weigh(weights),
        masters=weigh(masters),
        moments=weigh(tensor for state in adam.state.values() for tensor in state.values()),
        gradients=peak.bytes,
        everything=weigh(all_tensors()) - weigh(inherited),
        largest=max(p.numel() * p.element_size() for p in engine.module.parameters()),
        num_groups=len(adam.param_groups),
        peaks=live.peaks,
        rows=max(rows, default=0),
    )


def weigh(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind some tensors."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def all_tensors() -> list[Tensor]:
    gc.collect()
    # By type: isinstance would ask lazy modules, which warn of what they no longer have.
    found = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
    return [t for t in found if t.device.type == "cpu" and t.layout is torch.strided]


class _Peak:
    """Looks at all gradients whenever one is made, reduced, or given to the optimizer."""

    def __init__(self, engine: Any) -> None:
        self.bytes = 0
        self.engine = engine
        self.parameters = list(engine.module.parameters())
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(lambda _: self.look())
        optimizer = engine.optimizer
        if isinstance(optimizer, LeanZeroOptimizer):
            for name in ("copy_grads_in_partition", "reduce_ipg_grads", "step"):
                setattr(optimizer, name, self._looking(getattr(optimizer, name)))
        else:
            optimizer.register_step_pre_hook(lambda *_: self.look())

    def _looking(self, call: Any) -> Any:
        """The call, between two looks."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.look()
            result = call(*args, **kwargs)
            self.look()
            return result

        return run

    def look(self) -> None:
        optimizer = self.engine.optimizer
        found = [p.grad for p in self.parameters if p.grad is not None]
        aside: list[Tensor] = []
        if isinstance(optimizer, LeanZeroOptimizer):
            lists = [*optimizer.averaged_gradients.values(), *optimizer.all_grad_tensors.values()]
            found += [t for held in lists if held is not None for t in held]
            sums = getattr(optimizer.process_gradients, "__self__", None)
            if isinstance(sums, GradientSums):
                found += sums._sums.values()
            if optimizer.grads_in_partition is not None:
                found.append(optimizer.grads_in_partition)
            aside = [buffer for bucket in optimizer.ipg_buckets.values() for buffer in bucket.buffer]
        buckets = {buffer.untyped_storage().data_ptr() for buffer in aside}
        counted = weigh(t for t in found if t.untyped_storage().data_ptr() not in buckets)
        self.bytes = max(self.bytes, counted)
