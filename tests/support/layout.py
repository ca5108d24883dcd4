"""A layout under test: the product's own groups, model, engine and step, with their results recorded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.observers import NO_CLOCK
from planner import Plan, Strategy, build_plan
from runtime.checkpoint.compatibility import Fingerprints
from runtime.checkpoint.engine_state import View, views
from runtime.checkpoint.save_restore import Saver, restore
from runtime.data.rows import Rows
from runtime.parallel.groups import make_groups
from runtime.training.engine import make_engine
from runtime.training.forced_experts import forced_experts
from runtime.training.held_tensors import VALUE
from runtime.training.lean_zero import LeanZeroOptimizer
from runtime.training.lr_schedule import learning_rate
from runtime.training.micro_batch import training_batches
from runtime.training.step_checks import StepChecks
from runtime.training.train_step import train_step
from runtime.training.training_model import build_model
from tests.support.ranks import World, kept, run_ranks
from tests.support.reference import STEPS, Trajectory, tokens_of

Part = tuple[str, str, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, int] | None, np.ndarray]


REPORTED = ("losses", "aux_losses", "z_losses", "norms")


def run_layout(
    strategy: Strategy,
    masks: dict[int, np.ndarray] | None = None,
    before: Callable[[], None] | None = None,
    timeout: float = 120,
    replicas_agree: bool = True,
    world: World | None = None,
    batches: dict[int, Rows] | None = None,
) -> Trajectory:
    """`STEPS` steps in the strategy's layout, put together to global tensors.

    Args:
        masks: by step, bool [global_batch, seq_length], False where padding.
        before: changes something in every rank, before its groups are made; the ranks are then new ones.
        replicas_agree: False lets ranks contradict each other, so that it is the comparison that has to
            notice: the first rank that holds an element is heard.
        world: where it runs, if not in the world of its size that all tests share.
        batches: by step, other rows than `tokens_of`.
    """
    plan = build_plan(strategy)
    if before is not None:
        ranks = run_ranks(plan.world_size, _train, plan, masks, before, timeout=timeout)
    else:
        ranks = (world or kept(plan.world_size)).run(
            _train, plan, masks, None, None, batches, timeout=timeout
        )
    return _together(plan, ranks, replicas_agree)


def run_relay(*strategies: Strategy, folder: Path, at: tuple[int, ...]) -> Trajectory:
    """Steps in one strategy's layout after the other's; the next continues from a checkpoint in `folder`
    after so many steps in all."""
    courses = []
    ends = (0, *at, STEPS)
    for i, strategy in enumerate(strategies):
        leg = Leg(
            first=ends[i],
            last=ends[i + 1],
            loaded=folder if i else None,
            saved=folder if i + 1 < len(strategies) else None,
        )
        plan = build_plan(strategy)
        courses.append(_together(plan, kept(plan.world_size).run(_train, plan, None, None, leg), agree=True))
    joined = {
        what: [value for course in courses for value in getattr(course, what)]
        for what in (*REPORTED, "gradients", "expert_tokens")
    }
    return replace(courses[-1], **joined)


@dataclass(frozen=True, kw_only=True)
class Leg:
    """Steps `first` to `last` of a trajectory; `loaded`, `saved`: folders of checkpoints before and after."""

    first: int = 0
    last: int = STEPS
    loaded: Path | None = None
    saved: Path | None = None


def run_leg(strategy: Strategy, leg: Leg) -> None:
    """Steps of a trajectory in the strategy's layout, between checkpoints."""
    plan = build_plan(strategy)
    kept(plan.world_size).run(_train, plan, None, None, leg)


def _together(plan: Plan, ranks: list[dict[str, Any]], agree: bool) -> Trajectory:
    for other in ranks[1:] if agree else []:
        for what in REPORTED:
            assert other[what] == ranks[0][what], f"ranks report different {what}"
    steps = range(len(ranks[0]["losses"]))
    return Trajectory(
        **{what: ranks[0][what] for what in REPORTED},
        gradients=[
            {name: t for (name, _), t in _assemble([r["gradients"][step] for r in ranks], agree).items()}
            for step in steps
        ],
        final=_assemble([r["final"] for r in ranks], agree),
        clipping=plan.strategy.training.gradient_clipping,
        expert_tokens=[_all_layers(plan, [r["expert_tokens"][step] for r in ranks]) for step in steps],
    )


def start(plan: Plan) -> tuple[Any, Any]:
    """The engine and groups of this rank, as train.py makes them."""
    rank = torch.distributed.get_rank()
    groups = make_groups(plan, rank)
    model = build_model(plan, groups, torch.device("cpu"))
    return make_engine(model, plan, groups, NO_CLOCK), groups


def _train(
    plan: Plan,
    masks: dict[int, np.ndarray] | None,
    before: Callable[[], None] | None,
    leg: Leg | None = None,
    batches: dict[int, Rows] | None = None,
) -> dict[str, Any]:
    if before is not None:
        before()
    leg = leg or Leg()
    engine, groups = start(plan)
    if leg.loaded is not None:
        assert restore(leg.loaded / f"step-{leg.first:08d}", engine, groups) == leg.first
    training = plan.strategy.training
    # Replicas are compared there, too; the other layouts have tests of their own.
    checks = StepChecks(plan, engine, groups, None) if plan.strategy.runtime.replay_every else None
    caught: dict[str, list[Part]] = {}
    parameters = {name.removeprefix("model.") for name, _ in engine.module.named_parameters()}
    order = [view for view in views(engine, groups) if view.kind == VALUE and view.name in parameters]

    def catch(holder: Tensor, gradient: Tensor) -> None:
        for view in order:
            if _holder(engine, view) is holder:
                first = view.tensor.storage_offset() - holder.data.storage_offset()
                caught[view.name] = _part(view, gradient[first : first + view.tensor.numel()])

    _watch_updates(engine.optimizer, catch)
    result: dict[str, Any] = {what: [] for what in (*REPORTED, "gradients", "expert_tokens")}
    for step in range(leg.first, leg.last):
        tokens = tokens_of(plan.strategy, step)
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step + 1, training, training.steps)
        rows = Rows(tokens_BS1=tokens, mask_BS=None if masks is None else masks[step])
        if batches is not None:
            rows = batches[step]
        micro_batches = training_batches(
            rows.part,
            plan.batch,
            groups.stage,
            groups.data.rank,
            engine.device,
            forced_experts(plan.strategy, step + 1),
        )
        totals = rows.totals()
        caught.clear()
        outcome = train_step(engine, groups, micro_batches, totals, NO_CLOCK, checks=checks, step=step + 1)
        if checks is not None:
            checks.after_update()
        result["losses"].append(outcome.loss)
        result["aux_losses"].append(outcome.aux_loss)
        result["z_losses"].append(outcome.z_loss)
        result["norms"].append(outcome.grad_norm)
        result["gradients"].append(list(caught.values()))
        result["expert_tokens"].append(outcome.expert_tokens)
    if leg.saved is not None:
        _saver(plan, engine, groups, leg.saved).save(leg.last, {})
    result["final"] = [_part(view, view.tensor) for view in views(engine, groups)]
    return result


def _watch_updates(optimizer: Any, catch: Callable[[Tensor, Tensor], None]) -> None:
    """`catch(what the optimizer updates, the flat fp32 gradient that it is given)`, clipped."""
    if not isinstance(optimizer, LeanZeroOptimizer):

        def before_step(*_: Any) -> None:
            divisor = 1.0 if optimizer.grad_scale is None else optimizer.grad_scale
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        catch(parameter, parameter.grad.reshape(-1) / divisor)

        optimizer.register_step_pre_hook(before_step)
        return
    update = optimizer.update_partition

    def update_partition(group: int, divisor: Tensor | None) -> None:
        flat = torch.cat([gradient.float() for _, gradient in optimizer.gradients_of(group)])
        master = optimizer.single_partition_of_fp32_groups[group]
        catch(master, flat if divisor is None else flat / divisor)
        update(group, divisor)

    optimizer.update_partition = update_partition


def _saver(plan: Plan, engine: Any, groups: Any, folder: Path) -> Saver:
    return Saver(
        plan=plan,
        engine=engine,
        groups=groups,
        folder=folder,
        files={},
        prints=Fingerprints(model="model", recipe="recipe"),
        attempt=1,
        horizon=STEPS,
        end_of_text=0,
        holds=lambda: True,
    )


def _all_layers(plan: Plan, by_rank: list[Tensor]) -> Tensor:
    """Every MoE layer's counts, [layers, experts], from what ranks counted in the layers of their stages."""
    model = plan.strategy.model
    counts = torch.zeros(model.num_hidden_layers, model.num_experts, dtype=torch.int64)
    for rank, found in enumerate(by_rank):
        held = [layer for layer in plan.stage_of(rank).layers if layer >= model.first_dense_layers]
        counts[held] += found
    return counts[model.first_dense_layers :]


def _holder(engine: Any, view: View) -> Tensor:
    """The tensor that the base optimizer steps and `view` is a part of."""
    storage = view.tensor.untyped_storage().data_ptr()
    adam = getattr(engine.optimizer, "optimizer", engine.optimizer)
    partitions = getattr(engine.optimizer, "single_partition_of_fp32_groups", None)
    candidates = partitions or [p for g in adam.param_groups for p in g["params"]]
    (holder,) = [p for p in candidates if p.untyped_storage().data_ptr() == storage]
    return holder


def _part(view: View, values: Tensor) -> Part:
    array = values.detach().float().numpy().reshape(-1).copy()
    return view.name, view.kind, view.shard.global_shape, view.shard.offsets, view.shape, view.flat, array


def _assemble(ranks: list[list[Part]], agree: bool) -> dict[tuple[str, str], Tensor]:
    """Global tensors; every element is held by some rank, and all that hold it must `agree` to the bit."""
    whole: dict[tuple[str, str], np.ndarray] = {}
    for parts in ranks:
        for name, kind, shape, offsets, local_shape, flat, values in parts:
            target = whole.setdefault((name, kind), np.full(shape, np.nan, dtype=np.float32))
            box = tuple(slice(o, o + n) for o, n in zip(offsets, local_shape, strict=True))
            local = target[box].reshape(-1).copy()
            begin, end = flat or (0, local.size)
            known = local[begin:end]
            held = ~np.isnan(known)
            if agree:
                assert np.array_equal(known[held], values[held]), f"replicas of {name} ({kind}) differ"
            local[begin:end] = np.where(held, known, values)
            target[box] = local.reshape(local_shape)
    for (name, kind), values in whole.items():
        assert not np.isnan(values).any(), f"nobody holds all of {name} ({kind})"
    return {key: torch.from_numpy(values) for key, values in whole.items()}
