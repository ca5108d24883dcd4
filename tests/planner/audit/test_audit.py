"""The audit of the reference document against figures worked out by hand; and that no claim breaks it."""

from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner import Plan, StrategyError, build_plan, load
from planner.audit.audit import DERIVATIONS, Audit, Finding, audit
from planner.audit.verdicts import FAILS, HOLDS, IMPOSSIBLE, Derivation, judge
from planner.prediction.predict import predict
from planner.report.audit_report import audit_dict
from planner.strategy.claim_quantities import CLAIM_QUANTITIES
from planner.strategy.claims import Claim
from tests.support.examples import strategy

REFERENCE = Path(__file__).parents[3] / "ds_configs/ep64_tp2_staged.yaml"


def audit_of(plan: Plan) -> Audit:
    return audit(plan, predict(plan))


@lru_cache(maxsize=1)
def reference() -> Audit:
    return audit_of(build_plan(load(REFERENCE)))


# How the tests below name the claims about a changed strategy.
CHANGES: dict[str, dict[str, int]] = {
    "batch 256": {"training.global_batch": 256},
    "dp 2": {"parallel.dp": 2},
    "128 experts": {"model.num_experts": 128, "parallel.ep": 128},
    "ep 32": {"parallel.ep": 32},
    "tp 4": {"parallel.tp": 4},
    "pp 2": {"parallel.pp": 2},
}


def finding(quantity: str) -> Finding:
    quantity, changes = ("gpus", CHANGES[quantity]) if quantity in CHANGES else (quantity, {})
    found = (f for f in reference().findings if f.claim.quantity == quantity and f.claim.changes == changes)
    return next(found)


def derivation(quantity: str, of: str) -> Derivation:
    return next(r for r in finding(quantity).derivations if r.of == of)


def verdict(quantity: str, of: str) -> str:
    found = finding(quantity)
    return found.verdicts[found.derivations.index(derivation(quantity, of))]


def test_every_quantity_has_a_derivation() -> None:
    assert {*DERIVATIONS, "gpus"} == set(CLAIM_QUANTITIES)


# What the reference document does not state.
OF_OTHER_DOCUMENTS = {
    *("parameters", "active_parameters", "forward_flops_per_token", "training_flops_per_token"),
    *("flops_per_step", "mfu", "step_time"),
}


def test_the_reference_states_every_other_quantity_and_change() -> None:
    claims = [found.claim for found in reference().findings]
    assert len(claims) == 51
    assert {claim.quantity for claim in claims} == set(CLAIM_QUANTITIES) - OF_OTHER_DOCUMENTS
    assert [claim.changes for claim in claims if claim.changes] == list(CHANGES.values())


# By hand from the document: 16 × 8 GPUs of 400 TFLOPS and 64 GB, links of 12.5 GB/s.
@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("gpus_available", HOLDS),
        ("link_bandwidth", HOLDS),
        ("tokens_per_batch", HOLDS),  # 128 × 1024
        ("gpus", HOLDS),  # 2 + 64 + 2
        ("gpus_spare", HOLDS),  # 128 − 68
        ("gpus_used_share", HOLDS),  # 53.125 %, stated as 53 %
        ("gpus_per_host_used", IMPOSSIBLE),  # a host has 8
        ("expert_compute_share", HOLDS),  # 1 / 64
        ("total_compute_share", FAILS),  # of all compute, not of the experts' alone
        ("place_by_throughput", FAILS),
        ("compute_variance", FAILS),  # a lookup, experts and a head are not the same work
        ("embedding_memory", FAILS),
        ("expert_memory", FAILS),
        ("aggregation_memory", FAILS),
        ("max_memory", FAILS),
        ("memory_share", FAILS),
        ("memory_headroom", FAILS),
        ("memory_balance", FAILS),
        ("all_to_all_bandwidth", HOLDS),  # 66,060,288 bytes in 12.5 ms
        ("embedding_all_reduce_bandwidth", FAILS),  # 134,217,728 bytes in 12.5 ms
        ("aggregation_all_reduce_bandwidth", FAILS),
        ("embedding_to_expert_bandwidth", HOLDS),
        ("expert_to_aggregation_bandwidth", HOLDS),
        ("communication_share", FAILS),
        ("communication_latency", IMPOSSIBLE),
        ("forward_latency", IMPOSSIBLE),  # 201 MB over an embedding GPU's link
        ("aggregation_latency", IMPOSSIBLE),  # 687 GFLOP at 400 TFLOPS
        ("tokens_per_second", FAILS),
        ("batches_per_second", IMPOSSIBLE),
        ("utilization", FAILS),
        ("batch 256", FAILS),
        ("dp 2", IMPOSSIBLE),
        ("128 experts", FAILS),
        ("ep 32", HOLDS),
        ("tp 4", HOLDS),
        ("pp 2", IMPOSSIBLE),
    ],
)
def test_verdict_on_the_reference(quantity: str, expected: str) -> None:
    assert finding(quantity).verdict == expected


# FLOPs of a step on one rank: 2 · weights · tokens forward and twice that backward. Of causal attention
# 2 · 2 · hidden for each of S · (S + 1) / 2 pairs forward, twice that backward, half for recomputed scores.
EXPERT_FLOPS = 16 * (
    6 * 2048 * (4 * 1024 * 1024 + 64 * 1024 + 2 * 1024 * 2048) + 2 * 1024 * 1025 * 1024 * (2 + 4 + 1)
)
OUTPUT_FLOPS = 6 * 131_072 * (1024 * 512 + 1024 * 2048)
ALL_FLOPS = 64 * EXPERT_FLOPS + 2 * OUTPUT_FLOPS


# Values by hand: the numbers of the arithmetic, not those of the code.
@pytest.mark.parametrize(
    ("quantity", "of", "value"),
    [
        ("expert_memory", "experts of one layer, fp32", 16 * 2**20),  # 1024 · 2048 · 2 · 4
        ("expert_memory", "experts of all 16 layers, fp8", 64 * 2**20),
        ("expert_memory", "experts of all 16 layers, fp32", 256 * 2**20),
        ("embedding_memory", "its part of the embedding, fp8", 2 * 2**20),
        ("embedding_memory", "its part of the embedding, fp32", 8 * 2**20),
        ("aggregation_memory", "the full matrix, fp32", 4 * 2**20),
        ("aggregation_memory", "its part of the aggregation, fp32", 2 * 2**20),
        ("memory_share", "by its own figures", 16e6 / 64e9),  # 0.025 %
        ("memory_headroom", "by its own figures", 0.99975),
        ("memory_balance", "by its own figures", (2 * 8 + 64 * 16 + 2 * 4) / 68 / 16),
        ("tokens_per_second", "by its own figures", 10_240_000),
        ("batches_per_second", "by its own figures", 80),
        ("communication_share", "by its own figures", 0.08),
        ("communication_latency", "all-to-all alone", 32 * 2_064_384 / 12.5e9),  # 5.3 ms
        ("all_to_all_bandwidth", "", 32 * 2_064_384 / 12.5e-3),
        ("embedding_to_expert_bandwidth", "the stage", 25e9),
        ("embedding_to_expert_bandwidth", "a link", 12.5e9),
        ("expert_to_aggregation_bandwidth", "the stage", 25e9),
        ("expert_to_aggregation_bandwidth", "a link", 12.5e9),
        ("expert_parameters_per_gpu_and_layer", "", 4_194_304),
        ("expert_instances", "", 1024),
        ("embedding_parameters_per_gpu", "", 2_097_152),
        ("aggregation_parameters_per_gpu", "", 524_288),
        ("bytes_per_parameter", "weights to evaluate", 1),
        ("expert_compute_share", "of its stage", 1 / 64),
        ("gpus", "staged", 68),
        ("gpus", "colocated", 64),
        ("batch 256", "staged", 68),
        ("dp 2", "staged", 136),
        ("dp 2", "colocated", 128),
        ("128 experts", "staged", 132),
        ("128 experts", "colocated", 128),
        ("ep 32", "staged", 36),
        ("tp 4", "staged", 72),
        ("pp 2", "staged", 132),
        ("pp 2", "colocated", 128),
        ("total_compute_share", "one of 2 embedding GPUs", 0.0),
        ("total_compute_share", "one of 64 experts GPUs", EXPERT_FLOPS / ALL_FLOPS),
        ("total_compute_share", "one of 2 aggregation GPUs", OUTPUT_FLOPS / ALL_FLOPS),
        ("gpus_per_host_used", "", 8),
    ],
)
def test_value_of_the_reference(quantity: str, of: str, value: float) -> None:
    assert derivation(quantity, of).value == pytest.approx(value, rel=1e-12)


def test_bandwidth_between_stages_holds_for_the_stage_and_fails_for_a_link() -> None:
    for quantity in ("embedding_to_expert_bandwidth", "expert_to_aggregation_bandwidth"):
        assert verdict(quantity, "the stage") == HOLDS
        assert verdict(quantity, "a link") == IMPOSSIBLE


def test_what_16_mb_is_stands_beside_the_claim() -> None:
    assert verdict("expert_memory", "experts of one layer, fp32") == HOLDS
    assert verdict("expert_memory", "experts of all 16 layers, fp8") == FAILS


def test_floor_of_the_forward_pass_is_the_embedding_link() -> None:
    # 131,072 tokens × 1024 bytes summed over 2 partners, and half of them handed on, at 12.5 GB/s.
    bound = finding("forward_latency").derivations[0].bound
    assert bound == pytest.approx((134_217_728 + 67_108_864) / 12.5e9)
    assert "take 16.1 ms" in finding("forward_latency").reason


def test_floor_of_the_aggregation_is_its_peak() -> None:
    # 65,536 tokens' worth of 2 · 1024 · (1024 + 4096) FLOPs a token, at 400 TFLOPS
    bound = finding("aggregation_latency").derivations[0].bound
    assert bound == pytest.approx(65_536 * 2 * 1024 * (1024 + 4096) / 400e12)


def test_all_to_all_is_worked_out_in_its_line() -> None:
    line = derivation("communication_latency", "all-to-all alone").arithmetic
    assert line == "2,064,384 bytes per layer and direction / 12.5 GB/s = 165.2 us; × 32 = 5.285 ms"


def test_every_arithmetic_is_one_line() -> None:
    for found in reference().findings:
        for one in found.derivations:
            assert one.arithmetic
            assert "\n" not in one.arithmetic


def test_what_cannot_be_met_has_a_reason() -> None:
    for found in reference().findings:
        assert bool(found.reason) == (found.verdict == IMPOSSIBLE), found.claim.quantity


def test_balance_of_the_reference() -> None:
    load = reference().load
    assert load.stages[0].flops == 0  # a lookup
    assert [stage.num_ranks for stage in load.stages] == [2, 64, 2]
    assert load.compute.least == 0
    # By hand, from three values and their ranks.
    values = [stage.flops for stage in load.stages]
    mean = (64 * values[1] + 2 * values[2]) / 68
    variance = (2 * mean**2 + 64 * (values[1] - mean) ** 2 + 2 * (values[2] - mean) ** 2) / 68
    assert load.compute.score == pytest.approx(mean / values[2])
    assert load.compute.variation == pytest.approx(variance**0.5 / mean)
    assert sum(stage.flops_share * stage.num_ranks for stage in load.stages) == pytest.approx(1)


def test_checks_of_the_reference() -> None:
    checks = {check.name: check.passes for check in reference().checks}
    assert checks == {
        "GPU count": True,
        "expert distribution": True,
        "memory requirements": True,
        "compute utilization": False,
        "load balancing": False,
        "communication share": False,
    }


def test_memory_beyond_a_gpu_fails_its_check() -> None:
    found = audit_of(build_plan(strategy("parallel.ep=64", "cluster.gpu.memory=4 GB")))
    assert {check.name: check.passes for check in found.checks}["memory requirements"] is False


def test_one_grid_is_balanced() -> None:
    found = audit_of(build_plan(strategy("parallel.ep=64")))
    assert found.findings == ()
    assert found.load.compute.score == 1
    assert found.load.compute.variation == 0


# 53 % of 53.125 %; 16 MB is also 16 MiB; what is below is not equal; a bound decides what is impossible.
@pytest.mark.parametrize(
    ("stated", "dimension", "value", "relation", "expected"),
    [
        (0.53, "share", 0.53125, "equals", HOLDS),
        (0.0156, "share", 1 / 64, "equals", HOLDS),
        (0.53, "share", 0.536, "equals", FAILS),
        (16_000_000, "bytes", 16_777_216, "equals", HOLDS),
        (16_777_216, "bytes", 16_000_000, "equals", FAILS),
        (128, "count", 128.4, "equals", FAILS),
        (0.08, "share", 0.08, "below", FAILS),
        (0.08, "share", 0.0799, "below", HOLDS),
        (0.95, "share", 0.9499, "at least", FAILS),
        (0.0125, "seconds", 0.0125, "at most", HOLDS),
    ],
)
def test_judged_to_the_digits_that_are_stated(
    stated: float, dimension: str, value: float, relation: str, expected: str
) -> None:
    one = Derivation(value=value, arithmetic="", relation=relation)  # type: ignore[arg-type]
    assert judge(stated, one, dimension) == expected  # type: ignore[arg-type]


def test_a_bound_tells_impossible_from_wrong() -> None:
    slow = Derivation(value=3.0, arithmetic="", relation="at most", bound=2.0, why="")
    assert judge(1.0, slow, "seconds") == IMPOSSIBLE
    assert judge(2.5, slow, "seconds") == FAILS
    full = Derivation(value=8, arithmetic="", bound=8)
    assert judge(68, full, "count") == IMPOSSIBLE
    assert judge(4, full, "count") == FAILS


@lru_cache(maxsize=1)
def every_claim() -> tuple[Claim, ...]:
    return tuple(c for c in load(REFERENCE).claims if c.quantity != "place_by_throughput")  # seconds


OVERRIDES = st.fixed_dictionaries(
    {
        "parallel.placement": st.sampled_from(["staged", "colocated"]),
        "parallel.ep": st.sampled_from([1, 2, 8, 32, 64]),
        "parallel.tp": st.sampled_from([1, 2, 4]),
        "parallel.pp": st.sampled_from([1, 2, 3]),
        "parallel.dp": st.sampled_from([1, 2]),
        "training.precision": st.sampled_from(["bf16", "fp32"]),
        "model.aggregation": st.sampled_from(["linear", "none"]),
        "model.num_experts": st.sampled_from([8, 64, 96]),
        "model.first_dense_layers": st.sampled_from([0, 1, 16]),
        "cluster.gpu": st.sampled_from(["cpu", "H100"]),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(OVERRIDES)
def test_any_plan_can_be_audited(overrides: dict[str, object]) -> None:
    texts = [f"{key}={value}" for key, value in overrides.items()]
    try:
        written = strategy(*texts, "model.intermediate_size=4096")
        plan = build_plan(written.model_copy(update={"claims": every_claim()}))
    except StrategyError:
        return
    found = audit_of(plan)
    assert len(found.findings) == len(every_claim())
    assert sum(found.counts.values()) == len(found.findings)
    assert found.load.compute.least <= found.load.compute.mean <= found.load.compute.most * (1 + 1e-9)
    assert 0 < found.load.memory.score <= 1 + 1e-9
    audit_dict(plan, found)


def test_a_floor_is_never_above_what_is_predicted() -> None:
    for degrees in ("EP64_TP2", "EP32_TP2_DP2", "EP8_TP1_DP4"):
        for placement in ("staged", "colocated"):
            written = load(REFERENCE, [f"parallel={degrees}", "cluster.spare_hosts=0"])
            parallel = written.parallel.model_copy(update={"placement": placement})
            changed = {"parallel": parallel, "claims": every_claim()}
            found = audit_of(build_plan(written.model_copy(update=changed)))
            for one in found.findings:
                for r in one.derivations:
                    if r.bound is not None and r.value is not None and r.relation == "at most":
                        assert r.bound <= r.value * (1 + 1e-9), (degrees, placement, one.claim.quantity)
