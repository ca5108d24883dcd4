"""Faults of a mixture of corpora in another spelling: one fix for all of it, with its paths and weights."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.loading.fault import Fault, Path
from planner.loading.value_fixes import propose_value
from planner.strategy.mix_spellings import as_mix, find_parts, has_weights

_MIX, _PATH = ("data", "mix"), ("data", "path")


def as_mixture(fault: Fault, data: Mapping[str, Any]) -> Fault:
    """The fault with a fix that keeps every path and weight; as it is where they cannot be told."""
    if fault.path[:2] == _PATH and data["data"].get("mix") is None:
        parts = find_parts(data["data"][_PATH[1]]) or []
        if len(parts) > 1 and has_weights(parts):  # Megatron-LM's paths with weights
            mix, value = as_mix(parts), data["data"][_PATH[1]]
            return replace(
                fault, path=_PATH, writes={"data.mix": mix}, fix="", hint="", replaces=True, value=value
            )
    if fault.path[:2] == _MIX and len(fault.path) > 2:
        proposal = propose_value(_MIX, data["data"][_MIX[1]], data)
        if proposal is not None:
            writes = {"data.mix": proposal.value}
            return replace(fault, writes=writes, fix="", hint=proposal.hint, replaces=False)
    return fault


def drop_parts(faults: Mapping[Path, Fault]) -> dict[Path, Fault]:
    """The faults without those of further parts of a mixture, where the first one's fix mends them all."""
    found: dict[Path, Fault] = {}
    is_mended = False
    for path, fault in faults.items():
        if path[:2] == _MIX and len(path) > 2:
            if is_mended:
                continue
            is_mended = "data.mix" in fault.writes
        found[path] = fault
    return found
