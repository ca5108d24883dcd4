"""What healthy hosts answer, and a driver made of plain values: tests change one thing of it."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

from launch.preflight.ask_hosts import ClockOffset, HostAnswer

HEALTHY: dict[str, Any] = {
    "hostname": "h",
    "interfaces": ["lo", "eth0", "ib0"],
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "deepspeed": "0.19.8", "transformers": "5.23.0"},
    "missing_modules": [],
    "cuda": "12.8",
    "nccl": "2.27.5",
    "code": {"fingerprint": "code", "error": None},
    "gpus": None,
    "xid": None,
    "disk": {"path": "/runs", "total_bytes": 10**15, "free_bytes": 10**14, "error": None},
    "shm": {"path": "/dev/shm", "total_bytes": 64 * 10**9, "free_bytes": 10**9, "error": None},
    "open_files": {"soft": 65536, "hard": 65536},
    "shared": {"nonce": "n", "error": None},
}


def device(index: int = 0, **changed: Any) -> dict[str, Any]:
    """A healthy GPU as launch.remote.gpu_facts tells of it."""
    healthy = {
        "index": index,
        "error": None,
        "name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 85_520_809_984,
        "used_bytes": 0,
        "processes": 0,
        "ecc": {"enabled": True, "corrected": 0, "uncorrected": 0, "uncorrected_ever": 0},
        "retired_pages": {"single_bit": None, "double_bit": None, "pending": None},
        "remapped_rows": {"corrected": 0, "uncorrected": 0, "pending": False, "failed": False},
    }
    return {**healthy, **changed}


def gpus(*devices: dict[str, Any], error: str | None = None, driver: str = "570.86") -> dict[str, Any]:
    return {"error": error, "driver": driver, "cuda_driver": "12.8", "devices": list(devices)}


def no_xids() -> dict[str, Any]:
    return {"source": "the journal", "error": None, "events": [], "num_events": 0}


def answer(offset_s: float = 0.0, *, seen: bool = True, **changed: Any) -> HostAnswer:
    """A host's answer: healthy, but for what is changed (dotted by __: disk__free_bytes)."""
    facts = deepcopy(HEALTHY)
    for path, value in changed.items():
        *sections, key = path.split("__")
        place = facts
        for section in sections:
            place = place[section]
        place[key] = value
    return HostAnswer(facts=facts, clock=ClockOffset(offset_s=offset_s, uncertainty_s=0.001), seen=seen)


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801 - the library's own name
    pass


def fake_nvml(**functions: Any) -> SimpleNamespace:
    """A pynvml of one H100; `functions` replace its own, an exception among them is raised."""

    def unsupported(*_: Any) -> Any:
        raise NVMLError("Not Supported")

    values: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: b"570.86.10",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 12080,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=85_520_809_984, used=4 * 2**20),
        "nvmlDeviceGetEccMode": lambda handle: [1, 1],
        "nvmlDeviceGetTotalEccErrors": lambda handle, error, counter: {(0, 0): 3, (1, 0): 0, (1, 1): 2}[
            error, counter
        ],
        "nvmlDeviceGetRetiredPages": unsupported,  # so on a card that remaps rows instead
        "nvmlDeviceGetRetiredPagesPendingStatus": unsupported,
        "nvmlDeviceGetRemappedRows": lambda handle: (1, 2, 0, 1),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [object()],
    }
    constants = {
        "NVML_MEMORY_ERROR_TYPE_CORRECTED": 0,
        "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
        "NVML_VOLATILE_ECC": 0,
        "NVML_AGGREGATE_ECC": 1,
        "NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS": 0,
        "NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR": 1,
    }
    return SimpleNamespace(**{**values, **functions}, **constants, NVMLError=NVMLError)
