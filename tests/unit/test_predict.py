"""Predictions against numbers worked out by hand, and what must hold for every plan."""

from dataclasses import replace

import pytest

from planner import Plan, build_plan, load
from planner.comms import network_of
from planner.counts import model_flops
from planner.hardware import Curve, Device, device_of
from planner.outlook import limit_checks, whole_run
from planner.parts import Parts, Pass
from planner.phases import PHASES
from planner.predict import boundaries_of, predict, predicted_phases
from planner.products import gemm_s
from planner.schedule import Boundary, forward_latency_s, step_bracket
from planner.timing import StageTime
from planner.updates import Held
from planner.work import Gemm
from tests.unit.examples import plan
from tests.unit.test_comms import BARE

REFERENCE = "ds_configs/ep64_tp2_staged.yaml"


def reference(*overrides: str) -> Plan:
    return build_plan(load(REFERENCE, overrides))


# Products


def flat(share: float, **changes: object) -> Device:
    curve = Curve(points=((1.0, share), (2.0, share)))
    return replace(BARE, gemm={"bf16": curve}, **changes)  # type: ignore[arg-type]


def test_a_product_takes_its_flops_over_the_share_of_the_peak() -> None:
    # 2·100·200·300 = 12 MFLOP at half of 1 TFLOP/s
    assert gemm_s(Gemm(m=100, n=200, k=300), flat(0.5), "bf16") == pytest.approx(24e-6)


def test_experts_of_a_gpu_are_one_product_of_whole_tiles() -> None:
    # 4 experts of 5 rows: 4·128 rows of 64 × 64
    seconds = gemm_s(Gemm(m=5, n=64, k=64, groups=4), flat(1.0, tile_rows=128), "bf16")
    assert seconds == pytest.approx(2 * 512 * 64 * 64 / 1e12)


def test_experts_of_a_cpu_are_products_of_their_own() -> None:
    small = Curve(points=((27.0, 0.1), (1000.0, 1.0)))  # 5·64·64 is the cube of 27.4
    device = replace(BARE, is_cpu=True, gemm={"bf16": small})
    one = gemm_s(Gemm(m=5, n=64, k=64), device, "bf16")
    assert gemm_s(Gemm(m=5, n=64, k=64, groups=4), device, "bf16") == pytest.approx(4 * one)
    assert one > 5 * 2 * 5 * 64 * 64 / 1e12


# The specification's own numbers


def test_the_references_all_to_all_in_fp8_is_the_specifications() -> None:
    # accumulation 1 needs 2 sequences a rank; 2,048 rows of 1,024 bytes and a scale of 4
    built = reference("training.micro_batch=2", "runtime.fp8_payload=true")
    experts = predict(built).stages[1].time
    assert experts.all_to_all_bytes * 1024 / 1028 == pytest.approx(2_064_384)


def test_the_reference_computes_what_the_specification_says() -> None:
    assert model_flops(reference()).forward == pytest.approx(41.2e12, rel=1e-3)


def test_the_references_hand_overs_are_bound_by_its_few_ranks() -> None:
    """64 sequences of 1,024 × 1,024 in bf16 are 134,217,728 bytes; each of two ranks sends half at 12.5 GB/s:
    5.37 ms and the start. The aggregation's partners then gather the other half: 5.37 ms more."""
    built = reference()
    into_experts, into_aggregation = boundaries_of(
        built, network_of(built, device_of(built.strategy.cluster.gpu))
    )
    assert into_experts.transfer_s == pytest.approx(5.37e-3, rel=0.01)
    assert into_aggregation.transfer_s == pytest.approx(10.74e-3, rel=0.01)


def test_the_references_bottleneck_is_named() -> None:
    assert predict(reference()).bottleneck.startswith("the links of the 2 aggregation ranks: ")


# Schedule


def stage(forward: float, backward: float, communication: float = 0.0, reduce: float = 0.0) -> StageTime:
    def one(compute: float) -> Pass:
        return Pass(compute_s=compute, all_to_all_s=communication, tensor_parallel_s=0.0, causes=())

    return StageTime(
        forward=one(forward),
        backward=one(backward),
        gradient_reduce_s=reduce,
        optimizer_s=0.0,
        data_s=0.0,
        other_s=0.0,
        all_to_all_bytes=0.0,
        held=Held(dense=1, experts=0, num_tensors=1),
        kept_bytes=0,
    )


def test_one_stage_has_no_bubble() -> None:
    bracket = step_bracket([stage(1.0, 2.0)], [], 4)
    assert (bracket.ideal_s, bracket.expected_s, bracket.none_s) == (12.0, 12.0, 12.0)


def test_a_pipeline_fills_and_drains() -> None:
    # 4 stages of 3 s, 8 micro-batches: (8 + 4 - 1)·3
    assert step_bracket([stage(1.0, 2.0)] * 4, [Boundary(transfer_s=0.0)] * 3, 8).expected_s == 33.0


def test_transfers_hide_behind_the_slowest_stage_but_not_at_the_ends() -> None:
    # way of one: 3 + 2·1 + 3 = 8; one more: 3; when nothing overlaps 3 + 2 = 5
    bracket = step_bracket([stage(1.0, 2.0)] * 2, [Boundary(transfer_s=1.0)], 2)
    assert (bracket.expected_s, bracket.none_s) == (11.0, 13.0)


def test_communication_hides_behind_compute_in_the_ideal_only() -> None:
    # 2 micro-batches: compute 6, communication 1 s in each of four passes, 1 s to reduce
    bracket = step_bracket([stage(1.0, 2.0, communication=1.0, reduce=1.0)], [], 2)
    assert bracket.expected_s == 2 * (3 + 2) + 1
    assert bracket.ideal_s == 6.0


def test_a_forward_pass_is_the_way_of_the_first_and_the_slowest_of_the_others() -> None:
    assert forward_latency_s([stage(1.0, 9.0), stage(2.0, 9.0)], [Boundary(transfer_s=0.5)], 3) == 7.5


# Whole predictions

PLANS = (
    (),
    ("parallel=EP64_TP2_PP1_DP1",),
    ("parallel=EP8_TP2_PP2_DP2", "training.micro_batch=2"),
    ("parallel={placement: staged, ep: 8, tp: 2, pp: 2, dp: 2}",),
    ("parallel=EP4_TP8_PP1_DP1", "model.num_experts_per_tok=2", "model.num_shared_experts=1"),
    ("parallel=EP16_TP1_PP4_DP2", "runtime.recompute=layer", "model.expert=swiglu"),
    ("cluster.gpu=cpu", "training.precision=fp32", "parallel={ep: 4, zero_stage: 0}"),
)


@pytest.mark.parametrize("overrides", PLANS)
def test_the_bracket_holds_phases_sum_and_no_step_beats_the_peak(overrides: tuple[str, ...]) -> None:
    built = plan(*overrides)
    prediction = predict(built)
    bracket = prediction.bracket
    assert 0 < bracket.ideal_s <= bracket.expected_s <= bracket.none_s
    assert 0 < prediction.mfu <= prediction.executed <= 1
    for one in prediction.stages:
        assert tuple(one.phases.phases_s) == PHASES
        assert sum(one.phases.phases_s.values()) == pytest.approx(prediction.step_s)
        assert one.phases.transfer_s + one.phases.bubble_s == pytest.approx(one.phases.phases_s["stage_wait"])
        assert 0 <= one.utilization + one.communication_share <= 1 + 1e-9
    assert prediction.bottleneck
    assert prediction.assumptions


def test_faster_links_never_slow_a_step() -> None:
    steps = [
        predict(plan("parallel=EP64_TP2_PP1_DP1", f"cluster.links.inter_host={rate} Gbps")).step_s
        for rate in (10, 100, 1000)
    ]
    assert steps == sorted(steps, reverse=True)


def test_recompute_costs_a_forward_pass_of_the_layers() -> None:
    plain, again = (
        predict(plan("parallel=EP16_TP1_PP1_DP1", f"runtime.recompute={mode}")).stages[0].time
        for mode in ("none", "layer")
    )
    assert again.forward.total_s == plain.forward.total_s
    more = again.backward.total_s - plain.backward.total_s
    assert 0.8 * plain.forward.total_s < more <= plain.forward.total_s * 1.001


def test_zero_2_reduces_after_every_micro_batch() -> None:
    fp32 = ("cluster.gpu=cpu", "training.precision=fp32", "training.global_batch=64")
    one, two = (
        predict(plan(*fp32, f"parallel={{ep: 8, dp: 2, zero_stage: {zero}}}")).phases_s["gradient_reduce"]
        for zero in (1, 2)
    )
    assert two > 2.5 * one  # accumulation 4


def test_more_ranks_than_cores_compute_slower() -> None:
    device = device_of(plan("cluster.gpu=cpu", "training.precision=fp32").strategy.cluster.gpu)
    small = ("cluster.gpu=cpu", "cluster.hosts=1", "training.precision=fp32", "parallel={ep: 4}")
    alone = predict(plan(*small), replace(device, cores=4)).phases_s["compute"]
    shared = predict(plan(*small), replace(device, cores=2)).phases_s["compute"]
    assert shared == pytest.approx(2 * alone)


def test_telemetry_gets_the_phases_and_the_step_of_its_rank() -> None:
    built = plan("parallel=EP8_TP2_PP2_DP2", "training.micro_batch=2")
    found = predicted_phases(built, 16)
    assert tuple(found) == (*PHASES, "step_s")
    assert sum(found[name] for name in PHASES) == pytest.approx(found["step_s"])


def test_the_whole_run_counts_steps_tokens_and_gpu_hours() -> None:
    built = plan("parallel=EP64_TP2_PP1_DP1")
    prediction = predict(built)
    run = whole_run(built, prediction, data_tokens=13_107_200)
    assert (run.tokens, run.epochs) == (13_107_200, 1.0)
    assert run.gpu_hours == pytest.approx(100 * prediction.step_s / 3600 * 64)
    assert whole_run(built, prediction).epochs is None


def test_a_missed_limit_says_what_would_keep_it() -> None:
    built = plan(
        "parallel=EP64_TP1_PP1_DP1", "limits.communication_share_max=0.7", "limits.utilization_min=0.1"
    )
    checks = {check.name: check for check in limit_checks(built, predict(built))}
    assert checks["memory_max"].holds
    assert checks["memory_max"].change == ""
    strict = plan("parallel=EP64_TP2_PP1_DP1", "limits.communication_share_max=0.625")
    missed = limit_checks(strict, predict(strict))[0]
    assert not missed.holds
    assert missed.change.startswith("cheapest change: ")
    assert "between hosts (1.04 times) do, too" in missed.change


def test_the_bandwidth_that_is_named_keeps_the_limit_and_little_less_does_not() -> None:
    strict = plan("parallel=EP64_TP2_PP1_DP1", "limits.communication_share_max=0.5")
    said = limit_checks(strict, predict(strict))[0].change
    times = float(said.rpartition("(")[2].partition(" times")[0])

    def share(factor: float) -> float:
        rate = f"{100 * factor:.6f} Gbps"
        links = (f"cluster.links.intra_host={rate}", f"cluster.links.inter_host={rate}")
        return predict(plan("parallel=EP64_TP2_PP1_DP1", *links)).communication_share

    assert share(times * 1.02) <= 0.5 < share(times * 0.97)


def test_parts_that_are_shared_give_the_same_prediction() -> None:
    parts = Parts(device_of(plan().strategy.cluster.gpu))
    for overrides in (PLANS[1], PLANS[2], PLANS[3]):
        built = plan(*overrides)
        assert predict(built, parts=parts).step_s == predict(built).step_s
