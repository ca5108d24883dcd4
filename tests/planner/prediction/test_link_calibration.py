"""Links as measured, in a hardware file: what stays, and what `plan --hardware` makes of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from launch.__main__ import main
from planner import StrategyError
from planner.hardware.catalog import device_of
from planner.hardware.hardware_file import read_calibration
from planner.prediction.link_calibration import MeasuredLinks, write_links
from planner.timing.collective_time import network_of
from tests.planner.hardware.test_catalog import ENTRY
from tests.support.examples import plan, strategy

BOTH = MeasuredLinks(
    intra_bytes_per_s=50e9,
    intra_latency_s=8e-6,
    inter_bytes_per_s=10e9,
    inter_latency_s=15e-6,
    source="measured in a test",
)
INSIDE = MeasuredLinks(
    intra_bytes_per_s=2e9, intra_latency_s=1e-3, inter_bytes_per_s=None, inter_latency_s=None, source="again"
)


def test_measured_links_stand_for_the_strategys(tmp_path: Path) -> None:
    path = tmp_path / "new" / "links.yaml"
    assert write_links(path, strategy("cluster.gpu=H100"), BOTH) == "H100"
    built = plan("cluster.gpu=H100")
    device = device_of(built.strategy.cluster.gpu, path)
    network = network_of(built, device)
    assert (network.intra_bytes_per_s, network.inter_bytes_per_s) == (50e9, 10e9)
    assert (device.intra_latency_s, device.inter_latency_s) == (pytest.approx(8e-6), pytest.approx(15e-6))
    assert "links: measured in a test" in device.sources
    # The rest is as shipped.
    assert device.gemm == device_of(built.strategy.cluster.gpu).gemm


def test_what_was_not_measured_stays_the_strategys(tmp_path: Path) -> None:
    path = tmp_path / "links.yaml"
    write_links(path, strategy("cluster.gpu=H100"), INSIDE)
    built = plan("cluster.gpu=H100")
    network = network_of(built, device_of(built.strategy.cluster.gpu, path))
    assert (network.intra_bytes_per_s, network.inter_bytes_per_s) == (2e9, 12.5e9 * 0.85)


def test_a_calibration_keeps_its_curves_and_other_devices(tmp_path: Path) -> None:
    path = tmp_path / "hardware.yaml"
    path.write_text(ENTRY, encoding="utf-8")
    write_links(path, strategy("cluster.gpu=H100"), BOTH)
    write_links(path, strategy("cluster.gpu=cpu"), INSIDE)
    entries = read_calibration(path)
    assert set(entries) == {"cpu", "H100"}
    device = device_of(strategy("cluster.gpu=cpu").cluster.gpu, path)
    assert device.peak == {"fp32": 50e9}
    assert device.collectives[0].seconds(500_500) == pytest.approx(0.0015, rel=1e-3)
    assert device.intra_bytes_per_s == 2e9


def test_measuring_again_replaces_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "links.yaml"
    write_links(path, strategy("cluster.gpu=H100"), BOTH)
    write_links(path, strategy("cluster.gpu=H100"), INSIDE)
    device = device_of(strategy("cluster.gpu=H100").cluster.gpu, path)
    assert (device.intra_bytes_per_s, device.inter_bytes_per_s) == (2e9, 10e9)


def test_a_device_without_a_name_is_known_by_its_memory_and_peaks(tmp_path: Path) -> None:
    path = tmp_path / "links.yaml"
    mine = "cluster.gpu={memory: 10 GB, memory_bandwidth: 2 TB/s, peak: {bf16: 10 TFLOPS}}"
    assert write_links(path, strategy(mine), BOTH) == "unnamed"
    assert device_of(strategy(mine).cluster.gpu, path).inter_bytes_per_s == 10e9
    other = "cluster.gpu={memory: 11 GB, memory_bandwidth: 2 TB/s, peak: {bf16: 10 TFLOPS}}"
    assert device_of(strategy(other).cluster.gpu, path).inter_bytes_per_s is None
    write_links(path, strategy(other), INSIDE)
    device = device_of(strategy(other).cluster.gpu, path)
    assert (device.intra_bytes_per_s, device.inter_bytes_per_s) == (2e9, None)


def test_a_file_that_is_no_hardware_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "links.yaml"
    path.write_text("cpu: 3\n")
    with pytest.raises(StrategyError):
        write_links(path, strategy("cluster.gpu=cpu"), BOTH)
    assert path.read_text() == "cpu: 3\n"
    assert list(tmp_path.iterdir()) == [path]


def test_plan_takes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "links.yaml"
    write_links(path, strategy("cluster.gpu=H100"), replace(BOTH, inter_bytes_per_s=5e9))
    seconds = []
    for hardware in ([], ["--hardware", str(path)]):
        assert main(["plan", "ds_configs/ep64_tp2.yaml", "cluster.gpu=H100", "--json", *hardware]) == 1
        prediction = json.loads(capsys.readouterr().out)["prediction"]
        seconds.append(prediction["phases_s"]["all_to_all"])
    assert "as measured: 50 GB/s intra-host, 5 GB/s inter-host" in "".join(prediction["assumptions"])
    # 12.5 · 0.85 = 10.6 GB/s between hosts became 5, which carry most of the all-to-all.
    assert 1.3 < seconds[1] / seconds[0] < 2.2
