"""Scaled curves: the entry of a device that was not measured, from one that was.

A device that is r times as fast reaches the same share of its peak at r times the work, because what a kernel
costs beside its work stays: shares move to sizes ∛r as large (a size is the cube root of m·n·k), rates
of elementwise operations grow by the ratio of memory bandwidths, at sizes as many times larger.
The H20 confirms it: at 1024³ in bf16 0.643 of its peak were measured (#77 of
zzc0721/torch-performance-test-data), 0.629 is the H100's curve scaled.
"""

from collections.abc import Mapping
from typing import Any

from planner.hardware.device import Curve, EntryError, curve, curves_of, number, peaks_of, read_key

_INHERITED = ("tile_rows", "operation", "latency", "message", "link_share")


def scaled_entry(entry: Mapping[str, Any], base_name: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with memory, memory_bandwidth and peak, completed from the entry of another device.

    Raises:
        EntryError: if one of the three is missing or wrong.
    """
    peaks, base_peaks = peaks_of(entry), peaks_of(base)
    found: dict[str, Any] = {key: base[key] for key in _INHERITED if key in base}
    for key in ("gemm", "grouped", "attention"):
        curves = curves_of(base, key, {})
        found[key] = {
            precision: [
                (size * (peaks[precision] / base_peaks[nearest]) ** (1 / 3), share)
                for size, share in curves[nearest].points
            ]
            for precision in peaks
            if (nearest := precision if precision in curves else "bf16") in curves
            and (key == "gemm" or nearest == precision)
        } | dict(entry.get(key) or {})
    ratio = bandwidth_of(entry) / bandwidth_of(base)
    found["elementwise"] = [
        (size * ratio, rate * ratio) for size, rate in curve(base["elementwise"], "bytes", "bytes/s").points
    ]
    ratios = {key: peaks[key] / base_peaks[key] for key in peaks if key in base_peaks}
    times = ", ".join(f"{key} × {times:.3g}" for key, times in ratios.items() if times != 1)
    sources = {
        "gemm": f"assumption, the {base_name}'s curves"
        + (f" scaled to these peaks: {times}" if times else ""),
        "elementwise": f"assumption, the {base_name}'s curve × {ratio:.3g}, the ratio of memory bandwidths",
        "operation": f"as the {base_name}'s: {base['sources'].get('operation', 'not known')}",
        "network": f"as the {base_name}'s: {base['sources'].get('network', 'not known')}",
    }
    return {**found, **entry, **{key: found[key] for key in ("gemm", "grouped", "attention")}} | {
        "sources": sources | dict(entry.get("sources") or {})
    }


def bandwidth_of(entry: Mapping[str, Any]) -> float:
    """Memory bandwidth in bytes/s; of an entry without one, what its largest operations reach."""
    if "memory_bandwidth" in entry:
        found: float = read_key(entry, "memory_bandwidth", lambda value: number(value, "bytes/s"))
        return found
    if "elementwise" not in entry:
        raise EntryError("memory_bandwidth", "memory_bandwidth is missing")
    points: Curve = read_key(entry, "elementwise", lambda value: curve(value, "bytes", "bytes/s"))
    return max(rate for _, rate in points.points)
