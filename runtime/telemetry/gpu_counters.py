"""Counters of a rank's GPU from its driver (NVML), beside the times that the rank measures itself.

NVML's utilization is the share of time in which any kernel ran: a GPU that waits in a collective's kernel is
"100 % utilized". It is no measure of efficiency, and is kept beside MFU for those who know a GPU by it.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)

# NVML itself averages over 1/6 to 1 s (nvmlDeviceGetUtilizationRates); asking more often tells nothing new.
INTERVAL_S = 1.0


class GpuCounters:
    """Reads the counters of one GPU at most once a second; without a GPU or a driver there are none.

    Args:
        nvml: the pynvml module; None imports it.
    """

    def __init__(
        self, device: torch.device, *, nvml: Any = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._read_at = float("-inf")
        self._last: dict[str, float] | None = None
        self._nvml: Any = None
        self._handle: Any = None
        if device.type != "cuda":
            return
        try:
            self._nvml = nvml or importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except Exception as error:
            self._give_up(error)

    def read(self) -> dict[str, float] | None:
        """utilization, 0 to 1; memory_bytes of the device in use; power_w; temperature_c. None: unknown."""
        if self._nvml is None or self._handle is None:
            return None
        if self._now() - self._read_at >= INTERVAL_S:
            self._read_at = self._now()
            try:
                self._last = self._ask()
            except Exception as error:
                self._give_up(error)
        return self._last

    def _ask(self) -> dict[str, float]:
        nvml, handle = self._nvml, self._handle
        return {
            "utilization": nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            "memory_bytes": int(nvml.nvmlDeviceGetMemoryInfo(handle).used),
            "power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        }

    def _give_up(self, error: Exception) -> None:
        """Training does not depend on them."""
        self._nvml = self._handle = self._last = None
        logger.warning("SW966 telemetry has no counters of this GPU: %s: %s", type(error).__name__, error)
