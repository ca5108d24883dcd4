"""The planner reads what the calibration writes. Imports torch, measures nothing."""

from pathlib import Path

import pytest

from benchmarks import calibrate
from benchmarks.calibrate import entry
from benchmarks.collectives import never_slower_when_smaller
from benchmarks.primitives import Rates
from planner import load
from planner.hardware.catalog import device_named, device_of
from planner.prediction.link_calibration import MeasuredLinks, write_links

RATES = Rates(
    gemm={"fp32": [(64.0, 20e9), (1024.0, 80e9)], "bf16": [(64.0, 2e9), (1024.0, 4e9)]},
    grouped={"fp32": [(46.15, 32e9), (256.0, 72e9)], "bf16": [(46.15, 3.5e9), (256.0, 5e9)]},
    attention={"fp32": [(51.0, 8e9), (400.0, 16e9)], "bf16": [(51.0, 1e9), (400.0, 2e9)]},
    elementwise=[(12_000.0, 2e9), (6_000_000.0, 7e9)],
    operation_s=3e-6,
    fresh=2.5e9,
)
MEASURED = [
    {"kind": "all_reduce", "ranks_on_host": 4, "group": 2, "points": [(64.0, 4e-4), (4_194_304.0, 4e-3)]}
]

# A unit of work takes a core 2 ms where both work. By the clock it takes one rank alone 1.9 ms, four on two
# cores 4.6 ms, which is 1.15 times the 4 ms of sharing.
CROWDED = [
    {"ranks_on_host": 1, "wall_s": 1.9e-3, "busy_s": 1.8e-3, "waits": [(5e-4, 1e-5), (2e-3, 1e-5)]},
    {"ranks_on_host": 2, "wall_s": 2.1e-3, "busy_s": 2e-3, "waits": [(5e-4, 1e-4), (2e-3, 2e-4)]},
    {"ranks_on_host": 4, "wall_s": 4.6e-3, "busy_s": 2.1e-3, "waits": [(2e-3, 1e-3), (8e-3, 4e-3)]},
]


def test_an_entry_is_read_back_as_it_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "hardware.yaml"
    path.write_text(entry("cpu", RATES, MEASURED, CROWDED, cores=2, load=0.5), encoding="utf-8")
    device = device_of(load("ds_configs/tiny_cpu.yaml").cluster.gpu, path)
    assert device.is_calibrated
    assert device.peak == {"fp32": 80e9, "bf16": 5e9}
    assert device.gemm["fp32"].points == ((64.0, 0.25), (1024.0, 1.0))
    assert device.grouped["bf16"].points == ((46.15, 0.7), (256.0, 1.0))
    assert device.attention["fp32"].points == ((51.0, 0.1), (400.0, 0.2))
    assert device.elementwise.points == ((12_000.0, 2e9), (6_000_000.0, 7e9))
    assert (device.operation_s, device.cores) == (pytest.approx(3e-6), 2)
    assert device.fresh_bytes_per_s == pytest.approx(2.5e9)
    (collective,) = device.collectives
    assert (collective.kind, collective.ranks_on_host, collective.group) == ("all_reduce", 4, 2)
    assert collective.seconds(64) == pytest.approx(4e-4)
    assert device.intra_latency_s == pytest.approx(4e-4)
    assert [each.compute for each in device.contention] == pytest.approx([0.95, 1.05, 1.15])
    four = device.contention_of(3.4)
    assert four is not None
    assert four.ranks_on_host == 4
    assert [four.wait_s(work) for work in (1e-3, 2e-3, 5e-3, 8e-3, 1.0)] == pytest.approx(
        [1e-3, 1e-3, 2.5e-3, 4e-3, 4e-3]
    )


def test_a_smaller_message_is_never_slower_than_a_larger_one() -> None:
    measured = [(64.0, 5e-3), (4096.0, 1e-3), (65536.0, 4e-3), (524288.0, 2e-3), (4194304.0, 9e-3)]
    assert never_slower_when_smaller(measured) == [
        (64.0, 1e-3),
        (4096.0, 1e-3),
        (65536.0, 2e-3),
        (524288.0, 2e-3),
        (4194304.0, 9e-3),
    ]


def test_without_collectives_the_shipped_network_stays(tmp_path: Path) -> None:
    path = tmp_path / "hardware.yaml"
    path.write_text(entry("H100", RATES, [], [], cores=8, load=0.5), encoding="utf-8")
    gpu = load("ds_configs/tiny_cpu.yaml", ["cluster.gpu=H100", "cluster.gpus_per_host=4"]).cluster.gpu
    device = device_of(gpu, path)
    # A GPU's peak is its data sheet's; fp8 was not measured.
    assert device.peak == {"fp32": 67e12, "bf16": 989e12, "fp8": 1979e12}
    assert device.gemm["bf16"].at(1024) == pytest.approx(4e9 / 989e12, rel=1e-3)
    assert device.gemm["fp8"].points == device_named("H100").gemm["fp8"].points
    assert device.intra_latency_s == pytest.approx(12e-6)
    assert device.link_share == 0.85
    assert device.cores is None


def test_links_that_preflight_measured_and_other_devices_stay(tmp_path: Path) -> None:
    path = tmp_path / "hardware.yaml"
    strategy = load("ds_configs/tiny_cpu.yaml")
    measured = MeasuredLinks(
        intra_bytes_per_s=3e9,
        intra_latency_s=5e-5,
        inter_bytes_per_s=1e9,
        inter_latency_s=9e-5,
        source="preflight: of 'two' hosts",
    )
    write_links(path, load("ds_configs/tiny_cpu.yaml", ["cluster.gpu=H100"]), measured)
    write_links(path, strategy, measured)
    known = calibrate._known(path)
    text = entry("cpu", RATES, MEASURED, [], cores=2, load=0.5, before=known.pop("cpu"))
    assert list(known) == ["H100"]
    path.write_text(text, encoding="utf-8")
    device = device_of(strategy.cluster.gpu, path)
    assert (device.intra_bytes_per_s, device.inter_bytes_per_s) == (3e9, 1e9)
    assert device.inter_latency_s == pytest.approx(9e-5)
    assert device.intra_latency_s == pytest.approx(4e-4)  # collectives of this host were measured again
    assert "links: preflight: of 'two' hosts" in device.sources
    assert device.gemm["fp32"].points == ((64.0, 0.25), (1024.0, 1.0))


def test_an_unreadable_file_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hardware.yaml"
    path.write_text("cpu: 5", encoding="utf-8")
    assert calibrate._known(path) == {}
    assert "it is replaced" in capsys.readouterr().err
