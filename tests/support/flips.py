"""Bit flips in a training state: where a seed says, on one rank, once; and what a run with one comes to."""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from model.observers import NO_CLOCK
from planner import Plan
from runtime.checkpoint.engine_state import views
from runtime.data.rows import Rows
from runtime.training.corruption import Corrupted
from runtime.training.held_tensors import MOMENTS, VALUE, held_tensors
from runtime.training.lr_schedule import learning_rate
from runtime.training.micro_batch import training_batches
from runtime.training.step_checks import StepChecks
from runtime.training.train_step import train_step
from tests.support.layout import start
from tests.support.reference import tokens_of

Kind = Literal["weight", "moment", "master", "gradient", "activation"]
STEPS = 3
_BITS = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class Flip:
    """Of one bit. The seed chooses parameter, element and bit; `name`: only of parameters that have it in
    theirs. Weights, moments and masters flip before the step begins, the others within it."""

    kind: Kind
    rank: int
    step: int
    seed: int
    name: str = ""


@dataclass(frozen=True)
class Course:
    """What a rank saw. code: of the check that ended the run, "" if none did. final: of its whole state.

    flipped: where the flip was; "" on other ranks.
    """

    code: str
    step: int
    ranks: tuple[int, ...]
    whats: tuple[str, ...]
    losses: tuple[float, ...]
    final: str
    flipped: str


def run_flipped(plan: Plan, flip: Flip | None, folder: Any = None) -> Course:
    """On each rank: `STEPS` steps with the plan's checks."""
    engine, groups = start(plan)
    checks = StepChecks(plan, engine, groups, folder)
    training, losses, flipped = plan.strategy.training, [], ""
    step, error = 0, None
    try:
        for step in range(1, STEPS + 1):
            for group in engine.optimizer.param_groups:
                group["lr"] = learning_rate(step, training, STEPS)
            rows = Rows(tokens_BS1=tokens_of(plan.strategy, step - 1))
            batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
            is_here = flip is not None and flip.rank == dist.get_rank() and flip.step == step
            with _flipping(engine, flip) if is_here and flip is not None else _nothing() as where:
                outcome = train_step(
                    engine, groups, batches, rows.totals(), NO_CLOCK, checks=checks, step=step
                )
            flipped = flipped or "".join(where)
            checks.after_update()
            losses.append(outcome.loss)
    except Corrupted as found:
        error = found
    if flip is not None and flip.rank == dist.get_rank():
        assert error is not None or flipped, "the flip did not happen"
    return Course(
        code="" if error is None else error.code,
        step=step,
        ranks=() if error is None else error.ranks,
        whats=() if error is None else tuple(finding.what for finding in error.findings),
        losses=tuple(losses),
        final=_digest(engine, groups),
        flipped=flipped,
    )


def flip_bit(x: Tensor, chance: random.Random) -> None:
    """Of one element, in place."""
    bits = x.detach().view(-1).view(_BITS[x.element_size()])
    place, bit = chance.randrange(len(bits)), chance.randrange(8 * x.element_size())
    sign = 8 * x.element_size() - 1
    bits[place] ^= -(1 << sign) if bit == sign else 1 << bit


@contextmanager
def _nothing() -> Iterator[list[str]]:
    yield []


@contextmanager
def _flipping(engine: Any, flip: Flip) -> Iterator[list[str]]:
    """Yields where it was, once it has been."""
    chance = random.Random(flip.seed)
    where: list[str] = []
    if flip.kind in ("weight", "moment", "master"):
        name, x = chance.choice([one for one in _state(engine, flip.kind) if flip.name in one[0]])
        flip_bit(x, chance)
        where.append(name)
        yield where
        return
    hooks = []
    if flip.kind == "gradient":
        name, parameter = chance.choice([p for p in engine.module.named_parameters() if flip.name in p[0]])

        def change(gradient: Tensor) -> Tensor | None:
            return None if where else _changed(gradient, chance, where, name)

        hooks.append(parameter.register_hook(change))
    else:
        modules = [m for m in engine.module.named_modules() if m[1]._parameters and flip.name in m[0]]
        # Of the outputs in their order; some modules return no tensor, or get no tokens.
        first = chance.randrange(max(1, len(modules) // 2))
        seen: list[str] = []

        def spoil(name: str) -> Callable[..., Tensor | None]:
            def change_output(module: Any, arguments: Any, output: Any) -> Tensor | None:
                if where or not isinstance(output, Tensor) or not output.numel():
                    return None
                seen.append(name)
                return _changed(output, chance, where, name) if len(seen) > first else None

            return change_output

        hooks += [module.register_forward_hook(spoil(name)) for name, module in modules]
    try:
        yield where
    finally:
        for hook in hooks:
            hook.remove()


def _changed(x: Tensor, chance: random.Random, where: list[str], name: str) -> Tensor:
    """A copy with a flip; to autograd it is a constant away from `x`, or it would not learn of it."""
    copy = x.detach().clone(memory_format=torch.contiguous_format)
    flip_bit(copy, chance)
    where.append(name)
    return _Replaced.apply(x, copy) if x.requires_grad else copy


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor) -> Tensor:
        return other

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _state(engine: Any, kind: Kind) -> list[tuple[str, Tensor]]:
    names = {id(p): name for name, p in engine.module.named_parameters()}
    if kind == "weight":
        return [(name, p.data) for name, p in engine.module.named_parameters()]
    found = []
    for parameter, _, tensors in held_tensors(engine.optimizer):
        kinds = MOMENTS if kind == "moment" else (VALUE,)
        found += [(f"{each} {names[id(parameter)]}", tensors[each]) for each in kinds]
    return found


def _digest(engine: Any, groups: Any) -> str:
    found = hashlib.sha256()
    for x in (*(view.tensor for view in views(engine, groups)), *engine.module.parameters()):
        found.update(x.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
