"""The reference's own worlds, rank for rank, with narrow layers: slow, in `make test-all`.

They prove what no small world can: 64 experts' ranks in one group, 2 + 64 + 2 ranks in the document's
numbers, and two stages of 64. With so many experts and tokens no seed has routes that are all clear; that
none flipped is seen from their counts.
"""

import pytest

from planner import build_plan
from tests.support.equality import TOLERANCE, differences
from tests.support.layout import run_layout
from tests.support.ranks import run_ranks
from tests.support.reference import run_reference, tiny

WORLDS = {
    "68": {"placement": "staged", "ep": 64, "tp": 2, "zero_stage": 1},
    "128": {"ep": 64, "tp": 2, "pp": 2, "zero_stage": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_the_references_world_equals_one_process(world: str) -> None:
    strategy = tiny(
        parallel=WORLDS[world],
        model__num_experts=64,
        training__global_batch=128,
        training__micro_batch=1 if world == "68" else 2,
        cluster__gpus_per_host=8,
    )
    plan = build_plan(strategy)
    assert plan.world_size == int(world)
    assert plan.batch.accumulation == 2
    (expected,) = run_ranks(1, run_reference, strategy)
    worst = differences(run_layout(strategy, timeout=540), expected)
    assert worst["routes"][0] == 0
    assert all(value <= TOLERANCE for value, _ in worst.values()), worst
