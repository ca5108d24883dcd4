"""The memory of transfer buffers on a rank stays below the planner's bound, and not far below."""

from typing import Any

import pytest
import torch

from model.observers import NO_CLOCK
from planner import Plan, build_plan
from planner.memory.rank_memory import transfer_buffers
from runtime.data.rows import Rows
from runtime.parallel.pipeline_p2p import P2PChannel
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from tests.support.held import weigh
from tests.support.layout import start
from tests.support.ranks import kept
from tests.support.reference import tiny, tokens_of


def most_held(plan: Plan) -> int:
    """The most bytes that this rank's channels held at once in a step: looked at whenever one was used."""
    engine, groups = start(plan)
    channels = [
        channel for channel in (engine.module.channels.incoming, engine.module.channels.outgoing) if channel
    ]
    most = 0

    def look(channel: P2PChannel, name: str) -> None:
        use = getattr(channel, name)

        def looked(*args: Any) -> Any:
            nonlocal most
            most = max(most, weigh(_tensors(channels)))
            result = use(*args)
            most = max(
                most, weigh([*_tensors(channels), *([result] if isinstance(result, torch.Tensor) else [])])
            )
            return result

        setattr(channel, name, looked)

    for channel in channels:
        for name in ("post_recv", "recv", "send"):
            look(channel, name)
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    totals = rows.totals()
    train_step(engine, groups, batches, totals, NO_CLOCK)
    return most


def _tensors(channels: list[P2PChannel]) -> list[torch.Tensor]:
    found = []
    for channel in channels:
        for chunks in channel._arriving.values():
            for chunk in chunks:
                if chunk is not None:
                    found += [chunk.x_RSC, *(source for _, source in chunk.copies)]
        for left in channel._leaving.values():
            found += [tensor for chunk in left for tensor in chunk.tensors]
    return found


@pytest.mark.parametrize(
    ("parallel", "micro_batch"),
    [
        ({"placement": "staged", "ep": 4, "tp": 2}, 1),
        ({"placement": "staged", "ep": 4, "tp": 2}, 4),
        ({"ep": 2, "tp": 2, "pp": 4}, 1),
        ({"ep": 2, "pp": 2}, 2),
    ],
    ids=["staged", "one micro-batch", "pp4", "pp2"],
)
def test_transfer_buffers_are_bounded(parallel: dict[str, object], micro_batch: int) -> None:
    plan = build_plan(
        tiny(
            parallel={"zero_stage": 1, **parallel},
            model__num_hidden_layers=4,
            training__micro_batch=micro_batch,
        )
    )
    held = kept(plan.world_size).run(most_held, plan)
    for place, stage in enumerate(plan.stages):
        bound = transfer_buffers(plan, place)
        for rank in stage.ranks:
            assert held[rank] <= bound, (stage.name, rank, held[rank], bound)
            if plan.batch.accumulation > 1:  # else most of it is whole vectors, which no channel holds
                assert 0.25 * bound <= held[rank], (stage.name, rank, held[rank], bound)
