"""What is asked of NVML and of the kernel log, with a driver made of plain values."""

import importlib
from typing import Any

import pytest

from launch.remote.gpu_facts import gpu_facts, xid_facts
from tests.support.host_facts import NVMLError, NVMLError_LibraryNotFound, fake_nvml


def raises(error: Exception) -> Any:
    def function(*_: Any) -> Any:
        raise error

    return function


def test_a_card_tells_what_it_is_and_what_it_suffered() -> None:
    found = gpu_facts(fake_nvml())
    assert (found["error"], found["driver"], found["cuda_driver"]) == (None, "570.86.10", "12.8")
    assert found["devices"] == [
        {
            "index": 0,
            "error": None,
            "name": "NVIDIA H100 80GB HBM3",
            "memory_bytes": 85_520_809_984,
            "used_bytes": 4_194_304,
            "processes": 1,
            "ecc": {"enabled": True, "corrected": 3, "uncorrected": 0, "uncorrected_ever": 2},
            "retired_pages": {"single_bit": None, "double_bit": None, "pending": None},
            "remapped_rows": {"corrected": 1, "uncorrected": 2, "pending": False, "failed": True},
        }
    ]


def test_an_older_card_tells_of_retired_pages() -> None:
    nvml = fake_nvml(
        nvmlDeviceGetRetiredPages=lambda handle, cause: [0x10, 0x20] if cause == 0 else [0x30],
        nvmlDeviceGetRetiredPagesPendingStatus=lambda handle: 1,
        nvmlDeviceGetRemappedRows=raises(NVMLError("Not Supported")),
    )
    (device,) = gpu_facts(nvml)["devices"]
    assert device["retired_pages"] == {"single_bit": 2, "double_bit": 1, "pending": True}
    assert device["remapped_rows"] is None


def test_a_host_without_a_driver_says_so() -> None:
    nvml = fake_nvml(nvmlInit=raises(NVMLError_LibraryNotFound("NVML SharedFolder Library Not Found")))
    found = gpu_facts(nvml)
    assert (found["error"], found["devices"]) == ("no NVIDIA driver", [])


def test_a_driver_that_fails_is_not_taken_for_none() -> None:
    found = gpu_facts(fake_nvml(nvmlInit=raises(NVMLError("Driver/library version mismatch"))))
    assert found["error"] == "NVML: Driver/library version mismatch"


def test_a_lost_card_is_told_beside_those_that_work() -> None:
    def handle_of(index: int) -> int:
        if index == 1:
            raise NVMLError("GPU is lost")
        return index

    nvml = fake_nvml(nvmlDeviceGetCount=lambda: 3, nvmlDeviceGetHandleByIndex=handle_of)
    assert [device["error"] for device in gpu_facts(nvml)["devices"]] == [None, "GPU is lost", None]


@pytest.mark.torch  # pynvml comes with the training environment
def test_every_function_that_is_called_is_one_of_the_library() -> None:
    pynvml = importlib.import_module("pynvml")
    names = [name for name in vars(fake_nvml()) if name.lower().startswith("nvml")]
    assert len(names) == 21
    assert [name for name in names if not hasattr(pynvml, name)] == []


LOG = """\
6,1,100,-;Linux version 6.1
4,2,200,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=77, name=python, Ch 00000008, MMU Fault
<4>[ 123.4] NVRM: Xid (PCI:0000:86:00): 79, GPU has fallen off the bus.
kernel: NVRM: GPU at PCI:0000:86:00: GPU-1234
"""


def test_error_events_are_read_from_the_kernel_log() -> None:
    found = xid_facts(lambda: ("/dev/kmsg", LOG))
    assert [(event["pci"], event["xid"]) for event in found["events"]] == [
        ("0000:3b:00", 31),
        ("0000:86:00", 79),
    ]
    assert found["events"][1]["text"] == "GPU has fallen off the bus."
    assert (found["source"], found["error"], found["num_events"]) == ("/dev/kmsg", None, 2)


def test_many_events_keep_the_newest() -> None:
    log = "".join(f"NVRM: Xid (PCI:0000:01:00): {n}, x\n" for n in range(1, 61))
    found = xid_facts(lambda: ("dmesg", log))
    assert (found["num_events"], len(found["events"])) == (60, 50)
    assert (found["events"][0]["xid"], found["events"][-1]["xid"]) == (11, 60)


def test_a_log_that_cannot_be_read_says_why() -> None:
    found = xid_facts(raises(OSError("dmesg: Operation not permitted")))
    assert found == {
        "source": None,
        "error": "dmesg: Operation not permitted",
        "events": [],
        "num_events": 0,
    }


def test_this_hosts_log_is_read_or_refused_with_a_reason() -> None:
    found = xid_facts()
    assert (found["source"] is None) == (found["error"] is not None)
    assert pytest.approx(len(found["events"])) == found["num_events"] or found["num_events"] > 50
