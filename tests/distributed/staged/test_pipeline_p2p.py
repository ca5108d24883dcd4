"""Pipeline transfers between ranks: the schedule does not change results, each element is sent once."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from model.observers import NO_CLOCK
from planner import Plan, build_plan
from planner.hardware.catalog import device_of
from planner.timing.boundary_time import boundaries_of
from planner.timing.collective_time import network_of
from runtime.checkpoint.engine_state import views
from runtime.data.rows import Rows
from runtime.parallel.pipeline_schedule import Action, Schedule, one_forward_one_backward
from runtime.training.micro_batch import training_batches, validation_batches
from runtime.training.train_step import train_step, validation_loss
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of

STAGED = {"placement": "staged", "ep": 4, "tp": 2}
PIPELINE = {"ep": 2, "tp": 2, "pp": 4}


def one_after_another(place: int, num_stages: int, num_micro_batches: int) -> tuple[Action, ...]:
    """Each micro-batch forward and backward before the next: the reference that 1F1B equals to the bit."""
    actions = ((Action("forward", i), Action("backward", i)) for i in range(num_micro_batches))
    return tuple(action for pair in actions for action in pair)


def plan_of(parallel: dict[str, object], **changes: Any) -> Plan:
    return build_plan(tiny(parallel={"zero_stage": 1, **parallel}, model__num_hidden_layers=4, **changes))


def trained(plan: Plan, schedule: Schedule, steps: int = 2) -> dict[tuple[str, str], torch.Tensor]:
    """This rank's state after some steps, and its losses and norms."""
    engine, groups = start(plan)
    reported = []
    for step in range(steps):
        rows = Rows(tokens_BS1=tokens_of(plan.strategy, step))
        batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
        totals = rows.totals()
        outcome = train_step(engine, groups, batches, totals, NO_CLOCK, schedule)
        reported += [outcome.loss, outcome.aux_loss, outcome.z_loss, outcome.grad_norm]
    state = {(view.name, view.kind): view.tensor.clone() for view in views(engine, groups)}
    return state | {("reported", ""): torch.tensor(reported)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("parallel", [STAGED, PIPELINE], ids=["staged", "pp4"])
def test_1f1b_equals_one_micro_batch_after_another_to_the_bit(
    parallel: dict[str, object], precision: str
) -> None:
    plan = plan_of(parallel, training__precision=precision)
    assert plan.batch.accumulation == (4 if parallel is STAGED else 16)
    ahead = run_ranks(plan.world_size, trained, plan, one_forward_one_backward)
    in_turn = run_ranks(plan.world_size, trained, plan, one_after_another)
    for one, other in zip(ahead, in_turn, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def sent_bytes(plan: Plan) -> dict[str, int]:
    """Bytes that this rank sent through each of its channels in one step and one validation."""
    engine, groups = start(plan)
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    where = (plan.batch, groups.stage, groups.data.rank, engine.device)
    train_step(engine, groups, training_batches(rows.part, *where), rows.totals(), NO_CLOCK)
    channels = engine.module.channels
    found = {
        name: channel.sent_bytes
        for name, channel in (("forward", channels.outgoing), ("back", channels.incoming))
        if channel is not None
    }
    batches = validation_batches(rows.part, 5, *where)
    validation_loss(engine, groups, batches, rows.part(slice(5)).totals())
    assert channels.incoming is None or channels.incoming.sent_bytes == found["back"]  # nothing goes back
    return found


@pytest.mark.parametrize(
    ("parallel", "num_boundaries"),
    [
        (STAGED, 2),
        ({**STAGED, "ep": 2, "dp": 2, "tp": 1}, 2),
        ({"placement": "staged", "ep": 1, "tp": 3}, 2),
        ({"ep": 2, "tp": 2, "pp": 2}, 1),
    ],
    ids=["2+4+2", "dp2", "3+1+3", "pp2"],
)
def test_each_element_is_sent_once(parallel: dict[str, object], num_boundaries: int) -> None:
    """Each element of a batch's activations crosses each boundary once, and its gradient once: the batch is
    16 sequences of 5 tokens with 18 elements of 4 bytes."""
    plan = plan_of(parallel, model__hidden_size=18, model__head_dim=4, training__micro_batch=1)
    sent = run_ranks(plan.world_size, sent_bytes, plan)
    batch_bytes = 16 * 5 * 18 * 4
    for way in ("forward", "back"):
        assert sum(rank.get(way, 0) for rank in sent) == num_boundaries * batch_bytes
    boundaries = boundaries_of(plan, network_of(plan, device_of(plan.strategy.cluster.gpu)))
    for (before, after), boundary in zip(pairwise(plan.stages), boundaries, strict=True):
        # What the planner counts for the fullest rank: the most that one sends at the end with fewer shares.
        most = max(
            *(sent[rank].get("forward", 0) for rank in before.ranks),
            *(sent[rank].get("back", 0) for rank in after.ranks),
        )
        assert boundary.num_bytes * plan.batch.accumulation == most
    for stage in plan.stages:  # peers of a stage share the sending
        for way in ("forward", "back"):
            shares = {sent[rank].get(way, 0) for rank in stage.ranks}
            assert len(shares) == 1, (stage.name, way, shares)


def late(plan: Plan) -> str:
    """A rank of the last stage stops before its first step."""
    engine, groups = start(plan)
    if groups.stage.contents.output:
        return "stopped"
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    try:
        train_step(engine, groups, batches, rows.totals(), NO_CLOCK)
    except RuntimeError as error:
        return str(error)
    return "trained"


def test_a_stage_that_is_gone_is_noticed() -> None:
    plan = plan_of(PIPELINE | {"tp": 1, "ep": 1, "pp": 2})
    first, last = run_ranks(plan.world_size, late, plan, timeout=20)
    assert last == "stopped"
    assert first != "trained"
