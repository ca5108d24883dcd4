"""The shipped devices against their data sheets, their other names, overrides, scaled curves."""

import pytest

from planner import StrategyError, load, loads
from planner.hardware.catalog import Device, device_of
from planner.hardware.hardware_file import devices
from planner.plan.serialization import full_strategy
from planner.strategy.cluster import Gpu
from tests.support.examples import strategy

# Bytes that the driver reports in all, memory bandwidth, dense rates (with fp32 accumulation). NVIDIA's and
# AMD's data sheets: half of a rate with sparsity; of GB200 NVL72 a 72nd, of an HGX board of eight an eighth.
MIB = 2**20
DATASHEETS = {
    "A100-80GB": (81920 * MIB, 2.039e12, {"fp32": 19.5e12, "bf16": 312e12}),
    "H100": (81559 * MIB, 3.35e12, {"fp32": 67e12, "bf16": 1979e12 / 2, "fp8": 3958e12 / 2}),
    "H800": (81559 * MIB, 3.35e12, {"fp32": 67e12, "bf16": 1979e12 / 2, "fp8": 3958e12 / 2}),
    "H200": (143771 * MIB, 4.8e12, {"fp32": 67e12, "bf16": 1979e12 / 2, "fp8": 3958e12 / 2}),
    "H20": (97871 * MIB, 4.0e12, {"fp32": 44e12, "bf16": 148e12, "fp8": 296e12}),
    "B200": (183359 * MIB, 64e12 / 8, {"fp32": 600e12 / 8, "bf16": 36e15 / 2 / 8, "fp8": 72e15 / 2 / 8}),
    "GB200": (189471 * MIB, 576e12 / 72, {"fp32": 5760e12 / 72, "bf16": 360e15 / 144, "fp8": 720e15 / 144}),
    "B300": (275040 * MIB, 64e12 / 8, {"fp32": 600e12 / 8, "bf16": 36e15 / 2 / 8, "fp8": 72e15 / 2 / 8}),
    "MI300X": (206_141_652_992, 5.3e12, {"fp32": 163.4e12, "bf16": 1307.4e12, "fp8": 2614.9e12}),
    "MI325X": (256 * 10**9, 6e12, {"fp32": 163.4e12, "bf16": 1307.4e12, "fp8": 2614.9e12}),
    "L40S": (46068 * MIB, 864e9, {"fp32": 91.6e12, "bf16": 362.05e12, "fp8": 733e12}),
    "RTX-4090": (24564 * MIB, 1008e9, {"fp32": 82.6e12, "bf16": 165.2e12, "fp8": 330.3e12}),
    "RTX-5090": (32607 * MIB, 1792e9, {"fp32": 104.8e12, "bf16": 209.5e12, "fp8": 419e12}),
}


def gpu_of(text: str) -> Gpu:
    return strategy(f"cluster.gpu={text}").cluster.gpu


def test_every_gpu_is_in_the_table() -> None:
    assert set(devices()) - {"cpu", "GPU-400TFLOPS-64GB"} == set(DATASHEETS)


@pytest.mark.parametrize("name", DATASHEETS)
def test_gpus_are_those_of_the_data_sheets(name: str) -> None:
    memory, bandwidth, peaks = DATASHEETS[name]
    gpu, device = gpu_of(name), device_of(gpu_of(name))
    assert (gpu.name, gpu.memory, gpu.memory_bandwidth) == (name, memory, bandwidth)
    assert device.peak == pytest.approx(peaks, rel=1e-3)
    assert 0.6 * bandwidth < max(rate for _, rate in device.elementwise.points) < bandwidth
    assert "GB/s" in devices()[name]["source"] or "TB/s" in devices()[name]["source"] or name == "H800"


def test_an_80_gb_card_has_more_bytes_than_its_name() -> None:
    assert gpu_of("H100").memory == pytest.approx(85.5e9, rel=1e-3)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("A100", "A100-80GB"),
        ("a100", "A100-80GB"),
        ("h100", "H100"),
        ("H100-80GB", "H100"),
        ("NVIDIA H100", "H100"),
        ("mi300x", "MI300X"),
        ("rtx4090", "RTX-4090"),
        ("RTX 5090", "RTX-5090"),
        ("gb200-nvl72", "GB200"),
        ("CPU", "cpu"),
    ],
)
def test_a_device_has_other_names(alias: str, name: str) -> None:
    assert gpu_of(alias) == gpu_of(name)


def test_a_misspelt_name_has_a_guess() -> None:
    with pytest.raises(StrategyError) as caught:
        gpu_of("MI300")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("SW136", "cluster.gpu")
    assert problem.fix.startswith("write cluster.gpu=MI300X, if that is meant, else {memory: ")


def test_another_gpu_is_not_taken_for_one_of_the_table() -> None:
    """A V100 is spelt nearly as an H100, a GH200 as a GB200; nothing of a user's own is spelt as a cpu."""
    for name in ("V100", "GH200", "MyGPU"):
        with pytest.raises(StrategyError) as caught:
            gpu_of(name)
        (problem,) = caught.value.problems
        assert "memory_bandwidth: " in problem.fix
        assert problem.fix.startswith("write gpu: {memory")


def test_a_name_keeps_its_curves_where_memory_is_overridden() -> None:
    gpu = gpu_of("{name: h100, memory: 90 GB}")
    assert (gpu.name, gpu.memory, gpu.memory_bandwidth) == ("H100", 90 * 10**9, 3.35e12)
    device, usual = device_of(gpu), device_of(gpu_of("H100"))
    assert device == usual


def test_an_overridden_bandwidth_scales_the_measured_curve() -> None:
    device = device_of(gpu_of("{name: H100, memory_bandwidth: 6.7 TB/s, peak: {bf16: 1978 TFLOPS}}"))
    usual = device_of(gpu_of("H100"))
    assert device.elementwise.at(800e6) == 2 * usual.elementwise.at(400e6)
    # As many seconds for twice the bytes: what an operation costs beside its bytes stays.
    assert device.elementwise.at(24e3) == pytest.approx(2 * usual.elementwise.at(12e3))
    assert device.peak == {**usual.peak, "bf16": 1978e12}
    assert device.gemm["bf16"].at(1024 * 2 ** (1 / 3)) == pytest.approx(usual.gemm["bf16"].at(1024))
    assert device.gemm["fp8"] == usual.gemm["fp8"]
    assert device.operation_s == usual.operation_s


def test_an_h200_is_an_h100_with_a_faster_memory() -> None:
    h100, h200 = device_of(gpu_of("H100")), device_of(gpu_of("H200"))
    assert (h200.gemm, h200.attention, h200.operation_s) == (h100.gemm, h100.attention, h100.operation_s)
    assert h200.elementwise.at(1e9) == pytest.approx(4.8 / 3.35 * h100.elementwise.at(1e9))
    assert "elementwise: assumption, the H100's curve × 1.43, the ratio of memory bandwidths" in h200.sources


def test_a_scaled_curve_is_near_one_that_was_measured() -> None:
    # 95.12 TFLOPS of an H20 at 1024 in bf16 (zzc0721/torch-performance-test-data#77); the H100's curve scaled
    # to an unnamed device with the H20's figures.
    unnamed = "{memory: 102 GB, memory_bandwidth: 4 TB/s, peak: {bf16: 148 TFLOPS}}"
    device = device_of(gpu_of(unnamed))
    assert device.peak["bf16"] * device.gemm["bf16"].at(1024) == pytest.approx(95.12e12, rel=0.05)


def test_a_gpu_without_a_name_must_say_its_bandwidth() -> None:
    with pytest.raises(StrategyError) as caught:
        gpu_of("{memory: 64 GB, peak: {bf16: 400 TFLOPS}}")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("SW110", "cluster.gpu.memory_bandwidth")
    assert problem.fix == "add memory_bandwidth: 2 TB/s"


@pytest.mark.parametrize(
    "text",
    [
        "H200",
        "{name: H100, memory: 90 GB}",
        "{name: Mine, memory: 9 GB, memory_bandwidth: 1 TB/s, peak: {fp32: 1 TFLOPS}}",
    ],
)
def test_a_device_is_written_as_it_is_read(text: str) -> None:
    given = strategy(f"cluster.gpu={text}")
    assert loads(full_strategy(given)) == given


def test_the_reference_states_a_bandwidth() -> None:
    for name in ("ep64_tp2", "ep64_tp2_staged"):
        gpu = load(f"ds_configs/{name}.yaml").cluster.gpu
        assert (gpu.memory_bandwidth, device_of(gpu).name) == (2e12, "GPU-400TFLOPS-64GB")


def test_the_references_gpu_has_measured_curves_as_any_other_of_its_figures_has() -> None:
    """400 TFLOPS are no special number: a GPU of 400.1 reaches as much of its peak."""

    def with_peak(peak: str) -> Device:
        figures = f"memory: 64 GB, memory_bandwidth: 2 TB/s, peak: {{bf16: {peak}, fp8: {peak}}}"
        return device_of(strategy(f"cluster.gpu={{{figures}}}").cluster.gpu)

    given, other = with_peak("400 TFLOPS"), with_peak("400.1 TFLOPS")
    assert (given.name, other.name) == ("GPU-400TFLOPS-64GB", "unnamed")
    for size in (300.0, 1000.0, 5000.0):
        assert given.gemm["bf16"].at(size) == pytest.approx(other.gemm["bf16"].at(size), rel=1e-3)
    assert given.operation_s == other.operation_s
    assert given.link_share == 1.0  # the document's links are taken to be what they are said to be
