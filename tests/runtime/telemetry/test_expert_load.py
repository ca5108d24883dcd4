"""Expert load over the world: the sum of what the ranks routed, and who computes it."""

import torch
import torch.distributed as dist

from planner import Plan, build_plan
from runtime.telemetry.expert_load import ExpertLoad, ExpertLoadMeter, overload
from tests.support.ranks import run_ranks
from tests.support.reference import tiny


def measure(plan: Plan, tokens: dict[int, list[list[int]]]) -> list[ExpertLoad | None]:
    """Two steps in which each rank routes the same."""
    rank = dist.get_rank()
    meter = ExpertLoadMeter(plan, rank, torch.device("cpu"))
    own = torch.tensor(tokens.get(rank, []), dtype=torch.int64)
    return [meter.measure(own), meter.measure(own)]


def test_every_rank_is_counted_and_rank_0_has_the_sum():
    """Four ranks, ep 2: experts 0 and 1 are on ranks 0 and 2, experts 2 and 3 on ranks 1 and 3."""
    plan = build_plan(tiny(parallel={"ep": 2, "dp": 2}, model__num_experts=4, model__num_hidden_layers=2))
    assert plan.world_size == 4
    tokens = {
        0: [[10, 0, 0, 0], [5, 5, 0, 0]],
        1: [[0, 10, 0, 0], [0, 0, 5, 5]],
        2: [[0, 0, 8, 2], [0, 0, 10, 0]],
        3: [[0, 0, 0, 10], [0, 0, 0, 10]],
    }
    (first, second), *others = run_ranks(4, measure, plan, tokens)
    assert others == [[None, None]] * 3
    assert first.tokens == second.tokens == [[10, 10, 8, 12], [5, 5, 15, 15]]
    # Computed: by ranks 0 and 1 what ranks 0 and 1 routed (30 and 10), by ranks 2 and 3 the rest (0 and 40).
    assert first.balance == (30 + 10 + 0 + 40) / 4 / 40
    # Layer 0: 12 over a mean of 10; layer 1: 15 over a mean of 10.
    assert (round(first.overload.mean, 9), round(first.overload.worst, 9)) == (0.35, 0.5)


def test_stages_without_experts_count_for_nothing():
    plan = build_plan(
        tiny(
            parallel={"placement": "staged", "ep": 2, "tp": 1, "zero_stage": 1},
            model__num_experts=4,
            model__num_hidden_layers=2,
            training__micro_batch=2,
        )
    )
    tokens = {1: [[4, 4, 4, 4], [4, 4, 4, 4]], 2: [[4, 4, 4, 4], [0, 0, 8, 8]]}
    (first, _), *_ = run_ranks(plan.world_size, measure, plan, tokens)
    assert first.tokens == [[8, 8, 8, 8], [4, 4, 12, 12]]
    assert first.balance == (24 + 40) / 2 / 40  # of the two expert ranks, not of four


def test_the_cumulative_overload_is_of_all_tokens():
    """Two steps that overload different experts are even together."""
    one, other = torch.tensor([[20, 0]]), torch.tensor([[0, 20]])
    found = overload(other, one + other)
    assert (found.mean, found.worst, found.cumulative) == (1.0, 1.0, 0.0)
    assert overload(torch.zeros(2, 4), torch.zeros(2, 4)) is None
