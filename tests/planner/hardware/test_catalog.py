"""Entries of hardware.yaml, and a calibration that replaces one."""

from pathlib import Path

import pytest

from planner import StrategyError
from planner.hardware.catalog import Curve, calibration_path, device_of
from planner.hardware.hardware_file import devices
from tests.support.examples import strategy


def test_a_curve_is_linear_in_the_logarithm_of_the_size() -> None:
    curve = Curve(points=((10.0, 0.2), (1000.0, 0.6)))
    assert [curve.at(size) for size in (1, 10, 100, 1000, 10_000)] == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])


@pytest.mark.parametrize("name", devices())
def test_every_shipped_entry_is_whole_and_names_its_sources(name: str) -> None:
    device = device_of(strategy(f"cluster.gpu={name}").cluster.gpu)
    assert device.name == name
    assert set(device.gemm) == set(device.peak)
    assert all(0 < share <= 1 for curve in device.gemm.values() for _, share in curve.points)
    assert len(device.sources) == 5


def test_a_device_without_a_name_is_the_entry_with_its_memory_and_peaks() -> None:
    gpu = "cluster.gpu.peak={bf16: 400 TFLOPS, fp8: 400 TFLOPS}"
    assert device_of(strategy(gpu).cluster.gpu).name == "GPU-400TFLOPS-64GB"


def test_an_unknown_device_gets_the_curves_of_another_and_says_so() -> None:
    gpu = "cluster.gpu={memory: 10 GB, memory_bandwidth: 2 TB/s, peak: {bf16: 10 TFLOPS}}"
    device = device_of(strategy(gpu).cluster.gpu)
    assert device.name == "unnamed"
    assert device.peak == {"bf16": 1e13}
    # 10 of 989 TFLOPS; 2 of 3.35 TB/s.
    assert "gemm: assumption, the H100's curves scaled to these peaks: bf16 × 0.0101" in device.sources
    assert (
        "elementwise: assumption, the H100's curve × 0.597, the ratio of memory bandwidths" in device.sources
    )


ENTRY = """\
cpu:
  memory: 1 GB
  peak: {fp32: 50 GFLOPS}
  source: measured here
  gemm: {fp32: [[10, 0.5], [20, 1]]}
  elementwise: [[1 kB, 1 GB/s], [2 kB, 2 GB/s]]
  operation: 5 us
  latency: {intra_host: 100 us, inter_host: 100 us}
  message: 1 us
  link_share: 1
  cores: 2
  collectives:
    - {kind: all_reduce, ranks_on_host: 2, group: 2, points: [[1 kB, 1 ms], [1 MB, 2 ms]]}
  sources: {all: measured}
"""


def test_a_calibration_replaces_the_entry_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "hardware.yaml").write_text(ENTRY, encoding="utf-8")
    path = calibration_path(tmp_path)
    device = device_of(strategy("cluster.gpu=cpu").cluster.gpu, path)
    assert device.is_calibrated
    assert device.peak == {"fp32": 50e9}
    assert device.collectives[0].seconds(500_500) == pytest.approx(0.0015, rel=1e-3)
    assert not device_of(strategy("cluster.gpu=H100").cluster.gpu, path).is_calibrated
    assert calibration_path(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cpu: 3", "wrong type"),
        ("cpu: {memory: 1 GB}", "latency, message, link_share are missing"),
        ("", "the file is empty"),
        ("- cpu", "no entries by name"),
        ("cpu: {a: 1", "line 1: "),
        (ENTRY.replace("1 kB, 1 GB/s", "1 kB, -1"), "-1 is not above 0"),
        (ENTRY.replace("{fp32: 50 GFLOPS}", "[50 GFLOPS]"), "wrong type"),
        (
            ENTRY.replace("latency: {intra_host: 100 us, inter_host: 100 us}", "latency: 3"),
            "wrong type",
        ),
    ],
)
def test_a_calibration_that_is_none_is_a_problem_with_its_file(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "hardware.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StrategyError) as caught:
        device_of(strategy("cluster.gpu=cpu").cluster.gpu, path)
    assert (caught.value.problems[0].code, caught.value.problems[0].file) == ("SW141", str(path))
    assert why in caught.value.problems[0].found


def test_a_calibration_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, why in (("nosuch.yaml", "cannot be read: no such file"), ("binary.yaml", "not UTF-8 text")):
        with pytest.raises(StrategyError, match=why):
            device_of(strategy("cluster.gpu=cpu").cluster.gpu, tmp_path / name)


# Reached by others at the best shape: stas00/ml-engineering, "Maximum Achievable Matmul FLOPS".
BEST = {("H100", "bf16"): 794.5e12, ("H100", "fp8"): 1402.6e12, ("A100-80GB", "bf16"): 271.2e12}


@pytest.mark.parametrize(("name", "precision"), BEST)
def test_no_product_is_faster_than_the_fastest_that_was_measured(name: str, precision: str) -> None:
    device = device_of(strategy(f"cluster.gpu={name}").cluster.gpu)
    reached = device.peak[precision] * max(share for _, share in device.gemm[precision].points)
    assert 0.95 * BEST[name, precision] < reached < 1.01 * BEST[name, precision]
