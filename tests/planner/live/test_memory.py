"""What the planner says a rank holds is what a live rank holds: state to the byte, each phase from above."""

from typing import Any

import pytest
from deepspeed.moe import utils as deepspeed_moe

from planner import build_plan
from planner.counts.rank_workload import ExpertImbalance, rank_workload
from planner.memory import optimizer_state
from planner.memory.rank_memory import RankMemory, rank_memory
from planner.plan import ds_config
from tests.support.held import held_by_rank
from tests.support.ranks import run_ranks
from tests.support.reference import tiny

SMALL_BUCKET = 500  # elements, or the largest tensor: gradients then pass through many buckets
CASES: dict[str, dict[str, Any]] = {
    "one rank, fp32, ZeRO 1": {"training__micro_batch": 4},
    "ZeRO 0": {"parallel__ep": 2, "parallel__zero_stage": 0, "training__micro_batch": 8},
    "fp32, ZeRO 1, experts twice": {"parallel__ep": 2, "parallel__dp": 2, "training__micro_batch": 2},
    "fp32, ZeRO 2, accumulation": {"parallel__ep": 2, "parallel__zero_stage": 2, "parallel__dp": 2},
    "fp32, ZeRO 2, one micro-batch": {
        "parallel__dp": 2,
        "parallel__zero_stage": 2,
        "training__micro_batch": 8,
    },
    "bf16, ZeRO 1, one micro-batch": {
        "parallel__ep": 4,
        "training__precision": "bf16",
        "training__micro_batch": 4,
    },
    "bf16, tp under ep, odd vocabulary": {
        "parallel__ep": 2,
        "parallel__tp": 2,
        "parallel__dp": 2,
        "training__precision": "bf16",
        "model__vocab_size": 49,
        "training__micro_batch": 4,
    },
    "fp32, tp over ep, shared and dense": {
        "parallel__ep": 2,
        "parallel__tp": 4,
        "model__expert": "swiglu",
        "model__num_shared_experts": 1,
        "model__qk_norm": "projection",
        "model__first_dense_layers": 1,
        "model__intermediate_size": 32,
        "training__micro_batch": 8,
    },
    "staged, fp32, ZeRO 1": {
        "parallel": {"placement": "staged", "ep": 4, "tp": 2, "zero_stage": 1},
        "training__micro_batch": 2,
    },
    "staged, partitions that words do not fill": {
        "parallel": {"placement": "staged", "ep": 2, "dp": 2, "zero_stage": 2},
        "model__hidden_size": 18,
        "model__head_dim": 4,
        "model__vocab_size": 27,
        "training__micro_batch": 4,
    },
    "two stages, bf16, ZeRO 2, odd vocabulary": {
        "parallel": {"ep": 2, "tp": 2, "pp": 2, "zero_stage": 2},
        "training__precision": "bf16",
        "model__vocab_size": 49,
        "training__micro_batch": 4,
    },
    "layers 3 + 1, bf16, ZeRO 2": {
        "parallel": {"ep": 2, "pp": 2, "layers_per_stage": (3, 1), "zero_stage": 2},
        "model__num_hidden_layers": 4,
        "training__precision": "bf16",
        "training__micro_batch": 4,
    },
    "staged, layers 1 + 3, ZeRO 1": {
        "parallel": {"placement": "staged", "ep": 2, "tp": 2, "pp": 2, "layers_per_stage": (1, 3)},
        "model__num_hidden_layers": 4,
        "training__micro_batch": 2,
    },
    "layers recomputed, fp32, tp over ep, shared and dense": {
        "parallel__ep": 2,
        "parallel__tp": 4,
        "model__num_hidden_layers": 4,
        "model__expert": "swiglu",
        "model__num_experts_per_tok": 2,
        "model__num_shared_experts": 1,
        "model__qk_norm": "projection",
        "model__first_dense_layers": 1,
        "model__intermediate_size": 32,
        "training__micro_batch": 8,
        "runtime__recompute": "layer",
    },
    "layers recomputed, bf16, capacity": {
        "parallel__ep": 4,
        "model__num_hidden_layers": 4,
        "model__dispatch": "capacity",
        "model__capacity_factor": 1.0,
        "training__precision": "bf16",
        "training__micro_batch": 4,
        "runtime__recompute": "layer",
    },
    "two layers of each stage recomputed, bf16": {
        "parallel": {"ep": 2, "pp": 2, "zero_stage": 2},
        "model__num_hidden_layers": 6,
        "training__precision": "bf16",
        "training__micro_batch": 4,
        "runtime__recompute": {"layers": 2},
    },
    "attention recomputed, bf16, tp": {
        "parallel__ep": 2,
        "parallel__tp": 2,
        "model__num_hidden_layers": 4,
        "training__precision": "bf16",
        "training__micro_batch": 8,
        "runtime__recompute": "attention",
    },
    "experts recomputed, fp32": {
        "parallel__ep": 2,
        "model__num_hidden_layers": 4,
        "model__expert": "swiglu",
        "model__num_experts_per_tok": 2,
        "model__moe_intermediate_size": 64,
        "training__micro_batch": 8,
        "runtime__recompute": "experts",
    },
    "fp8, tp under ep, swiglu": {
        "parallel__ep": 2,
        "parallel__tp": 2,
        "training__precision": "fp8",
        "model__expert": "swiglu",
        "model__num_shared_experts": 1,
        "model__moe_intermediate_size": 48,
        "training__micro_batch": 8,
    },
    "fp8 payloads, two experts a rank": {
        "parallel__ep": 4,
        "training__precision": "bf16",
        "model__num_experts_per_tok": 2,
        "training__micro_batch": 4,
        "runtime__fp8_payload": True,
    },
    "fp8 payloads, two stages": {
        "parallel": {"ep": 2, "pp": 2, "tp": 2, "zero_stage": 2},
        "model__num_hidden_layers": 4,
        "training__precision": "bf16",
        "training__micro_batch": 4,
        "runtime__fp8_payload": True,
    },
    "fp8, layers recomputed": {
        "parallel__ep": 2,
        "parallel__tp": 2,
        "model__num_hidden_layers": 4,
        "training__precision": "fp8",
        "training__micro_batch": 8,
        "runtime__recompute": "layer",
    },
    "fp8, large vocabulary": {
        "parallel__ep": 2,
        "training__precision": "fp8",
        "model__vocab_size": 4096,
        "training__micro_batch": 8,
    },
    "eight ranks, bf16, loss-free balancing": {
        "parallel__ep": 8,
        "training__precision": "bf16",
        "training__balance": "bias",
    },
}


@pytest.mark.parametrize("name", CASES)
def test_state_is_exact_and_each_phase_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ds_config, "BUCKET_ELEMENTS", SMALL_BUCKET)
    plan = build_plan(tiny(**CASES[name]))
    for rank, held in enumerate(run_ranks(plan.world_size, held_by_rank, plan)):
        expected = rank_workload(plan, plan.stage_of(rank)).received
        memory = rank_memory(plan, rank, ExpertImbalance(factor=max(1.0, held.rows / expected)))
        assert _state(memory) == (held.weights, held.masters, held.moments), rank
        # No tensor is forgotten: Python knows of none beside these but a scalar, and the step's four sums in
        # fp64, which gloo's thread lets go of some time after the collective.
        assert 0 <= held.everything - memory.static_bytes <= 8 + 4 * 8, rank
        gradients = max(phase.gradients + phase.sums for phase in memory.phases)
        # What leaves the sums in the last backward pass may all be in them still, when the first is reduced.
        leaving = held.moments // 2 if any(phase.sums for phase in memory.phases) else 0
        assert 0 <= gradients - held.gradients <= 2 * held.largest + leaving, rank
        bounds = {phase.phase: phase.total - phase.overhead for phase in memory.phases}
        buckets = {phase.phase: phase.buckets for phase in memory.phases}
        for phase, found in held.peaks.items():
            # Between steps that scalar and those sums, which are in no phase's bound; a thread of gloo may
            # hold the bucket that was reduced before.
            late = buckets["reduction"] if phase in ("reduction", "update") else 0
            assert found <= bounds[phase] + late + 8 + 4 * 8, (rank, phase, found, bounds[phase])
        # Sums of peaks that never met were at 0.72 to 0.98 here, staged ranks at 0.46 to 0.82.
        tight = 0.4 if "staged" in name else 0.75
        assert tight * max(bounds.values()) <= max(held.peaks.values()), (rank, held.peaks, bounds)


def _state(memory: RankMemory) -> tuple[int, int, int]:
    """Weights, masters and moments, which all phases have alike."""
    (state,) = {(phase.weights, phase.masters, phase.moments) for phase in memory.phases}
    return state


def test_experts_are_split_into_groups_as_deepspeed_splits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a group, 716 MB of fp32, made small; one tensor alone may be larger."""
    monkeypatch.setattr(optimizer_state, "MAX_EXPERT_GROUP", 3200)
    monkeypatch.setattr(
        deepspeed_moe.split_params_into_different_moe_groups_for_optimizer, "__defaults__", (3200,)
    )
    optimizer_state._groups.cache_clear()
    plan = build_plan(tiny(parallel__ep=2, model__num_hidden_layers=5, training__precision="bf16"))
    held = run_ranks(2, held_by_rank, plan)[0]
    memory = rank_memory(plan, 0)
    optimizer_state._groups.cache_clear()
    assert held.num_groups == 2 + 5  # ten tensors of 1,536 elements, two a group
    assert _state(memory) == (held.weights, held.masters, held.moments)
