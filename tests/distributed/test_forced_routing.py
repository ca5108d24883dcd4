"""runtime.force_routing: every layout routes as the oracle says, and trains as one process does."""

import pytest

from planner import Strategy
from tests.support.forced_oracle import experts_of
from tests.support.reference import tiny
from tests.support.settled import check, settled

LAYOUTS: dict[str, tuple[dict[str, object], int]] = {
    "ep4": ({"ep": 4, "zero_stage": 1}, 2),
    "ep2-tp2-accumulation": ({"ep": 2, "tp": 2, "zero_stage": 2}, 4),
    "tp4-ep2": ({"ep": 2, "tp": 4, "zero_stage": 0}, 16),
    "pp2": ({"ep": 2, "pp": 2, "zero_stage": 1}, 2),
    "staged": ({"placement": "staged", "ep": 2, "tp": 2, "zero_stage": 1}, 4),
}
# With the ranks written, so that one process counts in them too.
KINDS: dict[str, dict[str, object]] = {
    "balanced": {},
    "hot_expert": {"share": 0.3},
    "hot_rank": {"share": 0.6, "ep": 4},
    "spread": {"ep": 2},
    "ragged": {},
    "empty_rank": {"ep": 2},
    "rotating": {"share": 1.0},
    "burst": {"share": 0.4},
}


def forced(kind: str, layout: str, **changes: object) -> Strategy:
    parallel, micro_batch = LAYOUTS[layout]
    return tiny(
        parallel=parallel,
        training__micro_batch=micro_batch,
        model__num_experts_per_tok=2,
        runtime__force_routing={"kind": kind, **KINDS[kind]},
        **changes,
    )


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("balanced", "ep2-tp2-accumulation"),
        ("hot_expert", "tp4-ep2"),
        ("hot_rank", "ep4"),
        ("hot_rank", "staged"),
        ("hot_rank", "ep2-tp2-accumulation"),
        ("hot_rank", "tp4-ep2"),
        ("spread", "staged"),
        ("ragged", "pp2"),
        ("empty_rank", "ep2-tp2-accumulation"),
        ("rotating", "ep4"),
        ("burst", "ep4"),
    ],
)
def test_forced_routing_equals_one_process(kind: str, layout: str) -> None:
    check(forced(kind, layout))


def test_every_layer_has_the_oracle_s_routes() -> None:
    """And not those of its router: the reference's routes are the oracle's, counted here."""
    strategy = forced("rotating", "ep4")
    seed, course = settled(strategy)
    with_seed = strategy.model_copy(update={"training": strategy.training.model_copy(update={"seed": seed})})
    for step, counts in enumerate(course.expert_tokens, start=1):
        experts = experts_of(with_seed, step)
        assert experts is not None
        flat = [expert for chosen in experts for expert in chosen]
        assert counts.tolist() == [[flat.count(expert) for expert in range(8)]] * 2
        assert counts[0, (seed + step) % 8] == 16 * 5  # another expert each step, in every token


def test_ranks_of_the_layout_are_turned_into_experts() -> None:
    """Without `ep` a kind means the ranks of parallel.ep, as if that were written."""
    strategy = forced("hot_rank", "ep4")
    written = strategy.runtime.force_routing
    assert written is not None
    bare = strategy.runtime.model_copy(update={"force_routing": written.model_copy(update={"ep": None})})
    check(strategy.model_copy(update={"runtime": bare}), reference=strategy)


def test_capacity_drops_by_the_router_s_probability() -> None:
    changes = {"model__dispatch": "capacity", "model__capacity_factor": 1.0}
    check(forced("hot_expert", "ep4", **changes))
