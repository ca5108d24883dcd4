"""Counters of a GPU, by a driver that is not here."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from runtime.telemetry.gpu_counters import GpuCounters


class Nvml:
    """What pynvml gives, in its units."""

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, error: Exception | None = None) -> None:
        self.asked = 0
        self._error = error

    def nvmlInit(self) -> None:  # noqa: N802
        if self._error is not None:
            raise self._error

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == "GPU-1234"
        return "handle"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        self.asked += 1
        return SimpleNamespace(gpu=87, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=12 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return 412_500  # milliwatts

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return 61


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))


def test_counters_are_read_once_a_second() -> None:
    nvml, now = Nvml(), [10.0]
    counters = GpuCounters(torch.device("cuda", 0), nvml=nvml, now=lambda: now[0])
    found = counters.read()
    assert found == {
        "utilization": 0.87,
        "memory_bytes": 12 * 2**30,
        "power_w": 412.5,
        "temperature_c": 61,
    }
    now[0] += 0.9
    assert counters.read() == found
    assert nvml.asked == 1
    now[0] += 0.2
    counters.read()
    assert nvml.asked == 2


def test_a_driver_that_does_not_answer_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    counters = GpuCounters(torch.device("cuda", 0), nvml=Nvml(error=RuntimeError("Driver Not Loaded")))
    assert counters.read() is None
    assert counters.read() is None
    assert [record.getMessage()[:5] for record in caplog.records] == ["SW966"]


def test_a_cpu_has_none(caplog: pytest.LogCaptureFixture) -> None:
    assert GpuCounters(torch.device("cpu"), nvml=Nvml()).read() is None
    assert not caplog.records
