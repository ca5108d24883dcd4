"""YAML 1.2 writer: sections with one key per line, text quoted wherever YAML 1.2 would read a number."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import yaml

from planner.yaml12_scalars import resolve_scalar


def section_yaml(name: str, section: Mapping[str, Any]) -> str:
    """One section as a strategy writes it."""
    return sections_yaml({name: dict(section)})


def sections_yaml(sections: Mapping[str, Any]) -> str:
    """Sections and top-level keys as YAML that `planner.yaml12` reads back to equal values."""
    plain = _without_tuples(dict(sections))
    data = {
        key: _Block(value) if isinstance(value, dict) and value else value for key, value in plain.items()
    }
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
    )


def _without_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_without_tuples(item) for item in value]
    return value


def flow_yaml(value: Any) -> str:
    """A value on one line, as it is written behind a key: numbers as people write them, 1e-08."""
    match value:
        case dict():
            return (
                "{" + ", ".join(f"{flow_yaml(key)}: {flow_yaml(item)}" for key, item in value.items()) + "}"
            )
        case list() | tuple():
            return f"[{', '.join(map(flow_yaml, value))}]"
        case float() if isfinite(value):
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    # In brackets, so that text is quoted where a list needs it.
    text = yaml.dump(
        [value], Dumper=_Dumper, allow_unicode=True, width=10**6, default_flow_style=True, line_break="\n"
    )
    return text.strip()[1:-1]


class _Block(dict[str, Any]):
    """A section, written with one key per line."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper. Its YAML 1.1 leaves text such as `3e-4` unquoted, which YAML 1.2 reads as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        is_text = isinstance(resolve_scalar(text), str)
    except ValueError:
        is_text = False
    is_one_line = text.isprintable()  # YAML would write a line break as one, which splits a fix
    style = None if is_text and is_one_line else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_block(dumper: yaml.SafeDumper, section: _Block) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", section.items(), flow_style=False)


_Dumper.add_representer(_Block, _represent_block)
_Dumper.add_representer(str, _represent_text)
