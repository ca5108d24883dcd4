"""Predictions against numbers worked out by hand, and what must hold for every plan."""

from dataclasses import replace

import pytest

from planner import Plan, build_plan, load
from planner.counts.flops import model_flops
from planner.counts.module_flops import Gemm, ModuleCost
from planner.counts.parameters import model_parameters
from planner.counts.rank_workload import ExpertImbalance, rank_workload
from planner.hardware.catalog import Curve, Device, device_of
from planner.prediction.breakdown import PHASES, narrow_links_s
from planner.prediction.limits import limit_checks
from planner.prediction.predict import predict, predicted_phases
from planner.prediction.run_forecast import forecast_run
from planner.report.prediction_report import forecast_lines
from planner.timing.boundary_time import Boundary, boundaries_of
from planner.timing.collective_time import network_of
from planner.timing.gemm_time import backward_s, forward_s, gemm_s
from planner.timing.layer_time import PassTime
from planner.timing.pipeline_time import forward_latency_s, stage_phases, step_bracket
from planner.timing.stage_time import HeldParameters, MicroBatchTime, StageTime
from planner.timing.time_model import TimeModel
from tests.planner.timing.test_collective_time import BARE
from tests.support.examples import plan

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


def test_in_fp8_the_weights_gradients_take_the_time_of_bf16() -> None:
    # 24 µs in bf16, half of it in FP8; backward has one of each.
    device = replace(flat(0.5), peak={"bf16": 1e12, "fp8": 2e12})
    gemms = (Gemm(m=100, n=200, k=300),)
    work = ModuleCost(
        name="experts", kind="experts", num_layers=1, gemms=gemms,
        flops_forward=gemms[0].flops, flops_backward=2 * gemms[0].flops,
    )  # fmt: skip
    workload = rank_workload(plan(), plan().stages[0])
    assert forward_s(work, workload, device, "fp8") == pytest.approx(12e-6)
    assert backward_s(work, workload, device, "fp8") == pytest.approx(36e-6)
    assert backward_s(work, workload, device, "bf16") == pytest.approx(48e-6)


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
    assert experts.micro_batch.all_to_all_bytes * 1024 / 1028 == pytest.approx(2_064_384)


def test_the_reference_computes_what_the_specification_says() -> None:
    assert model_flops(reference()).forward == pytest.approx(41.2e12, rel=1e-3)


def test_the_references_p2p_is_bound_by_its_few_ranks() -> None:
    """64 sequences of 1,024 × 1,024 in bf16 are 134,217,728 bytes; each of two ranks sends half at 12.5 GB/s:
    5.37 ms, the start of 20 us and 63 more messages of 1 us. Each aggregation rank gets the half that its
    rows need. A narrow rank's 64 sequences cross in 4 chunks of 16."""
    built = reference()
    into_experts, into_aggregation = boundaries_of(
        built, network_of(built, device_of(built.strategy.cluster.gpu))
    )
    assert into_experts.transfer_s == pytest.approx(5.452e-3, rel=0.001)
    assert into_aggregation.transfer_s == pytest.approx(5.452e-3, rel=0.001)
    assert (into_experts.chunks, into_experts.cut) == (4, "before")
    assert (into_aggregation.chunks, into_aggregation.cut) == (4, "after")


def test_the_links_of_the_references_few_ranks_are_told() -> None:
    """Two micro-batches of 134,217,728 bytes over 12.5 GB/s, in milliseconds:

    an all-reduce between two partners sends 2 · 1/2 of it: 10.74; a gather 1/2: 5.37; a hand-over 1/2: 5.37
    embedding    forward: sum 10.74; backward: gather of the shares' gradient 5.37; 2 · (16.11) = 32.2
    aggregation  forward: sum 10.74; backward: sum 10.74 (the head's input); 2 · 21.47 = 42.9
    both         hand over once each way and micro-batch, 64 messages: 4 · 5.45 = 21.8
    """
    built = reference()
    prediction = predict(built)
    spent = {stage.name: stage.phases.phases_s["tensor_parallel"] for stage in prediction.stages}
    assert spent["embedding"] == pytest.approx(32.2e-3, rel=0.01)
    assert spent["aggregation"] == pytest.approx(42.9e-3, rel=0.02)  # two numbers and a maximum a token
    assert spent["experts"] == 0.0
    links = narrow_links_s(built, prediction.stages)
    assert links["embedding"] == pytest.approx(54.0e-3, rel=0.01)
    assert links["aggregation"] == pytest.approx(64.7e-3, rel=0.02)
    lines = forecast_lines(built, prediction, None)
    (said,) = [line for line in lines if "2 embedding ranks 54." in line]
    assert "2 aggregation ranks 65.1" in said


def test_the_references_two_micro_batches_are_told_with_what_stages_wait() -> None:
    built = reference()
    prediction = predict(built)
    lines = forecast_lines(built, prediction, None)
    (said,) = [line for line in lines if line.startswith("pipeline: ")]
    assert said.startswith(f"pipeline: 2 micro-batches over 3 stages; bubble {prediction.bubble_share:.1%}")
    for stage in prediction.stages:
        own = prediction.step_s - stage.phases.transfer_s - stage.phases.bubble_s
        rest = sum(s for name, s in stage.phases.phases_s.items() if name != "stage_wait")
        assert own == pytest.approx(rest)
        assert f"{stage.name} {stage.phases.bubble_s / prediction.step_s:.0%}" in said


# Schedule


def stage(forward: float, backward: float, communication: float = 0.0, reduce: float = 0.0) -> StageTime:
    def one(compute: float) -> PassTime:
        return PassTime(compute_s=compute, all_to_all_s=communication, tensor_parallel_s=0.0)

    return StageTime(
        micro_batch=MicroBatchTime(
            forward=one(forward),
            backward=one(backward),
            all_to_all_bytes=0.0,
            held=HeldParameters(dense=1, experts=0, num_tensors=1),
        ),
        gradient_reduce_s=reduce,
        optimizer_s=0.0,
        data_s=0.0,
        other_s=0.0,
    )


def test_one_stage_has_no_bubble() -> None:
    bracket = step_bracket([stage(1.0, 2.0)], [], 4)
    assert (bracket.full_overlap_s, bracket.expected_s, bracket.no_overlap_s) == (12.0, 12.0, 12.0)


def test_what_overlap_hides_is_taken_off_each_later_micro_batch_and_off_the_end() -> None:
    """Of 1 + 1 and 2 + 1 s with 3 s behind, 1 + 1 s hidden in each of 3 later micro-batches, 2 s at the end:
    5 + 3 · 3 + 1. What nothing hides and what everything does are as before."""
    given = stage(1.0, 2.0, communication=1.0, reduce=3.0)
    hidden = replace(given, all_to_all_hidden_s=2.0, reduce_hidden_s=2.0)
    plain, found = step_bracket([given], [], 4), step_bracket([hidden], [], 4)
    assert (plain.expected_s, found.expected_s) == (23.0, 15.0)
    assert (found.full_overlap_s, found.no_overlap_s) == (plain.full_overlap_s, plain.no_overlap_s)
    (phases,) = stage_phases([hidden], [], 4, found.expected_s)
    assert (phases.phases_s["all_to_all"], phases.phases_s["gradient_reduce"]) == (2 * 4 - 3 * 2, 1.0)
    assert sum(phases.phases_s.values()) == pytest.approx(15.0)


@pytest.mark.parametrize("degrees", ["EP64_TP2", "EP8_DP4", "EP8_PP4", "EP16_TP2_PP2"])
@pytest.mark.parametrize("placement", ["colocated", "staged"])
@pytest.mark.parametrize("reduce", ["once", "every_micro_batch"])
def test_overlap_is_between_what_nothing_and_everything_hides(
    degrees: str, placement: str, reduce: str
) -> None:
    parts = ", ".join(f"{part[:2].lower()}: {part[2:]}" for part in degrees.split("_"))
    own = (f"parallel={{placement: {placement}, {parts}}}", f"runtime.reduce={reduce}")
    plain = predict(plan(*own)).bracket
    for keys in (("reduce",), ("all_to_all",), ("reduce", "all_to_all")):
        found = predict(plan(*own, *(f"runtime.overlap_{key}=true" for key in keys))).bracket
        assert plain.full_overlap_s <= found.expected_s * (1 + 1e-9)
        assert found.expected_s <= plain.expected_s


def test_one_micro_batch_has_no_other_to_be_exchanged_beside() -> None:
    own = ("parallel=EP8", "training.global_batch=8")
    plain, found = predict(plan(*own)), predict(plan(*own, "runtime.overlap_all_to_all=true"))
    assert found.bracket == plain.bracket
    assert "there is only one" in found.runtime


def test_all_to_alls_beside_compute_are_those_of_the_later_micro_batches() -> None:
    """4 micro-batches on links that are no bottleneck: one of four is exchanged in the open."""
    own = ("parallel=EP8", "training.global_batch=32", "cluster.links.intra_host=900 GB/s")
    plain, found = predict(plan(*own)), predict(plan(*own, "runtime.overlap_all_to_all=true"))
    assert found.phases_s["all_to_all"] == pytest.approx(plain.phases_s["all_to_all"] / 4)
    assert plain.step_s - found.step_s == pytest.approx(plain.phases_s["all_to_all"] * 3 / 4)


def test_compute_hides_no_more_than_it_takes_itself() -> None:
    own = ("parallel=EP8", "training.global_batch=32", "cluster.links.intra_host=1 Gbps")
    plain, found = predict(plan(*own)), predict(plan(*own, "runtime.overlap_all_to_all=true"))
    assert plain.phases_s["all_to_all"] > 2 * plain.phases_s["compute"]
    assert plain.step_s - found.step_s == pytest.approx(plain.phases_s["compute"] * 3 / 4)


def test_a_pipeline_fills_and_drains() -> None:
    # 4 stages of 3 s, 8 micro-batches: (8 + 4 - 1)·3
    assert step_bracket([stage(1.0, 2.0)] * 4, [Boundary(transfer_s=0.0)] * 3, 8).expected_s == 33.0


def test_the_slowest_of_unequal_stages_sets_the_pace() -> None:
    # 3 layers and 1 of 3 s each, 4 micro-batches: the way of one, 12, and 3 more of the slower, 9 each
    stages = [stage(3.0, 6.0), stage(1.0, 2.0)]
    assert step_bracket(stages, [Boundary(transfer_s=0.0)], 4).expected_s == 39.0


def test_the_time_of_a_stage_follows_its_layers() -> None:
    """14 + 2 layers against 8 + 8: what a layer takes is the same, the last stage has the output besides."""
    even, uneven = (
        predict(plan("parallel=EP8_PP2", f"parallel.layers_per_stage={cut}")).stages
        for cut in ("[8, 8]", "[14, 2]")
    )
    busy = [[one.time.micro_batch.total_s for one in stages] for stages in (even, uneven)]
    six_layers = busy[1][0] - busy[0][0]
    assert six_layers > 0
    assert busy[0][1] - busy[1][1] == pytest.approx(six_layers)


def test_transfers_hide_behind_the_slowest_stage_but_not_at_the_ends() -> None:
    # way of one: 3 + 2·1 + 3 = 8; one more: 3; when nothing overlaps 3 + 2 = 5
    bracket = step_bracket([stage(1.0, 2.0)] * 2, [Boundary(transfer_s=1.0)], 2)
    assert (bracket.expected_s, bracket.no_overlap_s) == (11.0, 13.0)


def test_chunks_cross_while_a_narrow_stage_works_on_others() -> None:
    """Stages of 1 + 1, 4 + 8 and 2 + 2 s, hand-overs of 1 s, 2 micro-batches, 4 chunks at both narrow stages:

    way of one: 2 + 12 + 4 + 4 · 1 = 22, less 3/4 of the shorter of pass and crossing, 4 · 3/4 = 3: 19
    one more: 12; together 31, of which embedding works 4, experts 24, aggregation 8
    waits: 27, of which 4 handing over; 7, all of it handing over (up to 8); 23, of which 4
    whole: 22 and one more with both its ends waited for, 12 + 4: 38
    """
    stages = [stage(1.0, 1.0), stage(4.0, 8.0), stage(2.0, 2.0)]
    boundaries = [Boundary(transfer_s=1.0, chunks=4, cut=side) for side in ("before", "after")]
    bracket = step_bracket(stages, boundaries, 2)
    assert (bracket.expected_s, bracket.no_overlap_s) == (31.0, 38.0)
    found = stage_phases(stages, boundaries, 2, bracket.expected_s)
    assert [one.phases_s["stage_wait"] for one in found] == [27.0, 7.0, 23.0]
    assert [one.transfer_s for one in found] == [4.0, 7.0, 4.0]
    assert [one.bubble_s for one in found] == [23.0, 0.0, 19.0]
    assert [one.share("compute", "optimizer") for one in found] == [4 / 31, 24 / 31, 8 / 31]
    # forward: 1 + 4 + 2 + 1 + 1, less 3/4 · (1 + 1), and the slowest once more: 4
    assert forward_latency_s(stages, boundaries, 2) == 11.5


def test_communication_hides_behind_compute_in_the_ideal_only() -> None:
    # 2 micro-batches: compute 6, communication 1 s in each of four passes, 1 s to reduce
    bracket = step_bracket([stage(1.0, 2.0, communication=1.0, reduce=1.0)], [], 2)
    assert bracket.expected_s == 2 * (3 + 2) + 1
    assert bracket.full_overlap_s == 6.0


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
    assert 0 < bracket.full_overlap_s <= bracket.expected_s <= bracket.no_overlap_s
    assert 0 < prediction.mfu <= prediction.hfu <= 1
    for one in prediction.stages:
        assert tuple(one.phases.phases_s) == PHASES
        assert sum(one.phases.phases_s.values()) == pytest.approx(prediction.step_s)
        assert one.phases.transfer_s + one.phases.bubble_s == pytest.approx(one.phases.phases_s["stage_wait"])
        assert 0 <= one.utilization + one.communication_share <= 1 + 1e-9
    assert prediction.bottleneck
    assert prediction.assumptions


@pytest.mark.parametrize(
    ("peak", "precision", "said"),
    [
        ("{bf16: 400 TFLOPS}", "bf16", None),
        ("{bf16: 400 TFLOPS}", "fp8", "unnamed has no fp8 peak: GEMMs and MFU by its bf16 peak"),
        ("{fp8: 400 TFLOPS}", "bf16", "unnamed has no bf16 peak: GEMMs and MFU by its fp8 peak"),
        # _FP32_OF_BF16
        ("{bf16: 400 TFLOPS}", "fp32", "unnamed has no fp32 peak: GEMMs and MFU by 0.125 of its bf16 peak"),
    ],
)
def test_a_peak_that_is_not_known_is_said(peak: str, precision: str, said: str | None) -> None:
    gpu = f"cluster.gpu={{memory: 64 GB, memory_bandwidth: 2.1 TB/s, peak: {peak}}}"
    lines = predict(plan("parallel=EP8", gpu, f"training.precision={precision}")).assumptions
    assert [line for line in lines if "no fp8 peak" in line or "no bf16" in line or "no fp32" in line] == (
        [] if said is None else [said]
    )
    assert not any("at the FP8 rate" in line for line in lines)


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


def test_ranks_of_a_pipeline_share_cores_only_while_they_work() -> None:
    """Stages of 1, 2 and 1 ranks on 2 cores; what all are busy for over the step with a core for each."""
    small = ("cluster.gpu=cpu", "cluster.hosts=1", "training.precision=fp32", "training.global_batch=8")
    built = plan(*small, "parallel={placement: staged, ep: 2, tp: 1, zero_stage: 0}")
    shipped = device_of(built.strategy.cluster.gpu)
    alone = predict(built, replace(shipped, cores=None))
    names = ("compute", "optimizer", "gradient_reduce", "data", "other")
    busy = sum(one.num_ranks * sum(one.phases.phases_s[name] for name in names) for one in alone.stages)
    expected = max(1.0, busy / alone.step_s / 2)
    assert 1.0 < expected < 2.0, "not a case that tells"
    shared = predict(built, replace(shipped, cores=2))
    for before, after in zip(alone.stages, shared.stages, strict=True):
        assert after.phases.phases_s["compute"] == pytest.approx(expected * before.phases.phases_s["compute"])
    assert any(f"2 cores, {2 * expected:.1f} of them busy" in line for line in shared.assumptions)


def test_first_touch_of_memory_costs_reductions_of_large_groups() -> None:
    """fp32, ZeRO 1, two replicas: a reduction makes one bucket and one copy of what is in it, 8 bytes a
    parameter. At 1 TB/s a byte is 1 ps."""
    small = ("cluster.gpu=cpu", "cluster.hosts=1", "training.precision=fp32", "training.global_batch=8")
    built = plan(*small, "parallel={dp: 2, zero_stage: 1}")
    device = device_of(built.strategy.cluster.gpu)
    without = predict(built, replace(device, fresh_bytes_per_s=None)).phases_s
    touched = predict(built, replace(device, fresh_bytes_per_s=1e12)).phases_s
    parameters = model_parameters(built.strategy.model).total
    more = touched["gradient_reduce"] - without["gradient_reduce"]
    assert more == pytest.approx(8 * parameters * 1e-12, rel=1e-6)
    alone = predict(plan(*small, "parallel={zero_stage: 1}"), replace(device, fresh_bytes_per_s=1.0)).phases_s
    assert alone["gradient_reduce"] == 0


def test_a_gpu_is_given_fp32_experts_one_by_one() -> None:
    def compute_s(num_experts: int, precision: str) -> float:
        strategy = ["cluster.gpu=H100", "cluster.gpus_per_host=1", "parallel={ep: 1, tp: 1}"]
        strategy += [f"model.num_experts={num_experts}", f"training.precision={precision}"]
        found = build_plan(load("ds_configs/tiny_cpu.yaml", strategy))
        slow_host = replace(device_of(found.strategy.cluster.gpu), operation_s=1.0)
        return predict(found, slow_host).stages[0].time.micro_batch.total_s

    # mlp: 2 products an expert forward, 4 backward; 16 layers.
    assert compute_s(64, "fp32") - compute_s(32, "fp32") == pytest.approx(16 * 32 * 6)
    assert compute_s(64, "bf16") == pytest.approx(compute_s(32, "bf16"))


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


def test_the_run_forecast_counts_steps_tokens_and_gpu_hours() -> None:
    built = plan("parallel=EP64_TP2_PP1_DP1")
    prediction = predict(built)
    run = forecast_run(built, prediction, data_tokens=13_107_200)
    assert (run.tokens, run.epochs) == (13_107_200, 1.0)
    assert run.gpu_hours == pytest.approx(100 * prediction.step_s / 3600 * 64)
    assert forecast_run(built, prediction).epochs is None


def test_a_limit_is_that_of_the_worst_stage_which_is_named() -> None:
    built = reference("parallel.placement=staged")
    prediction = predict(built)
    checks = {check.name: check for check in limit_checks(built, prediction)}
    # Both limits are missed most by the two embedding ranks, which wait for the others.
    embedding = prediction.stages[0]
    for name, value in (
        ("communication_share_max", embedding.communication_share),
        ("utilization_min", embedding.utilization),
    ):
        assert (checks[name].stage, checks[name].expected) == ("embedding", f"{value:.1%}")
    assert checks["memory_max"].stage is None
    alone = reference("parallel.placement=colocated")
    assert not any(check.stage for check in limit_checks(alone, predict(alone)))


def test_a_missed_limit_says_what_would_keep_it() -> None:
    built = plan(
        "parallel=EP64_TP1_PP1_DP1", "limits.communication_share_max=0.7", "limits.utilization_min=0.1"
    )
    checks = {check.name: check for check in limit_checks(built, predict(built))}
    assert checks["memory_max"].holds
    assert checks["memory_max"].change == ""
    own = ("parallel=EP64_TP2_PP1_DP1", "runtime.reduce=every_micro_batch")
    strict = plan(*own, "limits.communication_share_max=0.42")
    missed = limit_checks(strict, predict(strict))[0]
    assert not missed.holds
    assert "runtime.fp8_payload: true" in missed.change
    assert "1.06 times as fast (13.3 GB/s intra-host, 13.3 GB/s inter-host)" in missed.change


def test_the_bandwidth_that_is_named_keeps_the_limit_and_little_less_does_not() -> None:
    own = ("parallel=EP64_TP2_PP1_DP1", "runtime.reduce=every_micro_batch")
    strict = plan(*own, "limits.communication_share_max=0.35")
    said = limit_checks(strict, predict(strict))[0].change
    times = float(said.partition(" times as fast")[0].rpartition(" ")[2])

    def share(factor: float) -> float:
        rate = f"{100 * factor:.6f} Gbps"
        links = (f"cluster.links.intra_host={rate}", f"cluster.links.inter_host={rate}")
        return predict(plan(*own, *links)).communication_share

    assert share(times * 1.02) <= 0.35 < share(times * 0.97)


def test_a_shared_model_gives_the_same_prediction() -> None:
    shared = TimeModel(device_of(plan().strategy.cluster.gpu))
    for overrides in (PLANS[1], PLANS[2], PLANS[3]):
        built = plan(*overrides)
        assert predict(built, model=shared) == predict(built)


# Uneven experts


def test_all_wait_for_the_fullest_expert_rank() -> None:
    """Twice the mean: twice the rows, so twice the experts' products and the bytes of an all-to-all."""
    one_host = ("cluster.hosts=1", "cluster.links.inter_host=12.5 GB/s")
    built = plan("parallel={ep: 8}", "limits.balance_min=0.9", *one_host)
    even, uneven = (predict(built, flat(1.0), imbalance=ExpertImbalance(factor=i)) for i in (1.0, 2.0))
    causes = [dict(found.busiest.time.forward.causes) for found in (even, uneven)]
    assert causes[1]["matmul: experts"] == pytest.approx(2 * causes[0]["matmul: experts"])
    assert causes[1]["matmul: head"] == causes[0]["matmul: head"]
    forward = [found.busiest.time.forward for found in (even, uneven)]
    counts = 16 * 8 * 8 * 7 / 8 / 12.5e9  # how many rows come, in each of 16 layers, is as much as before
    assert forward[1].all_to_all_s - counts == pytest.approx(2 * (forward[0].all_to_all_s - counts))
    assert (even.balance, uneven.balance) == (1.0, 0.5)
    balance = next(check for check in limit_checks(built, uneven) if check.name == "balance_min")
    assert (balance.holds, balance.expected) == (False, "0.50 (assumed)")


def test_a_rank_that_holds_all_experts_has_no_fuller_peer() -> None:
    alone = plan("parallel={ep: 1, dp: 4}")
    assert predict(alone, imbalance=ExpertImbalance(factor=3.0)) == predict(alone)


def test_no_rank_gets_more_than_its_group_sends() -> None:
    pair = plan("parallel={ep: 2}")
    assert predict(pair, imbalance=ExpertImbalance(factor=100.0)) == predict(
        pair, imbalance=ExpertImbalance(factor=2.0)
    )
