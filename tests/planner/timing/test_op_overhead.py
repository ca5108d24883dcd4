"""Memory-bound operations against bytes worked out by hand from the code of model/, and fused ones."""

from dataclasses import replace

import pytest

from planner.counts.rank_workload import RankWorkload, rank_workload
from planner.hardware.catalog import device_of
from planner.problems import StrategyError
from planner.timing.collective_time import all_gather_s, all_reduce_s, network_of
from planner.timing.op_overhead import Traffic, part_traffic, summation, update
from planner.timing.op_table import op_table
from planner.timing.optimizer_time import reductions_per_step, update_time
from planner.timing.stage_time import HeldParameters
from planner.timing.time_model import TimeModel
from tests.support.examples import plan


def workload(*overrides: str) -> RankWorkload:
    built = plan("parallel={ep: 1}", "cluster.hosts=1", *overrides)
    return rank_workload(built, built.stages[0])


def moved(
    p: RankWorkload, part: str, *, is_backward: bool = False, is_fused: bool = False
) -> dict[str, float]:
    found = part_traffic(p, part, is_backward=is_backward, is_fused=is_fused)
    return {one.module: one.num_bytes for one in found}


def test_bytes_are_those_of_the_operations_in_the_code() -> None:
    """fp32, 1,024 tokens of 1,024.

    norm     x² 4 + 4, its mean 4, x · rsqrt 4 + 4, weight · 4 + 4: 28 an element, and rows of 24 bytes
    swiglu   silu 4 + 4, times up 4 + 4 + 4, times the row's gate 4 + 4: 28 an element of the inner rows
    residual x + y 4 + 4 + 4: 12, twice a layer
    """
    p = workload("training.precision=fp32", "model.expert=swiglu")
    elements = 1024 * 1024
    layer = moved(p, "moe")
    assert layer["norms"] == pytest.approx(2 * (28 * elements + 24 * 1024), rel=0.005)
    assert layer["experts"] == pytest.approx(28 * 1024 * 2048, rel=0.005)
    assert layer["copies"] == pytest.approx(24 * elements, rel=0.005)


def test_another_chunk_of_the_head_costs_ten_bytes_a_weight_in_bf16_and_none_in_fp32() -> None:
    """`sum.add_(product)`: fp32 read, bf16 read, fp32 written: 4 + 2 + 4. In fp32 the GEMM adds."""
    for precision, expected in (("bf16", 10), ("fp32", 0)):
        p = replace(workload(f"training.precision={precision}"), num_sequences=12, seq_length=512)
        in_two, in_three = (
            moved(replace(p, head_chunk_tokens=12 * 512 // chunks), "output")["head"] for chunks in (2, 3)
        )
        assert in_three - in_two == pytest.approx(expected * 4096 * 1024, rel=0.05, abs=0.1 * 4096 * 1024)


def test_norms_of_queries_and_keys_heads_and_their_size_count() -> None:
    plain = moved(workload(), "moe")
    normed = moved(workload("model.qk_norm=head"), "moe")
    # Queries and keys are 2 · 1,024 an element of tokens, as much as the layer's own two norms.
    assert normed["norms"] == pytest.approx(2 * plain["norms"], rel=0.01)
    fewer = moved(workload("model.num_key_value_heads=2"), "moe")
    wider = moved(workload("model.head_dim=128"), "moe")
    assert fewer["rope"] < plain["rope"] < wider["rope"]
    assert {name: value for name, value in fewer.items() if name != "rope"} == {
        name: value for name, value in plain.items() if name != "rope"
    }


def test_fused_kernels_read_their_inputs_once_and_write_their_outputs_once() -> None:
    """bf16, 1,024 tokens of 1,024, 1 route each: 2 MiB a tensor of hidden states."""
    p = workload("model.expert=swiglu")
    tensor = 2 * 1024 * 1024
    forward, backward = (moved(p, "moe", is_backward=b, is_fused=True) for b in (False, True))
    # A norm reads and writes one, its backward reads two; a residual sum reads two, as its backward does.
    assert (forward["norms"], backward["norms"]) == (2 * (2 + 3) * tensor, 2 * (3 + 3) * tensor)
    assert forward["rope"] == backward["rope"] == 2 * 2 * tensor  # queries and keys in and out
    assert forward["dispatch"] == backward["dispatch"] == 4 * tensor  # permute in and out, sum in and out
    inner = 2 * 1024 * 2048
    assert (forward["experts"], backward["experts"]) == (3 * inner, 5 * inner)
    assert sum(forward.values()) < sum(moved(p, "moe").values()) / 2.9


def test_what_was_not_counted_over_is_named_with_its_range() -> None:
    table = op_table()
    assert table.outside(workload()) == ()
    low, high = table.ranges["hidden_size"]
    (said,) = table.outside(workload("model.hidden_size=16384", "model.head_dim=64"))
    assert said == f"hidden_size 16,384 ({low:,} to {high:,})"


@pytest.mark.parametrize(
    ("zero", "reduce", "expected"),
    [
        (1, "null", 1),
        (2, "null", 1),
        (2, "once", 1),
        (1, "every_micro_batch", 4),
        (2, "every_micro_batch", 4),
    ],
)
def test_gradients_are_reduced_as_often_as_said(zero: int, reduce: str, expected: int) -> None:
    """bf16 under ZeRO 1 with accumulation is ZeRO 2 in DeepSpeed. 8 ranks: 4 micro-batches."""
    built = plan(
        f"parallel={{ep: 8, zero_stage: {zero}}}", "training.global_batch=32", f"runtime.reduce={reduce}"
    )
    assert built.batch.accumulation == 4
    assert reductions_per_step(built) == expected


def test_fp32_without_zero_reduces_once_unless_said_otherwise() -> None:
    own = ("cluster.gpu=cpu", "training.precision=fp32", "training.global_batch=32")
    assert reductions_per_step(plan(*own, "parallel={ep: 8, zero_stage: 0}")) == 1
    with pytest.raises(StrategyError) as raised:
        plan(*own, "parallel={ep: 8, zero_stage: 1}", "runtime.reduce=every_micro_batch")
    assert [problem.code for problem in raised.value.problems] == ["SW247"]
    every = ("parallel={ep: 8, zero_stage: 2}", "runtime.reduce=every_micro_batch")
    assert reductions_per_step(plan(*own, *every)) == 4


def test_sums_of_our_own_read_a_gradient_and_add_to_fp32() -> None:
    assert summation(7, 1000, is_bf16=True) == Traffic(operations=7, num_bytes=10 * 1000)
    assert summation(7, 1000, is_bf16=False) == Traffic(operations=7, num_bytes=12 * 1000)


def test_gradients_travel_in_buckets_of_the_largest_tensor_and_weights_in_the_smaller_ones() -> None:
    built = plan("parallel={ep: 8}")
    device = device_of(built.strategy.cluster.gpu)
    network = network_of(built, device)
    (one,) = built.layout.order
    held = HeldParameters(dense=300_000_000, experts=0, num_tensors=1)

    def times(bucket: int) -> tuple[float, float]:
        found = update_time(held, one.data, one.edp, device, network, zero=2, element_bytes=2, bucket=bucket)
        return found.reduction_s, found.gather_s

    six = update_time(held, one.data, one.edp, device, network, zero=2, element_bytes=2, bucket=50_000_000)
    # All but the last may run beside the backward pass that fills them.
    assert six.beside_s == pytest.approx(5 * all_reduce_s(100e6, one.data, network))
    large, small = times(300_000_000), times(50_000_000)
    in_one = all_reduce_s(600e6, one.data, network)
    in_six = 6 * all_reduce_s(100e6, one.data, network)
    assert small[0] - large[0] == pytest.approx(in_six - in_one)
    assert small[1] == large[1] == 6 * all_gather_s(100e6, one.data, network)


def test_one_gpu_adds_each_micro_batch_to_the_sum_whatever_reduce_says() -> None:
    """Nothing is reduced: bf16 gradients are read (2) and added to fp32 sums (4 + 4), four times."""
    own = ("parallel={ep: 1}", "cluster.hosts=1", "training.global_batch=4")
    many = plan(*own, "runtime.reduce=every_micro_batch")
    once = plan(*own, "runtime.reduce=once")
    device = device_of(many.strategy.cluster.gpu)
    (often,), (single,) = TimeModel(device).step(many).stages, TimeModel(device).step(once).stages
    assert often.optimizer_s == pytest.approx(single.optimizer_s)
    alone = plan(*own, "training.micro_batch=4")
    assert alone.batch.accumulation == 1
    held = often.micro_batch.held
    elements = held.dense + held.experts
    bandwidth = device.elementwise.at(2 * elements)
    (one,) = TimeModel(device).step(alone).stages
    # ZeRO 2's gradients for the update are fp32 sums: read for the norm, read and written for the update.
    more = 4 * 10 + (4 + 4 + 4) - (2 + 2)
    assert often.optimizer_s - one.optimizer_s == pytest.approx(more * elements / bandwidth, rel=0.01)


@pytest.mark.parametrize(
    ("zero", "is_bf16", "each"),
    [(1, True, 2 + 2 + 8 + 16 + 2), (2, True, 4 + 4 + 4 + 8 + 16 + 2), (0, False, 4 + 4 + 4 + 8 + 16)],
)
def test_an_update_reads_what_it_needs_once(zero: int, is_bf16: bool, each: int) -> None:
    assert update(zero, 3, 1000, is_bf16=is_bf16).num_bytes == each * 1000
    assert update(zero, 3, 1000, is_bf16=is_bf16, moment_bytes=2).num_bytes == (each - 8) * 1000


def test_experts_without_peers_are_not_copied_for_a_reduction() -> None:
    built = plan("parallel={ep: 8}", "cluster.hosts=1")
    device = device_of(built.strategy.cluster.gpu)
    network = network_of(built, device)
    (one,) = built.layout.order
    assert (one.data.size, one.edp.size) == (8, 1)
    few, many = (
        update_time(
            HeldParameters(dense=1_000_000, experts=experts, num_tensors=9),
            one.data,
            one.edp,
            device,
            network,
            zero=1,
            element_bytes=2,
            bucket=50_000_000,
        )
        for experts in (0, 1_000_000_000)
    )
    assert few.reduction_s == many.reduction_s > 0
