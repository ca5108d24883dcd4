"""Rows sent in FP8: bytes on the wire, what arrives, and how little a run changes by it."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model.collectives import all_to_all_rows
from model.observers import NO_CLOCK
from model.router import Router
from planner import Plan, Strategy, build_plan
from planner.timing.exchanges import exchanges_of
from tests.support.float8_reference import quantized, wild
from tests.support.layout import run_layout, start
from tests.support.matrix import CUTS, Case, Layout
from tests.support.model_layouts import group_of
from tests.support.noise import beyond, distance_in, noise
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of

HIDDEN = 16


def _rows() -> tuple[Tensor, Tensor]:
    """What each of two ranks gets of the other's rows, and the gradient that comes back."""
    group = group_of(2)
    assert group is not None
    mine = wild((6, HIDDEN), torch.bfloat16, group.rank).requires_grad_()
    send, receive = ([2, 4], [2, 3]) if group.rank == 0 else ([3, 3], [4, 3])
    y = all_to_all_rows(mine, send, receive, replace(group, sends_float8=True))
    y.backward(wild((sum(receive), HIDDEN), torch.bfloat16, 7))
    assert mine.grad is not None
    return y.detach(), mine.grad


def test_rows_and_gradients_arrive_as_they_were_quantized() -> None:
    (y, grad), (other_y, other_grad) = run_ranks(2, _rows)
    sent = [quantized(wild((6, HIDDEN), torch.bfloat16, seed)) for seed in (0, 1)]
    back = [quantized(wild((size, HIDDEN), torch.bfloat16, 7)) for size in (5, 7)]
    assert torch.equal(y.double(), torch.cat([sent[0][:2], sent[1][:3]]))
    assert torch.equal(other_y.double(), torch.cat([sent[0][2:], sent[1][3:]]))
    assert torch.equal(grad.double(), torch.cat([back[0][:2], back[1][:4]]))
    assert torch.equal(other_grad.double(), torch.cat([back[0][2:], back[1][4:]]))


def _wire(plan: Plan) -> dict[str, Any]:
    """Bytes of all-to-alls by dtype, and of hand-overs, of one micro-batch on this rank."""
    from runtime.data.rows import Rows
    from runtime.training.micro_batch import training_batches
    from runtime.training.train_step import train_step

    engine, groups = start(plan)
    sent: dict[torch.dtype, int] = {}
    num_rows = 0
    original = dist.all_to_all_single

    @functools.wraps(original)
    def counted(output: Tensor, input: Tensor, *args: Any, **options: Any) -> Any:
        nonlocal num_rows
        sent[input.dtype] = sent.get(input.dtype, 0) + input.numel() * input.element_size()
        num_rows += input.shape[0] if input.dtype == torch.uint8 else 0
        return original(output, input, *args, **options)

    dist.all_to_all_single = counted
    chosen: list[list[int]] = []
    for module in engine.modules():
        if isinstance(module, Router):
            module.register_forward_hook(lambda *args: chosen.extend(args[2].experts_UK.tolist()))
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    train_step(engine, groups, batches, rows.totals(), NO_CLOCK)
    channels = engine.module.channels
    handed = {
        side: channel.sent_bytes
        for side, channel in (("back", channels.incoming), ("on", channels.outgoing))
        if channel is not None
    }
    return {"sent": sent, "rows": num_rows, "handed": handed, "chosen": chosen}


def payload(**changes: Any) -> Strategy:
    return tiny(
        training__precision="bf16", runtime__fp8_payload=True, model__num_experts_per_tok=2, **changes
    )


def test_a_row_to_an_expert_is_a_byte_an_element_and_four() -> None:
    """Forward there and back, backward there and back; gates, their gradients and counts stay as they are.
    A token goes once to a rank that has two of its experts."""
    strategy = payload(parallel={"ep": 4, "tp": 2, "zero_stage": 1}, training__micro_batch=8)
    ranks = run_ranks(4, _wire, build_plan(strategy))
    routes = strategy.training.global_batch * strategy.training.seq_length * 2
    layers = strategy.model.num_hidden_layers
    rows = sum(len({expert // 2 for expert in chosen}) for rank in ranks for chosen in rank["chosen"])
    assert sum(rank["rows"] for rank in ranks) == 4 * rows < 4 * layers * routes
    assert sum(rank["sent"][torch.uint8] for rank in ranks) == 4 * rows * (HIDDEN + 4)
    assert sum(rank["sent"][torch.int32] for rank in ranks) == layers * routes * 8  # gates and experts
    assert sum(rank["sent"][torch.float32] for rank in ranks) == layers * routes * 4  # gates' gradients
    assert all(torch.bfloat16 not in rank["sent"] for rank in ranks)


@pytest.mark.parametrize("cut", [CUTS[1], CUTS[3]], ids=str)
def test_stages_hand_over_what_the_planner_counts(cut: Layout) -> None:
    strategy = payload(
        model__num_hidden_layers=4, parallel=cut.parallel | {"zero_stage": 1}, training__micro_batch=8
    )
    plan = build_plan(strategy)
    ranks = run_ranks(plan.world_size, _wire, plan)
    transfers = [exchange for exchange in exchanges_of(plan) if exchange.kind == "send"]
    expected = sum(size for transfer in transfers for *_, size in transfer.messages)
    tokens = strategy.training.global_batch // plan.batch.accumulation * strategy.training.seq_length
    assert expected < tokens * HIDDEN * 2 * len(transfers)  # less than in bf16, with at least a scale a token
    assert expected >= tokens * (HIDDEN + 4) * len(transfers)
    for side in ("on", "back"):
        handed = sum(rank["handed"].get(side, 0) for rank in ranks)
        assert handed == expected * plan.batch.accumulation


LOSSES = {"top_k": 2, "balance_loss": 0.5, "z_loss": 0.05, "expert": "swiglu"}


@pytest.mark.parametrize(
    "case",
    [
        Case(layout=Layout(ep=4, tp=2, dp=1), zero_stage=1, **LOSSES),
        pytest.param(Case(layout=CUTS[3], zero_stage=2, accumulation=2, **LOSSES), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_run_with_fp8_payloads_is_within_the_noise_of_fp8(case: Case) -> None:
    strategy = case.strategy.model_copy(
        update={"runtime": case.strategy.runtime.model_copy(update={"fp8_payload": True})}
    )
    assert beyond(distance_in("fp8", strategy), noise(case.strategy, "fp8")) == {}


def test_the_same_layout_has_the_same_bits() -> None:
    strategy = payload(parallel={"ep": 4, "tp": 2, "zero_stage": 1}, training__micro_batch=8)
    first, second = run_layout(strategy), run_layout(strategy)
    assert first.losses == second.losses
    assert all(torch.equal(first.final[key], second.final[key]) for key in first.final)
    plain = strategy.model_copy(update={"runtime": tiny().runtime})
    assert run_layout(plain).losses != first.losses
