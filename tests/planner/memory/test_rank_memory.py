"""Memory by cause: the table of bytes, and what must follow when a plan is cut finer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import build_plan, load, predict
from planner.counts.parameters import model_parameters
from planner.counts.rank_workload import ExpertImbalance
from planner.memory.optimizer_state import bytes_per_parameter
from planner.memory.phases import CAUSES, PhaseMemory
from planner.memory.rank_memory import GPU_OVERHEAD_BYTES, RankMemory, fullest_ranks, rank_memory
from planner.prediction.run_forecast import forecast_run
from planner.report.memory_report import memory_dict, memory_lines, memory_table
from tests.support.examples import plan

ONE_GPU = ("cluster.hosts=1", "cluster.gpus_per_host=1")


def _phase(memory: RankMemory, name: str) -> PhaseMemory:
    (found,) = (phase for phase in memory.phases if phase.phase == name)
    return found


def test_an_async_save_takes_12_bytes_of_each_owned_parameter_where_memory_is_the_hosts() -> None:
    one_rank = "parallel={ep: 1, tp: 1, zero_stage: 1}"
    on_cpu = ("ds_configs/tiny_cpu.yaml", (one_rank, "output.async_save=true"))
    built = build_plan(load(*on_cpu))
    memory = rank_memory(built, 0)
    expected = 12 * model_parameters(built.strategy.model).total
    (copy,) = {phase.saved_copy for phase in memory.phases}
    assert copy == pytest.approx(expected, rel=1e-6)  # Adam's counters of steps are in it too
    assert memory.peak_bytes - rank_memory(build_plan(load(on_cpu[0], (one_rank,))), 0).peak_bytes == copy
    on_gpu = plan("output.async_save=true")
    assert rank_memory(on_gpu, 0).peak_bytes == rank_memory(plan(), 0).peak_bytes


@pytest.mark.parametrize(
    ("precision", "zero", "is_training", "total", "cut"),
    [
        # Rajbhandari et al. 2020 (ZeRO), section 3.1: Adam in mixed precision 16 bytes a parameter; under
        # ZeRO 2 gradients are in an fp32 sum.
        ("fp32", 0, True, 16, 16),
        ("fp32", 1, True, 16, 4 + 4 + 8 / 8),
        ("fp32", 2, True, 16, 4 + 12 / 8),
        ("bf16", 1, True, 16, 2 + 2 + 12 / 8),
        ("bf16", 2, True, 18, 2 + 16 / 8),
        ("fp8", 2, True, 18, 2 + 16 / 8),
        ("fp8", 0, False, 1, 1),
        ("bf16", 0, False, 2, 2),
        ("fp32", 0, False, 4, 4),
    ],
)
def test_bytes_per_parameter(precision: str, zero: int, is_training: bool, total: float, cut: float) -> None:
    each = bytes_per_parameter(precision, zero, is_training=is_training)  # type: ignore[arg-type]
    assert each.total() == total
    assert each.total(ranks=8) == cut


@pytest.mark.parametrize(("precision", "zero", "total"), [("fp32", 0, 12), ("fp32", 2, 12), ("bf16", 2, 14)])
def test_moments_in_bf16_take_half(precision: str, zero: int, total: int) -> None:
    each = bytes_per_parameter(precision, zero, moments="bf16")  # type: ignore[arg-type]
    assert (each.moments, each.total()) == (4, total)


def test_moments_in_bf16_are_costed() -> None:
    built, half = plan(), plan("training.optimizer.moments=bf16")
    full, less = rank_memory(built, 0).fullest, rank_memory(half, 0).fullest
    counts = full.moments - 2 * full.masters  # of steps, for each group
    assert less.moments == less.masters + counts
    assert predict(half).phases_s["optimizer"] < predict(built).phases_s["optimizer"]
    assert 3 * forecast_run(half, predict(half)).checkpoint_bytes == (
        2 * forecast_run(built, predict(built)).checkpoint_bytes
    )


def test_state_of_the_reference_by_hand() -> None:
    """One expert rank: 16 experts of 4,194,304, its own alone; 68,191,232 shared with 63 others."""
    built = build_plan(load("ds_configs/ep64_tp2_staged.yaml"))
    memory = rank_memory(built, 2).fullest
    experts, shared = 16 * 4_194_304, 67_108_864 + 1_048_576 + 33 * 1024
    assert memory.weights == 2 * (experts + shared)
    assert memory.masters == 4 * (experts + shared // 64)
    assert memory.moments == 8 * (experts + shared // 64) + 3 * 4  # decayed, not decayed, experts
    assert memory.overhead == GPU_OVERHEAD_BYTES


def test_the_reference_trains_on_one_h200() -> None:
    """4.37 B parameters at 14 bytes between steps, and the fp32 gradients of its experts on top."""
    built = plan("model.aggregation=linear", "cluster.gpu=H200", "limits.memory_max=141 GB", *ONE_GPU)
    (memory,) = fullest_ranks(built)
    assert memory.static_bytes / 4_372_595_712 == pytest.approx(14, abs=0.01)
    assert 80e9 < memory.peak_bytes < 141e9


def test_evaluation_of_an_imbalance_takes_more() -> None:
    built = plan("parallel=EP64")
    even, uneven = rank_memory(built, 0), rank_memory(built, 0, ExpertImbalance(factor=4.0))
    assert uneven.fullest.activations > even.fullest.activations
    assert _phase(uneven, "forward").temporaries > _phase(even, "forward").temporaries
    assert uneven.static_bytes == even.static_bytes


def test_recompute_keeps_layer_inputs_only() -> None:
    kept = _phase(rank_memory(plan("parallel=EP64"), 0), "forward")
    again = _phase(rank_memory(plan("parallel=EP64", "runtime.recompute=layer"), 0), "forward")
    assert again.activations < kept.activations / 5


def test_earlier_stages_hold_more_micro_batches() -> None:
    built = plan("parallel=EP8_PP4")
    activations = [_phase(memory, "forward").activations for memory in fullest_ranks(built)]
    assert activations[1] > activations[2]
    assert activations[1] / activations[2] == pytest.approx(3 / 2, rel=0.01)


def test_logits_do_not_grow_with_the_tokens() -> None:
    """The loss takes them in chunks: only its input's gradient, 2 bytes × 1024 a token, grows."""
    few, many = plan("parallel=EP64"), plan("parallel=EP64", "training.micro_batch=2")
    extra = _phase(rank_memory(many, 0), "loss").logits - _phase(rank_memory(few, 0), "loss").logits
    chunk = 6 * 4096 * 1024  # the other half of 2,048 tokens, the most that a chunk has here
    # The input's gradient; the vectors before and after the norm, and its fp32 tensor; numbers of a token.
    token = 2 * 1024 + 10 * 1024 + (3 * 8 + 8) + (4 * 8 + 8 * 4)
    assert extra == 1024 * token + chunk


@settings(max_examples=30, deadline=None)
@given(
    ep=st.sampled_from([1, 2, 4, 8]),
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2, 4]),
    zero=st.sampled_from([1, 2]),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_state_falls_or_stays_when_it_is_cut_finer(
    ep: int, tp: int, pp: int, zero: int, precision: str
) -> None:
    def fullest(degrees: str) -> int:
        settings = (f"training.precision={precision}", "limits.memory_max=100 GB")
        built = plan(f"parallel={degrees}", f"parallel.zero_stage={zero}", *settings)
        return max(memory.static_bytes for memory in fullest_ranks(built))

    here = fullest(f"EP{ep}_TP{tp}_PP{pp}_DP1")
    # A rank's partition is rounded up to two elements a group of each kind.
    assert fullest(f"EP{ep}_TP{tp}_PP{pp}_DP2") <= here + 4 * 16
    assert fullest(f"EP{2 * ep}_TP{tp}_PP{pp}_DP1") <= here + 4 * 16
    assert fullest(f"EP{ep}_TP{tp}_PP{2 * pp}_DP1") <= here


def test_report_names_every_cause() -> None:
    built = plan("parallel=EP64_TP2")
    table = memory_table(built)
    assert len(table.rows) == 1
    assert all(len(row) == len(table.columns) for row in table.rows)
    (stage,) = memory_dict(built)["stages"]
    assert stage["peak_bytes"] == sum(stage[cause] for cause in CAUSES)
    phases = {phase["phase"]: phase for phase in stage["phases"]}
    assert list(phases) == ["forward", "loss", "backward", "reduction", "update", "between steps"]
    assert stage["peak_bytes"] == max(phase["peak_bytes"] for phase in phases.values())
    assert phases[stage["fullest_phase"]]["peak_bytes"] == stage["peak_bytes"]
    assert all(phase["peak_bytes"] == sum(phase[cause] for cause in CAUSES) for phase in phases.values())
    assert any("forward" in line and "between steps" in line for line in memory_lines(built))
