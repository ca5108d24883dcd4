"""Measured links in a hardware file, added beside whatever was measured there before."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.hardware.catalog import UNNAMED, entry_of, is_entry
from planner.hardware.hardware_file import read_hardware
from planner.strategy.schema import Strategy
from planner.yaml12_writer import section_yaml


@dataclass(frozen=True, kw_only=True)
class MeasuredLinks:
    """Medians over the pairs of ranks that were measured; None where there was no such pair.

    bytes_per_s: of a rank, one way. latency_s: of a small message, one way. source: where and when.
    """

    intra_bytes_per_s: float | None
    intra_latency_s: float | None
    inter_bytes_per_s: float | None
    inter_latency_s: float | None
    source: str


def write_links(path: Path, strategy: Strategy, measured: MeasuredLinks) -> str:
    """Writes the entry of the strategy's device with these links, and returns its name.

    What the file holds already stays, measured curves of the same device included; where it holds nothing of
    the device, the rest of the entry is as shipped.

    Raises:
        StrategyError: if the file exists and is not a hardware file.
        OSError: if it cannot be written.
    """
    entries = read_hardware(path) if path.exists() else {}
    name, shipped = entry_of(strategy.cluster.gpu)
    known = entries.get(name)
    if known is None or (name == UNNAMED and not is_entry(strategy.cluster.gpu, known)):
        known = shipped
    entries[name] = with_links(known, measured)
    text = "# Devices as measured, as in planner/hardware/devices.yaml. Links: python -m launch preflight.\n"
    text += "".join(section_yaml(key, entry) for key, entry in entries.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).chmod(0o644)
    Path(temporary).replace(path)
    return name


def with_links(entry: Mapping[str, Any], measured: MeasuredLinks) -> dict[str, Any]:
    """An entry whose network is the measured one, as far as it was measured."""
    links = dict(entry.get("links") or {})
    latency = dict(entry["latency"])
    for where, rate, seconds in (
        ("intra_host", measured.intra_bytes_per_s, measured.intra_latency_s),
        ("inter_host", measured.inter_bytes_per_s, measured.inter_latency_s),
    ):
        if rate is not None:
            links[where] = f"{rate / 1e9:.4g} GB/s"
        if seconds is not None:
            latency[where] = f"{seconds * 1e6:.4g} us"
    sources = {**entry["sources"], "links": measured.source}
    return {**entry, "latency": latency, "links": links, "sources": sources}
