"""Counts against published figures and against sums done by hand."""

import pytest

from planner import build_plan, load
from planner.counts.flops import batch_flops, executed_flops, model_flops, token_flops
from planner.counts.module_flops import stage_modules
from planner.counts.parameters import model_parameters
from planner.counts.rank_workload import ExpertImbalance, rank_workload
from tests.support.examples import plan, strategy


def test_parameters_of_the_reference_are_its_specification() -> None:
    counts = model_parameters(load("ds_configs/ep64_tp2_staged.yaml").model)
    assert dict(counts.by_kind) == {
        "embedding": 4_194_304,
        "attention": 67_108_864,
        "norms": 33_792,
        "routers": 1_048_576,
        "experts": 4_294_967_296,
        "aggregation": 1_048_576,
        "head": 4_194_304,
    }
    assert counts.total == 4_372_595_712


def test_flops_of_the_reference_are_its_specification() -> None:
    """41.2 TFLOP forward, training three times that."""
    flops = model_flops(build_plan(load("ds_configs/ep64_tp2_staged.yaml")))
    assert flops.forward / 1e12 == pytest.approx(41.2, abs=0.05)
    assert flops.total == 3 * flops.forward


def test_both_placements_ask_for_the_same_flops() -> None:
    colocated = plan("parallel=EP64")
    staged = plan("parallel={placement: staged, ep: 64, tp: 2}")
    assert model_flops(colocated) == model_flops(staged)
    assert executed_flops(colocated).forward == executed_flops(staged).forward == model_flops(staged).forward


def test_flops_of_a_token_by_hand() -> None:
    model = strategy("model.num_hidden_layers=1", "model.num_experts_per_tok=2").model
    attention = 4 * 1024 * 1024
    experts = 2 * 2 * 1024 * 2048
    router, head = 64 * 1024, 4096 * 1024
    # Two products of 16 heads of 64 with, on average, half of the 9 other or same positions of 8.
    scores = 2 * 2 * 16 * 64 * (8 + 1) // 2
    assert token_flops(model, 8) == 2 * (attention + experts + router + head) + scores


def test_flops_of_a_batch_count_its_tokens_and_pairs() -> None:
    """Documents of 3 and 5 tokens: 3·4/2 and 5·6/2 pairs, in 2 layers, of 16 heads of 64."""
    model = strategy("model.num_hidden_layers=2").model
    apart = batch_flops(model, 8, 3 * 4 // 2 + 5 * 6 // 2)
    together = batch_flops(model, 8, 8 * 9 // 2)
    assert together.forward == 8 * token_flops(model, 8)
    assert together.forward - apart.forward == (36 - 21) * 2 * 2 * 2 * 16 * 64
    assert apart.total == 3 * apart.forward


def test_imbalance_fills_one_rank_and_capacity_bounds_it() -> None:
    dropless = plan("parallel=EP64")
    stage = dropless.stages[0]
    assert rank_workload(dropless, stage).received == 1024
    assert rank_workload(dropless, stage, ExpertImbalance(factor=3.0)).received == 3072
    limited = plan("parallel=EP64", "model.dispatch=capacity", "model.capacity_factor=1.25")
    # 20 rows of each of 64 sequences for the one expert of a rank.
    assert rank_workload(limited, limited.stages[0], ExpertImbalance(factor=3.0)).received == 1280


def test_experts_work_grows_with_the_load() -> None:
    built = plan("parallel=EP64")

    def experts(load: ExpertImbalance) -> int:
        return next(
            w for w in stage_modules(built, built.stages[0], load) if w.name == "experts"
        ).flops_forward

    assert (
        experts(ExpertImbalance(factor=2.0))
        == 2 * experts(ExpertImbalance())
        == 2 * 16 * 1024 * 2 * 2 * 1024 * 2048
    )


def test_stock_dispatch_pays_for_its_einsums() -> None:
    stock = ("model.dispatch=deepspeed", "training.balance_loss=0", "training.z_loss=0")
    ours, theirs = plan("parallel=EP64"), plan("parallel=EP64", *stock)
    rows = 64 * 16  # every expert, balanced: 16 rows from each rank
    einsums = 2 * 2 * 1024 * rows * 1024 * 16 * 128
    assert executed_flops(theirs).forward - executed_flops(ours).forward == einsums
    assert model_flops(theirs) == model_flops(ours)
