"""Share of the state that has copies, counted by hand."""

from typing import Any

import pytest

from planner import build_plan
from planner.memory.optimizer_state import groups_of
from planner.memory.replicated_state import replicated_state
from planner.plan.notes import list_notes
from tests.support.reference import tiny

# Elements of the tiny model: two layers of attention (4 · 16²), a router (8 · 16), 8 experts (2 · 16 · 24)
# and two norms; embedding, head (48 · 16 each), aggregation (16²) and the last norm.
EXPERTS = 2 * 8 * 2 * 16 * 24
SHARED = 2 * (8 * 16 + 2 * 16) + 16  # routers and norms, which TP does not split
SPLIT = 2 * 4 * 16 * 16 + 2 * 48 * 16 + 16 * 16
ALL = SHARED + SPLIT + EXPERTS


@pytest.mark.parametrize(
    ("parallel", "precision", "total", "compared"),
    [
        # Four ranks with all of it, weights and two moments of fp32.
        (
            {"dp": 4, "zero_stage": 0},
            "fp32",
            48 * ALL,
            48 * ALL,
        ),
        # Of the moments there is one copy.
        (
            {"dp": 4, "zero_stage": 1},
            "fp32",
            24 * ALL,
            16 * ALL,
        ),
        # Nobody has a copy of an expert.
        ({"ep": 4, "zero_stage": 0}, "fp32", 48 * (SHARED + SPLIT) + 12 * EXPERTS, 48 * (SHARED + SPLIT)),
        # TP partners share a part, masters and moments too; bf16 weights have their masters.
        (
            {"tp": 2, "ep": 2, "zero_stage": 1},
            "bf16",
            2 * 14 * SHARED + 14 * SPLIT + 14 * EXPERTS,
            2 * 14 * SHARED + 2 * SPLIT + 2 * EXPERTS,
        ),
        # Experts have copies on all four ranks, which are more than the data-parallel ones.
        (
            {"tp": 2, "dp": 2, "zero_stage": 2},
            "fp32",
            (4 * 4 + 2 * 8) * SHARED + (2 * 4 + 8) * SPLIT + (4 * 4 + 8) * EXPERTS,
            (4 * 4 + 2 * 8) * SHARED + 2 * 4 * SPLIT + 4 * 4 * EXPERTS,
        ),
        ({"zero_stage": 1}, "fp32", 12 * ALL, 0),
    ],
)
def test_bytes_over_all_ranks(parallel: dict[str, int], precision: Any, total: int, compared: int) -> None:
    found = replicated_state(build_plan(tiny(parallel=parallel, training__precision=precision)))
    assert (found.total, found.compared) == (total, compared)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__vocab_size": 47},
        {"model__num_shared_experts": 1, "model__expert": "swiglu"},
        {"model__qk_norm": "projection", "model__first_dense_layers": 1, "model__intermediate_size": 36},
    ],
)
@pytest.mark.parametrize("tp", [2, 4])
def test_tp_partners_cut_their_partitions_at_the_same_places(changes: dict[str, Any], tp: int) -> None:
    """What they share is compared part by part (runtime/training/replica_check.py)."""
    plan = build_plan(tiny(parallel={"tp": tp, "ep": 2}, **changes))
    (stage,) = plan.stages
    first, *others = [groups_of(plan, stage, tp_rank) for tp_rank in range(tp)]
    for other in others:
        assert [group.offsets for group in other] == [group.offsets for group in first]


def test_a_check_that_is_asked_for_and_has_nothing_to_compare_is_noted() -> None:
    def notes(**changes: Any) -> str:
        return " ".join(list_notes(build_plan(tiny(**changes))))

    asked = {"runtime__check_replicas_every": 5}
    assert "so nothing is compared" in notes(**asked)
    assert "with their own masters only" in notes(**asked, training__precision="bf16")
    assert "SW322" not in notes()
    assert "SW322" not in notes(**asked, parallel={"dp": 2})


def test_a_replacement_that_nothing_could_be_is_noted() -> None:
    def notes(hosts: int) -> str:
        strategy = tiny(runtime__on_corruption="replace", cluster__hosts=hosts)
        return " ".join(list_notes(build_plan(strategy)))

    assert "SW323 runtime.on_corruption replace with one host" in notes(1)
    assert "SW323" not in notes(2)
