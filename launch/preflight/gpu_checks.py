"""What the GPUs of a host must be like: enough of them, large enough, healthy, alike, and nobody else's."""

from collections.abc import Iterator, Mapping
from typing import Any

from launch.preflight.check import Check, Role, equal_everywhere
from launch.remote.gpu_facts import NO_DRIVER
from planner import Plan
from planner.units import format_bytes

# XIDs that name the hardware, from NVIDIA's list "XID Errors"; the others are mostly a program's own doing.
HARDWARE_XIDS = {
    48: "double-bit ECC error",
    63: "row remapping or page retirement",
    64: "row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "many single-bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "GPU system processor does not answer",
    120: "GPU system processor error",
    140: "ECC error that was not recovered",
}
Facts = Mapping[str, dict[str, Any]]


def gpu_checks(plan: Plan, roles: tuple[Role, ...], facts: Facts) -> Iterator[Check]:
    """By rule, then by host; a host without a driver has its one failure only."""
    slots = {role.name: role.slots for role in roles}
    able = {}
    for host, found in facts.items():
        error = found["gpus"]["error"]
        if error is None:
            able[host] = found
        else:
            yield Check(
                name="GPUs",
                host=host,
                verdict="fails",
                found=error,
                expected=f"{slots[host]} GPUs, as the strategy says (cluster.gpu)",
                fix="install the driver there, or run it where GPUs are; cluster.gpu=cpu needs none"
                if error == NO_DRIVER
                else "put it right there: `nvidia-smi` on the host shows more",
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
        fix = "use hosts with the same GPUs, or list those alone under cluster.hosts"
        yield from equal_everywhere("GPU model", models, missing="none", fix=fix)
    drivers = {host: found["gpus"]["driver"] for host, found in able.items()}
    yield from equal_everywhere("driver", drivers, missing="none", fix="install the same driver on all hosts")


def _working(facts: dict[str, Any]) -> list[dict[str, Any]]:
    return [device for device in facts["gpus"]["devices"] if device["error"] is None]


def _counts(slots: Mapping[str, int], able: Facts) -> Iterator[Check]:
    for host, facts in able.items():
        devices, working = facts["gpus"]["devices"], _working(facts)
        broken = [f"GPU {d['index']}: {d['error']}" for d in devices if d["error"] is not None]
        found = "; ".join([f"{len(working)} GPU{'s' if len(working) != 1 else ''}", *broken])
        if len(working) >= slots[host]:
            yield Check(name="GPUs", host=host, verdict="passes", found=found)
        else:
            yield Check(
                name="GPUs",
                host=host,
                verdict="fails",
                found=found,
                expected=f"{slots[host]}, a slot each",
                fix="write the host as `NAME slots=N` with what it has, or bring its GPUs back (reboot)",
            )


def _memory(plan: Plan, slots: Mapping[str, int], able: Facts) -> Iterator[Check]:
    need = plan.strategy.cluster.gpu.memory
    for host, facts in able.items():
        devices = _working(facts)[: slots[host]]
        if not devices:
            continue
        least = min(devices, key=lambda device: int(device["memory_bytes"]))
        found = format_bytes(least["memory_bytes"])
        if least["memory_bytes"] >= need:
            yield Check(name="GPU memory", host=host, verdict="passes", found=found)
        else:
            yield Check(
                name="GPU memory",
                host=host,
                verdict="fails",
                found=f"GPU {least['index']} has {found}",
                expected=f"{format_bytes(need)} (cluster.gpu)",
                fix="write the real memory under cluster.gpu, and see whether the plan still fits",
            )


def _health(able: Facts) -> Iterator[Check]:
    """ECC errors, retired pages and remapped rows."""
    for host, facts in able.items():
        broken = [text for device in _working(facts) for text in _faults(device)]
        if broken:
            yield Check(
                name="GPU health",
                host=host,
                verdict="fails",
                found="; ".join(broken),
                expected="no uncorrected error, nothing pending",
                fix="reset the GPU or reboot the host; if it comes back, have the card replaced",
            )
            continue
        told = [text for device in _working(facts) for text in _marks(device)]
        silent = [device for device in _working(facts) if device["ecc"]["uncorrected"] is None]
        if silent and len(silent) == len(_working(facts)):
            told.append("the cards keep no ECC counts")
        yield Check(
            name="GPU health",
            host=host,
            verdict="unknown" if silent else "passes",
            found="; ".join(told) or "no errors",
        )


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
        yield f"{who}: pages wait to be retired ({pages['double_bit'] or 0} double-bit so far)"
    if rows is not None and rows["pending"]:
        yield f"{who}: rows wait to be remapped"
    if rows is not None and rows["failed"]:
        yield f"{who}: a row could not be remapped"


def _marks(device: dict[str, Any]) -> Iterator[str]:
    """What is worth telling and no reason to refuse."""
    ecc, pages, rows = device["ecc"], device["retired_pages"], device["remapped_rows"]
    marks = {
        "ECC is off": ecc["enabled"] is False,
        f"{ecc['corrected']} corrected ECC errors": ecc["corrected"],
        f"{pages['single_bit']} + {pages['double_bit']} retired pages": pages["single_bit"]
        or pages["double_bit"],
        f"{rows and rows['corrected']} + {rows and rows['uncorrected']} remapped rows": rows is not None
        and (rows["corrected"] or rows["uncorrected"]),
    }
    yield from (f"GPU {device['index']}: {text}" for text, is_there in marks.items() if is_there)


def _xids(able: Facts) -> Iterator[Check]:
    for host, facts in able.items():
        log = facts["xid"]
        if log["error"] is not None:
            why = f"the kernel log is not readable: {log['error']}"
            yield Check(name="GPU errors (XID)", host=host, verdict="unknown", found=why)
            continue
        events = log["events"]
        hard = [e for e in events if e["xid"] in HARDWARE_XIDS]
        if hard:
            last = hard[-1]
            yield Check(
                name="GPU errors (XID)",
                host=host,
                verdict="fails",
                found=f"{len(hard)} since boot; the last: XID {last['xid']} ({HARDWARE_XIDS[last['xid']]}) "
                f"at {last['pci']}",
                expected=f"no error of the hardware in {log['source']}",
                fix="reset the GPU or reboot the host, and run NVIDIA's field diagnostic if it comes back",
            )
        else:
            others = ", ".join(sorted({f"XID {e['xid']}" for e in events}))
            found = f"{others} (a program's own)" if others else f"none in {log['source']}"
            yield Check(name="GPU errors (XID)", host=host, verdict="passes", found=found)


def _users(slots: Mapping[str, int], able: Facts) -> Iterator[Check]:
    for host, facts in able.items():
        busy = [device for device in _working(facts)[: slots[host]] if device["processes"]]
        if busy:
            who = ", ".join(
                f"GPU {d['index']} ({d['processes']} processes, {format_bytes(d['used_bytes'])})"
                for d in busy
            )
            yield Check(
                name="GPUs free",
                host=host,
                verdict="fails",
                found=f"in use: {who}",
                expected="no other process on them",
                fix="wait for it, or end it: `nvidia-smi` on the host names it",
            )
        else:
            yield Check(name="GPUs free", host=host, verdict="passes", found="free")
