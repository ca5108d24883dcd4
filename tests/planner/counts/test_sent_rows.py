"""Rows that EP exchanges: one for all routes of a token to a rank, against enumeration."""

from itertools import combinations

import pytest

from planner.counts.forced_routes import forced_routes
from planner.counts.rank_workload import rank_workload
from planner.counts.sent_rows import balanced_ranks, forced_ranks
from tests.support.examples import plan


@pytest.mark.parametrize(("num_experts", "ep"), [(8, 1), (8, 2), (8, 4), (8, 8), (12, 3)])
@pytest.mark.parametrize("top_k", [1, 2, 4, 7])
def test_a_tokens_ranks_are_the_mean_over_all_choices_of_experts(
    num_experts: int, ep: int, top_k: int
) -> None:
    local = num_experts // ep
    choices = [len({e // local for e in chosen}) for chosen in combinations(range(num_experts), top_k)]
    assert balanced_ranks(num_experts, top_k, ep) == pytest.approx(sum(choices) / len(choices), rel=1e-12)


MODEL = (
    "model={num_hidden_layers: 1, num_experts: 16, num_experts_per_tok: 4, hidden_size: 64, "
    "moe_intermediate_size: 64, num_attention_heads: 2, vocab_size: 100}",
    "training={seq_length: 64, global_batch: 8, micro_batch: 2, precision: bf16, steps: 1}",
)


@pytest.mark.parametrize(
    "kind",
    [
        "{kind: balanced}",
        "{kind: spread}",
        "{kind: hot_expert, share: 0.3}",
        "{kind: hot_rank, share: 0.5}",
        "{kind: empty_rank}",
        "{kind: ragged}",
        "{kind: burst, share: 0.25}",
    ],
)
def test_forced_routes_are_counted_one_by_one(kind: str) -> None:
    built = plan(*MODEL, "parallel=EP4", f"runtime.force_routing={kind}")
    routes = forced_routes(built.strategy, 1)
    assert routes is not None
    ranks = [{expert // 4 for expert in routes.experts_of(token)} for token in range(8 * 64)]
    mean, fullest = forced_ranks(routes, 4)
    assert mean == sum(len(each) for each in ranks) / len(ranks)
    assert fullest == max(sum(rank in each for each in ranks) for rank in range(4)) / len(ranks)
    workload = rank_workload(built, built.stages[0])
    assert workload.sent == 128 * 4
    assert workload.sent_rows <= workload.sent
    assert workload.sent_rows == pytest.approx(128 * mean, abs=1)


def test_one_rank_and_one_expert_a_rank_and_one_route_have_nothing_to_save() -> None:
    assert balanced_ranks(16, 1, 4) == pytest.approx(1)
    assert balanced_ranks(16, 4, 16) == pytest.approx(4)
    assert balanced_ranks(16, 4, 1) == pytest.approx(1)
    built = plan(*MODEL, "parallel=EP4")
    workload = rank_workload(built, built.stages[0])
    assert workload.sent_rows < workload.sent
    peak = rank_workload(built, built.stages[0], at_peak=True)
    assert peak.sent_rows == workload.sent, "a bound of memory takes the worst case"
