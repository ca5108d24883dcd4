"""Training step and validation pass of one rank: micro-batches in, sums over the world out."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from model.observers import Clock
from runtime.data.rows import Totals
from runtime.parallel.groups import RankGroups
from runtime.parallel.pipeline_p2p import P2PChannels
from runtime.parallel.pipeline_schedule import (
    Schedule,
    forward_only,
    one_forward_one_backward,
    receives_to_post,
)
from runtime.profiling.phase_clock import TimeSpan
from runtime.profiling.timestamps import make_timestamps
from runtime.training.expert_bias import update_expert_bias
from runtime.training.micro_batch import MicroBatch
from runtime.training.step_checks import StepChecks
from runtime.training.training_model import Sums


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """A step's results, equal on every rank except `expert_tokens` and `passes`, which are this rank's own.

    loss: mean cross-entropy over the global batch's targets; 0 if it has none.
    aux_loss: mean over sequences of Σ f·P (model/router.py). z_loss: mean over tokens of logsumexp².
    grad_norm: before clipping; not finite when the step was skipped.
    expert_tokens: tokens this rank routed to each expert, [MoE layers of the stage, num_experts].
    passes: the spans of this rank's passes. ended_ns: the end of the step's last collective over the world.
    """

    loss: float
    aux_loss: float
    z_loss: float
    grad_norm: float
    skipped: bool
    dropped_tokens: int
    expert_tokens: Tensor
    passes: tuple[TimeSpan, ...]
    ended_ns: int


def train_step(
    engine: DeepSpeedEngine,
    groups: RankGroups,
    micro_batches: Sequence[MicroBatch],
    totals: Totals,
    clock: Clock,
    schedule: Schedule = one_forward_one_backward,
    checks: StepChecks | None = None,
    step: int = 0,
) -> StepResult:
    """Forward and backward of every micro-batch, then one clipped update. Collective over the world.

    Gradients are summed over micro-batches and ranks: each loss is divided by `totals` already.

    Args:
        checks: for silent corruption, of those that are due in this `step`.

    Raises:
        runtime.training.corruption.Corrupted: by a check, before the update; on every rank.
    """
    channels: P2PChannels = engine.module.channels
    replay = None if checks is None else checks.begin(step)
    losses: dict[int, Tensor] = {}  # of the micro-batches in flight
    sums: list[Sums] = []
    stamps = make_timestamps(engine.device)
    names: list[str] = []
    taken = [stamps.take()]

    def passed(name: str) -> None:
        names.append(name)
        taken.append(stamps.take())

    actions = schedule(channels.place, channels.num_stages, len(micro_batches))
    for index, action in enumerate(actions):
        channels.post_recv(receives_to_post(actions, index, channels.place, channels.num_stages))
        micro_batch = micro_batches[action.micro_batch]
        watch = nullcontext() if replay is None else replay.watch(action)
        if action.kind == "forward":
            with clock.phase("compute"), watch:
                losses[action.micro_batch], micro_sums = engine(micro_batch, totals, action.micro_batch)
            if replay is not None:
                replay.keep(action, losses[action.micro_batch], micro_sums)
            sums.append(micro_sums)
            passed(f"forward {action.micro_batch}")
            continue
        with clock.phase("compute"), watch:
            # `backward` divides by the accumulation. With scale_wrt_gas=False DeepSpeed 0.19.8 still does,
            # in a hook on the forward's output (engine.py:3179); this factor undoes it.
            engine.backward(losses.pop(action.micro_batch) * engine.gradient_accumulation_steps())
        passed(f"backward {action.micro_batch}")
        if index == len(actions) - 1:
            channels.finish()
            if checks is not None and checks.are_due:
                with clock.phase("compute"):
                    checks.replay(lambda m: engine.module(micro_batches[m], totals, m))
                checks.before_update()
                passed("check")
        with clock.phase("optimizer"):
            engine.step()
    grad_norm = float(engine.get_global_grad_norm())
    expert_tokens = torch.stack([s.expert_tokens for s in sums]).sum(0)
    if engine.module.bias_update_speed is not None and np.isfinite(grad_norm):
        with clock.phase("gradient_reduce"):
            everywhere = expert_tokens.clone()
            for peers in (groups.data, groups.tp):  # TP ranks count a share of the tokens each
                dist.all_reduce(everywhere, group=peers.process_group)
        update_expert_bias(engine.module, everywhere, engine.module.bias_update_speed)
    world = _sum_over_world(sums, groups, engine.device)
    passed("update")
    times_ns = stamps.times_ns(taken)
    return StepResult(
        loss=world[0] / totals.loss_divisor,
        aux_loss=world[1] / totals.num_sequences,
        z_loss=world[2] / totals.num_tokens,
        grad_norm=grad_norm,
        skipped=not np.isfinite(grad_norm),
        dropped_tokens=round(world[3]),
        expert_tokens=expert_tokens,
        passes=tuple(
            TimeSpan(name=name, start_ns=start, end_ns=end)
            for name, start, end in zip(names, times_ns, times_ns[1:], strict=False)
        ),
        ended_ns=times_ns[-1],
    )


@torch.no_grad()
def validation_loss(
    engine: DeepSpeedEngine, groups: RankGroups, micro_batches: Sequence[MicroBatch], totals: Totals
) -> float:
    """Mean cross-entropy over the validation targets, the same on every rank. Collective over the world."""
    engine.eval()
    channels: P2PChannels = engine.module.channels
    actions = forward_only(channels.place, channels.num_stages, len(micro_batches))
    sums = []
    for index, batch in enumerate(micro_batches):
        channels.post_recv(receives_to_post(actions, index, channels.place, channels.num_stages))
        sums.append(engine.module(batch, totals, index)[1])
    channels.finish()
    engine.train()
    return _sum_over_world(sums, groups, engine.device)[0] / totals.loss_divisor


def _sum_over_world(sums: Sequence[Sums], groups: RankGroups, device: torch.device) -> list[float]:
    """Cross-entropy, aux loss, z-loss and dropped tokens, summed in fp64.

    TP partners hold the same cross-entropy.
    """
    total = torch.stack(
        [
            torch.stack([s.cross_entropy.double() for s in sums]).sum() / groups.tp.size,
            torch.stack([s.aux_loss.double() for s in sums]).sum(),
            torch.stack([s.z_loss.double() for s in sums]).sum(),
            torch.stack([s.dropped_tokens.double() for s in sums]).sum(),
        ]
    ).to(device)
    dist.all_reduce(total)
    return total.tolist()
