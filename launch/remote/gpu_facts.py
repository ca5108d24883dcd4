"""GPU facts of a host, from its NVIDIA driver (NVML) and its kernel log; runs on the host.

Standard library only, and nvidia-ml-py if installed: preflight asks before anything is known to work.
"""

import contextlib
import errno
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

NO_DRIVER = "no NVIDIA driver"
# `NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.`
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+),?\s*(.*)")
MAX_EVENTS = 50
_LOG_TIMEOUT_S = 5.0
# NVML errors that mean that a host has no driver; others are reported as they are.
_NO_DRIVER_ERRORS = ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded")


def gpu_facts(nvml: Any = None) -> dict[str, Any]:
    """Driver, versions and devices; `error` says why there are none.

    Args:
        nvml: the pynvml module; None imports it.
    """
    found: dict[str, Any] = {"error": None, "driver": None, "cuda_driver": None, "devices": []}
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return found | {"error": "nvidia-ml-py is not installed"}
    try:
        nvml.nvmlInit()
    except Exception as error:
        is_absent = type(error).__name__ in _NO_DRIVER_ERRORS
        return found | {"error": NO_DRIVER if is_absent else f"NVML: {error}"}
    try:
        found["driver"] = _text(nvml.nvmlSystemGetDriverVersion())
        version = _value(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
        found["cuda_driver"] = None if version is None else f"{version // 1000}.{version % 1000 // 10}"
        for index in range(nvml.nvmlDeviceGetCount()):
            found["devices"].append(_device(nvml, index))
    except Exception as error:
        found["error"] = f"NVML: {error}"
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()
    return found


def _device(nvml: Any, index: int) -> dict[str, Any]:
    """One GPU; None where a card has no such value. `error` is set if the card does not answer at all."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = _text(nvml.nvmlDeviceGetName(handle))
    except Exception as error:
        return {"index": index, "error": str(error)}
    corrected, uncorrected = nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    since_boot, ever = nvml.NVML_VOLATILE_ECC, nvml.NVML_AGGREGATE_ECC
    single = nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS
    double = nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR

    def ask(function: str, *arguments: Any) -> Any:
        return _value(nvml, getattr(nvml, function), handle, *arguments)

    mode = ask("nvmlDeviceGetEccMode")
    pages = [ask("nvmlDeviceGetRetiredPages", cause) for cause in (single, double)]
    rows = ask("nvmlDeviceGetRemappedRows")
    running = ask("nvmlDeviceGetComputeRunningProcesses")
    return {
        "index": index,
        "error": None,
        "name": name,
        "memory_bytes": int(memory.total),
        "used_bytes": int(memory.used),
        "processes": None if running is None else len(running),
        "ecc": {
            "enabled": None if mode is None else bool(mode[0]),
            "corrected": ask("nvmlDeviceGetTotalEccErrors", corrected, since_boot),
            "uncorrected": ask("nvmlDeviceGetTotalEccErrors", uncorrected, since_boot),
            "uncorrected_ever": ask("nvmlDeviceGetTotalEccErrors", uncorrected, ever),
        },
        "retired_pages": {
            "single_bit": None if pages[0] is None else len(pages[0]),
            "double_bit": None if pages[1] is None else len(pages[1]),
            "pending": _flag(ask("nvmlDeviceGetRetiredPagesPendingStatus")),
        },
        "remapped_rows": None
        if rows is None
        else {
            "corrected": int(rows[0]),
            "uncorrected": int(rows[1]),
            "pending": bool(rows[2]),
            "failed": bool(rows[3]),
        },
    }


def _value(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """None where the card does not support the query."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def xid_facts(read_log: Callable[[], tuple[str, str]] | None = None) -> dict[str, Any]:
    """The driver's error events (XID) since boot, newest last; `error` says why the log cannot be read.

    NVML reports them only while they happen; their history is in the kernel log.

    Args:
        read_log: returns the log's name and text; None reads this host's.
    """
    try:
        source, text = (read_log or _kernel_log)()
    except OSError as error:
        return {"source": None, "error": str(error), "events": [], "num_events": 0}
    events = list(_events(text))
    return {"source": source, "error": None, "events": events[-MAX_EVENTS:], "num_events": len(events)}


def _events(text: str) -> Iterator[dict[str, Any]]:
    for match in _XID.finditer(text):
        yield {"pci": match[1], "xid": int(match[2]), "text": match[3].strip()[:200]}


def _kernel_log() -> tuple[str, str]:
    """The journal's kernel log of this boot, else the kernel's buffer, else dmesg's copy of it.

    Raises:
        OSError: with the reason for each, if none can be read.
    """
    reasons = []
    for read in (_journal, _kmsg, _dmesg):
        try:
            return read()
        except OSError as error:
            reasons.append(str(error))
    raise OSError("; ".join(reasons))


def _journal() -> tuple[str, str]:
    text = _output("journalctl", "--dmesg", "--boot", "--no-pager", "--quiet")
    if not text.strip():
        raise OSError("the journal holds no kernel log")
    return "the journal", text


def _kmsg() -> tuple[str, str]:
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise OSError(f"/dev/kmsg: {error.strerror}") from None
    records = []
    try:
        while True:
            try:
                records.append(os.read(log, 8192))  # one record a read
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EPIPE:  # overwritten while it was read: the next record follows
                    raise OSError(f"/dev/kmsg: {error.strerror}") from None
    finally:
        os.close(log)
    return "/dev/kmsg", b"\n".join(records).decode(errors="replace")


def _dmesg() -> tuple[str, str]:
    return "dmesg", _output("dmesg")


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise OSError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LOG_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} took more than {_LOG_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(f"{command[0]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")
