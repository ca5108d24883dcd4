"""Configuration of another program merged into a strategy's document, in place of what is written there."""

from dataclasses import replace
from typing import Any

from planner.loading.ds_config_file import DsConfig, convert_ds_config
from planner.loading.source_file import SourceFile
from planner.strategy.parallel import degrees_of
from planner.yaml12 import Entry
from planner.yaml12 import Mapping as YamlMapping
from planner.yaml12_writer import flow_yaml


def with_ds_config(root: Entry, source: SourceFile) -> tuple[Entry, DsConfig] | None:
    """The strategy with the keys of another program's configuration in place of its own, and what else that
    says; None where neither has a model."""
    root = _with_degrees(root)
    found = convert_ds_config(source, root.plain())
    has_model = isinstance(root.value, YamlMapping) and "model" in root.value.entries
    if not has_model and not any(key.startswith("model.") for key in found.writes):
        return None
    origin = f"--from {source.argument}"
    left_out = dict(found.left_out)
    for here, value in found.writes.items():
        keys = here.split(".")
        wrong = _not_a_section(root, keys)
        if wrong is None:
            root = _put(root, keys, _entry(value, origin))
        else:
            left_out[here] = f"{flow_yaml(value)}: {wrong} is no section in the strategy"
    return root, replace(found, left_out=left_out)


def _with_degrees(root: Entry) -> Entry:
    """The strategy with the degrees of a short name as a section, into which others can be put."""
    assert isinstance(root.value, YamlMapping)
    written = root.value.entries.get("parallel")
    degrees = None if written is None else degrees_of(written.value)
    if written is None or degrees is None:
        return root
    entries = {key: replace(written, value=degree) for key, degree in degrees.items()}
    section = replace(written, value=YamlMapping(entries=entries))
    return replace(root, value=YamlMapping(entries={**root.value.entries, "parallel": section}))


def _not_a_section(root: Entry, keys: list[str]) -> str | None:
    """The key on the way to another one whose value is not a section, which has a Problem of its own."""
    place = root
    for depth, key in enumerate(keys[:-1], start=1):
        if not isinstance(place.value, YamlMapping) or key not in place.value.entries:
            return None
        place = place.value.entries[key]
        if place.value is not None and not isinstance(place.value, YamlMapping):
            return ".".join(keys[:depth])
    return None


def _entry(value: Any, origin: str) -> Entry:
    if isinstance(value, dict):
        inner = {key: _entry(item, origin) for key, item in value.items()}
        return Entry(value=YamlMapping(entries=inner), line=None, override=origin)
    if isinstance(value, (list, tuple)):
        return Entry(value=tuple(_entry(item, origin) for item in value), line=None, override=origin)
    return Entry(value=value, line=None, override=origin)


def _put(place: Entry, keys: list[str], value: Entry) -> Entry:
    if not keys:
        return value
    entries = dict(place.value.entries) if isinstance(place.value, YamlMapping) else {}
    entries[keys[0]] = _put(entries.get(keys[0], Entry(value=None, line=place.line)), keys[1:], value)
    return Entry(value=YamlMapping(entries=entries), line=place.line, override=place.override)
