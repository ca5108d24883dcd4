"""Sections written as one value, `output: results`, `cluster: 8xH100`, and the keys that are meant."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.hardware.catalog import known_devices
from planner.hardware.device_names import guess_device
from planner.hardware.hardware_file import find_name
from planner.hardware.presets import known_links, suggest_link
from planner.loading.fault import Fault, Path, dotted
from planner.loading.foreign_meaning import count, shown
from planner.loading.foreign_names import find_meaning
from planner.loading.json_schema import field_schema, find_section
from planner.loading.trial import is_legal
from planner.loading.value_fixes import propose_value
from planner.strategy.field_types import show
from planner.strategy.mix_spellings import as_mix, find_parts, has_weights

# The key that a text in the place of a section most often means.
_OF_TEXT: Mapping[tuple[str, ...], str] = {
    ("output",): "folder",
    ("data",): "path",
    ("limits",): "memory_max",
    ("training",): "tokens",
    ("launch",): "launcher",
}
_OF_NUMBER: Mapping[tuple[str, ...], str] = {("cluster",): "hosts", ("training",): "steps"}
_MANY = re.compile(r"(\d{1,4})\s*[x×*]\s*(.+)", re.DOTALL)


def as_section(path: Path, value: Any, data: Mapping[str, Any]) -> Fault | None:
    """The fault of one value in the place of a section, with the keys that it means; None without any."""
    found = f"{show(value)} is not a mapping"
    if path == ("training", "optimizer") and isinstance(value, str):
        meaning = find_meaning(path, value, data)
        if meaning is not None and (meaning.no_effect or meaning.refused):
            fix = f"leave optimizer out; {meaning.without}"
            if meaning.no_effect:
                fix = f"leave optimizer out: it changes nothing here ({meaning.no_effect})"
            found = f"{found}; {meaning.refused}" if meaning.refused else found
            return Fault(path=path, code="SW113", found=found, fix=fix)
    inside = read_section(path, value, data)
    if inside is None:
        return None
    writes = {f"{dotted(path)}.{key}": item for key, item in inside.keys.items()}
    return Fault(path=path, code="SW113", found=found, fix=inside.fix, writes=writes, hint=inside.hint)


@dataclass(frozen=True, kw_only=True)
class Inside:
    """Keys inside the section and their values, and what is said behind them; or the fix as a whole."""

    keys: Mapping[str, Any] = field(default_factory=dict)
    hint: str = ""
    fix: str = ""


def read_section(path: Sequence[str | int], value: Any, data: Mapping[str, Any]) -> Inside | None:
    """What one value in the place of a section means; None where nothing says so."""
    names = tuple(map(str, path))
    section = find_section(path)
    if section is None or isinstance(value, (dict, bool)) or value is None:
        return None
    if isinstance(value, str) and not value.strip():
        return None
    if names == ("model",) and isinstance(value, str):
        return _model(value)
    if names == ("parallel",):
        return _degree(value, data)
    if names == ("cluster",) and isinstance(value, str):
        return _machine(value)
    if names == ("cluster", "links") and isinstance(value, str):
        return _links(value)
    if names == ("cluster", "gpu", "peak"):
        return _one(path, "bf16", value, data)
    if names == ("data",) and (parts := find_parts(value)) is not None and has_weights(parts):
        mix = as_mix(parts)
        return Inside(keys={"mix": mix}) if mix is not None and len(mix) > 1 else None
    if names == ("cluster",) and isinstance(value, (list, tuple)):
        return _one(path, "hosts", value, data)
    if names != ("data",) and isinstance(value, str):
        for key in section.written_keys():
            schema = field_schema((*names, key)) or {}
            words = {word for branch in (schema, *schema.get("anyOf", ())) for word in branch.get("enum", ())}
            if value in words:
                return Inside(keys={key: value})
    named = (_OF_TEXT if isinstance(value, (str, list, tuple)) else _OF_NUMBER).get(names)
    return None if named is None else _one(path, named, value, data)


def _one(path: Sequence[str | int], key: str, value: Any, data: Mapping[str, Any]) -> Inside | None:
    """The value under one key, or the legal one that seems to be meant."""
    if is_legal((*path, key), value):
        return Inside(keys={key: value})
    found = propose_value((*path, key), value, data)
    return None if found is None else Inside(keys={key: found.value}, hint=found.hint)


def _model(name: str) -> Inside:
    """A model by name, whose shape is in its config.json alone."""
    fix = f"add --from FOLDER with the folder of {shown(name)} or its config.json, and leave model out"
    return Inside(fix=fix)


def _degree(value: Any, data: Mapping[str, Any]) -> Inside | None:
    """A number of ranks: experts are distributed where it divides them, else the model is replicated."""
    degree = count(int(value) if isinstance(value, str) and value.strip().isdigit() else value)
    model = data.get("model")
    experts = count(model.get("num_experts")) if isinstance(model, dict) else None
    if degree is None or not is_legal(("parallel", "dp"), degree):
        return None
    if experts is not None and experts % degree == 0:
        return Inside(keys={"ep": degree}, hint=", or tp, pp or dp")
    return Inside(keys={"dp": degree}, hint=", or ep, tp or pp")


def _machine(text: str) -> Inside | None:
    """H100, 8xH100, or a hostfile."""
    many = _MANY.fullmatch(text.strip())
    known = known_devices()
    named = text if many is None else many[2]
    gpu = find_name(named, known) or guess_device(named, known)
    if gpu is not None:
        return Inside(keys={**({"gpus_per_host": int(many[1])} if many is not None else {}), "gpu": gpu})
    if "/" in text or "hostfile" in text.lower():
        return Inside(keys={"hosts": {"hostfile": text.strip()}})
    return None


def _links(text: str) -> Inside | None:
    """One link for both: a quantity; a name is of a link inside a host or of one between them."""
    known = known_links()
    name = text if is_legal(("cluster", "links", "inter_host"), text) else suggest_link(text, known)
    if name is None:
        found = propose_value(("cluster", "links", "inter_host"), text, {})
        return (
            None if found is None else Inside(keys=dict.fromkeys(("intra_host", "inter_host"), found.value))
        )
    if name[:1].isdigit():
        return Inside(keys={"intra_host": name, "inter_host": name})
    if re.match(r"(?i)nv|pcie|infinity", name):
        return Inside(keys={"intra_host": name, "inter_host": "NDR"}, hint=", or another inter_host")
    return Inside(keys={"intra_host": "NVLink4", "inter_host": name}, hint=", or another intra_host")
