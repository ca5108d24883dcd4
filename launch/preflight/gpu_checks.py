"""GPU checks of preflight: count, memory, health, driver errors, other users, same model everywhere."""

from collections.abc import Iterator, Mapping
from typing import Any

from launch.preflight.check import PreflightCheck, Role, equal_everywhere, failed, passed, unknown
from launch.remote.gpu_facts import NO_DRIVER
from planner import Plan
from planner.units import format_bytes, plural

# XIDs of hardware errors, from NVIDIA's list "XID Errors"; the others are mostly caused by programs.
HARDWARE_XIDS = {
    48: "double-bit ECC error",
    63: "row remapping or page retirement",
    64: "row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "many single-bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "GPU system processor timeout",
    120: "GPU system processor error",
    140: "unrecovered ECC error",
}
Facts = Mapping[str, dict[str, Any]]


def gpu_checks(plan: Plan, roles: tuple[Role, ...], facts: Facts) -> Iterator[PreflightCheck]:
    """By rule, then by host; a host without a driver has that one failure only."""
    slots = {role.name: role.slots for role in roles}
    able = {}
    for host, found in facts.items():
        error = found["gpus"]["error"]
        if error is None:
            able[host] = found
        else:
            yield failed(
                "SW521",
                "GPUs",
                error,
                expected=f"{plural(slots[host], 'GPU')} (cluster.gpus_per_host)",
                fix="install the driver on the host, use a host with GPUs, or set cluster.gpu to cpu"
                if error == NO_DRIVER
                else "repair the driver on the host; `nvidia-smi` shows details",
                host=host,
            )
    if not able:
        return
    yield from _counts(slots, able)
    yield from _memory(plan, slots, able)
    yield from _health(able)
    yield from _xids(able)
    yield from _users(slots, able)
    models = {
        host: ", ".join(sorted({device["name"] for device in _working(found)}))
        for host, found in able.items()
        if _working(found)
    }
    if models:
        fix = "list only hosts with the same GPUs under cluster.hosts"
        yield from equal_everywhere("SW526", "GPU model", models, missing="none", fix=fix)
    drivers = {host: found["gpus"]["driver"] for host, found in able.items()}
    yield from equal_everywhere(
        "SW526", "driver", drivers, missing="none", fix="install the same driver on all hosts"
    )


def _working(facts: dict[str, Any]) -> list[dict[str, Any]]:
    return [device for device in facts["gpus"]["devices"] if device["error"] is None]


def _counts(slots: Mapping[str, int], able: Facts) -> Iterator[PreflightCheck]:
    for host, facts in able.items():
        devices, working = facts["gpus"]["devices"], _working(facts)
        broken = [f"GPU {d['index']}: {d['error']}" for d in devices if d["error"] is not None]
        found = "; ".join([f"{len(working)} GPU{'s' if len(working) != 1 else ''}", *broken])
        if len(working) >= slots[host]:
            yield passed("GPUs", found, host=host)
        else:
            yield failed(
                "SW521",
                "GPUs",
                found,
                expected=f"{slots[host]}, one for each slot",
                fix="write the host as `NAME slots=N` with its GPUs, or reboot it to recover lost ones",
                host=host,
            )


# Cards of one name differ a little in what their driver reports, by firmware and ECC (B200: 182,642 to
# 183,359 MiB).
_REPORTED_LESS = 0.01


def _memory(plan: Plan, slots: Mapping[str, int], able: Facts) -> Iterator[PreflightCheck]:
    need = plan.strategy.cluster.gpu.memory
    for host, facts in able.items():
        devices = _working(facts)[: slots[host]]
        if not devices:
            continue
        least = min(devices, key=lambda device: int(device["memory_bytes"]))
        found = format_bytes(least["memory_bytes"])
        if least["memory_bytes"] >= (1 - _REPORTED_LESS) * need:
            yield passed("GPU memory", found, host=host)
        else:
            yield failed(
                "SW522",
                "GPU memory",
                f"GPU {least['index']} has {found}",
                expected=f"{format_bytes(need)} (cluster.gpu)",
                fix="correct the memory under cluster.gpu and check that the plan still fits",
                host=host,
            )


def _health(able: Facts) -> Iterator[PreflightCheck]:
    """ECC errors, retired pages and remapped rows."""
    for host, facts in able.items():
        broken = [text for device in _working(facts) for text in _faults(device)]
        if broken:
            yield failed(
                "SW523",
                "GPU health",
                "; ".join(broken),
                expected="no uncorrected errors, no pending retirement or remapping",
                fix="reset the GPU or reboot the host; if the error returns, replace the card",
                host=host,
            )
            continue
        notes = [text for device in _working(facts) for text in _notes(device)]
        without_counts = [device for device in _working(facts) if device["ecc"]["uncorrected"] is None]
        if without_counts and len(without_counts) == len(_working(facts)):
            notes.append("the GPUs keep no ECC counts")
        verdict = unknown if without_counts else passed
        yield verdict("GPU health", "; ".join(notes) or "no errors", host=host)


def _faults(device: dict[str, Any]) -> Iterator[str]:
    who, ecc, pages, rows = (
        f"GPU {device['index']}",
        device["ecc"],
        device["retired_pages"],
        device["remapped_rows"],
    )
    if ecc["uncorrected"]:
        yield f"{who}: {ecc['uncorrected']} uncorrected ECC errors since boot"
    if pages["pending"]:
        yield f"{who}: pages pending retirement ({pages['double_bit'] or 0} double-bit so far)"
    if rows is not None and rows["pending"]:
        yield f"{who}: rows pending remapping"
    if rows is not None and rows["failed"]:
        yield f"{who}: row remapping failed"


def _notes(device: dict[str, Any]) -> Iterator[str]:
    """Worth reporting, but no failure."""
    ecc, pages, rows = device["ecc"], device["retired_pages"], device["remapped_rows"]
    notes = {
        "ECC is off": ecc["enabled"] is False,
        f"{ecc['corrected']} corrected ECC errors": ecc["corrected"],
        f"{pages['single_bit']} + {pages['double_bit']} retired pages": pages["single_bit"]
        or pages["double_bit"],
        f"{rows and rows['corrected']} + {rows and rows['uncorrected']} remapped rows": rows is not None
        and (rows["corrected"] or rows["uncorrected"]),
    }
    yield from (f"GPU {device['index']}: {text}" for text, is_there in notes.items() if is_there)


def _xids(able: Facts) -> Iterator[PreflightCheck]:
    for host, facts in able.items():
        log = facts["xid"]
        if log["error"] is not None:
            why = f"cannot read the kernel log: {log['error']}"
            yield unknown("GPU errors (XID)", why, host=host)
            continue
        events = log["events"]
        hard = [e for e in events if e["xid"] in HARDWARE_XIDS]
        if hard:
            last = hard[-1]
            yield failed(
                "SW524",
                "GPU errors (XID)",
                f"{len(hard)} since boot; last: XID {last['xid']} ({HARDWARE_XIDS[last['xid']]}) "
                f"at {last['pci']}",
                expected=f"no hardware error in {log['source']}",
                fix="reset the GPU or reboot the host; if the error returns, run NVIDIA's field diagnostic",
                host=host,
            )
        else:
            others = ", ".join(sorted({f"XID {e['xid']}" for e in events}))
            found = f"{others} (caused by programs)" if others else f"none in {log['source']}"
            yield passed("GPU errors (XID)", found, host=host)


def _users(slots: Mapping[str, int], able: Facts) -> Iterator[PreflightCheck]:
    for host, facts in able.items():
        busy = [device for device in _working(facts)[: slots[host]] if device["processes"]]
        if busy:
            who = ", ".join(
                f"GPU {d['index']} ({d['processes']} processes, {format_bytes(d['used_bytes'])})"
                for d in busy
            )
            yield failed(
                "SW525",
                "GPUs free",
                f"in use: {who}",
                expected="no other process on the GPUs",
                fix="wait for the process or end it; `nvidia-smi` on the host lists it",
                host=host,
            )
        else:
            yield passed("GPUs free", "free", host=host)
