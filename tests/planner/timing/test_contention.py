"""Measured contention of ranks on one host: longer compute, longer waits after more work."""

from dataclasses import replace

import pytest

from planner import build_plan, load
from planner.hardware.catalog import device_named
from planner.hardware.device import Device, MeasuredCollective, MeasuredContention
from planner.timing.collective_time import Network, further_wait_s, slowdown
from planner.timing.stage_time import MicroBatchTime
from planner.timing.time_model import TimeModel

FOUR = MeasuredContention(ranks_on_host=4, compute=1.25, waits=((1e-3, 1e-3), (2e-3, 2e-3), (1e-2, 6e-3)))
TWO = MeasuredContention(ranks_on_host=2, compute=1.1, waits=((1e-3, 0.0), (1e-2, 0.0)))
SEND = MeasuredCollective(kind="all_reduce", ranks_on_host=4, group=4, points=((64.0, 1e-4), (1e6, 1e-3)))


def _device(*contention: MeasuredContention) -> Device:
    return replace(device_named("cpu"), cores=2, contention=contention, collectives=(SEND,))


def _network(device: Device, ranks: int) -> Network:
    return Network(intra_bytes_per_s=1e9, inter_bytes_per_s=1e9, host_size=ranks, device=device)


@pytest.mark.parametrize(("ranks", "expected"), [(1, 1.1), (2, 1.1), (4, 2 * 1.25), (8, 4 * 1.25)])
def test_compute_is_slower_by_shared_cores_and_by_what_was_measured(ranks: int, expected: float) -> None:
    device = _device(TWO, FOUR)
    assert slowdown(device, _network(device, ranks)) == pytest.approx(expected)
    assert slowdown(_device(), _network(_device(), ranks)) == max(1.0, ranks / 2)


def test_a_wait_is_beyond_what_the_measured_collective_includes() -> None:
    device = _device(FOUR)
    network = _network(device, 4)
    assert further_wait_s(6e-3, network) == pytest.approx(4e-3 - 2e-3)
    assert further_wait_s(1e-3, network) == pytest.approx(1e-3 - 2e-3)
    assert further_wait_s(1.0, _network(_device(), 4)) == 0.0
    unmeasured = replace(device, collectives=())  # waits are added to measured collectives only
    assert further_wait_s(1.0, _network(unmeasured, 4)) == 0.0


def test_a_step_waits_once_for_each_exchange_after_work() -> None:
    """tiny_cpu, ep 4: each of 16 layers sends rows there and back, forward and backward."""
    plan = build_plan(load("ds_configs/tiny_cpu.yaml", ["parallel={ep: 4, tp: 1}", "training.micro_batch=6"]))
    waits = tuple((work, wait) for work, wait in ((1e-9, 0.0), (2e-3, 0.0), (2.000001e-3, 1e-3), (1e3, 1e-3)))
    late = MeasuredContention(ranks_on_host=4, compute=1.0, waits=waits)
    none = replace(late, waits=((1e-9, 0.0), (1e3, 0.0)))
    plain, slow = (TimeModel(_device(each)).step(plan).stages[0].micro_batch for each in (none, late))
    assert slow.forward.compute_s == plain.forward.compute_s
    # Forward has less than 2 ms of work between two exchanges, as the measured collectives have.
    assert slow.forward.all_to_all_s == plain.forward.all_to_all_s
    added = slow.backward.all_to_all_s - plain.backward.all_to_all_s
    assert added == pytest.approx(16 * 2 * 1e-3)


@pytest.mark.parametrize(
    ("recompute", "exchanges"), [("none", 2), ("layer", 3), ("attention", 2), ("experts", 2)]
)
def test_what_recompute_repeats_is_waited_for_again(recompute: str, exchanges: int) -> None:
    """tiny_cpu, ep 4: backward through a recomputed layer sends its rows to the experts a second time, and
    none back. Each exchange waits for 1 ms, however little work was before it."""
    settings = ["parallel={ep: 4, tp: 1}", "training.micro_batch=6", f"runtime.recompute={recompute}"]
    plain, slow = (_first_stage(settings, wait) for wait in (0.0, 1e-3))
    assert slow.forward.all_to_all_s - plain.forward.all_to_all_s == pytest.approx(16 * 2 * 1e-3)
    assert slow.backward.all_to_all_s - plain.backward.all_to_all_s == pytest.approx(16 * exchanges * 1e-3)


@pytest.mark.parametrize(("recompute", "sums"), [("none", 15 * 3 + 2), ("layer", 15 * (3 + 2) + 2 + 1)])
def test_sums_of_recomputed_layers_are_waited_for_again(recompute: str, sums: int) -> None:
    """tiny_cpu, tp 2, one dense layer and 15 with a shared expert. Each has attention's sum; a dense one the
    MLP's, the others the shared expert's and the gather of what the experts return. Recomputed, the last of
    a layer is not repeated: what it makes is the next layer's input, which was kept."""
    settings = [
        "parallel={ep: 2, tp: 2}",
        "training.micro_batch=6",
        "model.num_shared_experts=1",
        "model.first_dense_layers=1",
        "model.intermediate_size=64",
        f"runtime.recompute={recompute}",
    ]
    plain, slow = (_first_stage(settings, wait) for wait in (0.0, 1e-3))
    added = slow.backward.tensor_parallel_s - plain.backward.tensor_parallel_s
    assert added == pytest.approx(sums * 1e-3)


def _first_stage(settings: list[str], wait_s: float) -> MicroBatchTime:
    """On a device so slow that more than 2 ms of work are before each collective, which then waits."""
    waits = ((1e-9, 0.0), (2e-3, 0.0), (2.000001e-3, wait_s), (1e6, wait_s))
    late = MeasuredContention(ranks_on_host=4, compute=1.0, waits=waits)
    plan = build_plan(load("ds_configs/tiny_cpu.yaml", settings))
    return TimeModel(replace(_device(late), operation_s=1.0)).step(plan).stages[0].micro_batch
