"""Strategy reference (docs/strategy.md), generated from the schema."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from planner.hardware.hardware_file import devices
from planner.hardware.presets import shipped_links
from planner.loading.json_schema import find_section, json_schema
from planner.loading.validation_messages import describe
from planner.rules import batch, deepspeed_dispatch, forced_routing, hosts, layout, model, stages
from planner.strategy.claim_quantities import CLAIM_QUANTITIES, OLD_QUANTITIES
from planner.strategy.field_types import Section
from planner.strategy.schema import Strategy
from planner.units import Dimension, format_quantity, legal_units

_INTRODUCTION = """\
# Strategy reference

<!-- Made by `python -m planner.generated`: change the schema or strategy_reference.py, not this file. -->

A strategy is one YAML file. It says which cluster, which model, which parallel degrees, which training
recipe. Everything else follows from it. `ds_configs/tiny_cpu.yaml` is a small complete one.

- Write what differs from a default. `python -m launch plan ds_configs/tiny_cpu.yaml --full` prints every key.
- The file is YAML 1.2: `3e-4` is a number, `no` and `10:30` are text.
- A quantity has a unit: `64 GB`, `100 Gbps`, `10 min`. `GB` is 10⁹ bytes, `GiB` is 2³⁰ bytes, `Gbps` is
  10⁹ bits a second.
- Any key can be set from the command line: `parallel.ep=2 training.steps=4 name=try1`. The value is
  what follows the `=`, up to its last character (there are no comments), unless it begins with `[`, `{` or a
  quote: then it is YAML.
- `parallel` may be a short name: `parallel: EP64_TP2_PP1_DP1`. A degree that is left out is 1.
- Unknown keys, duplicate keys and broken rules are reported all at once: see [errors](how-to/errors.md).
- Some values can be planned but not yet trained: a note in `plan`, an error in train.py.
- An editor with a YAML language server completes keys from `ds_configs/strategy.schema.json`. The first line
  of each shipped strategy points to it.

Refused on purpose, with the reason: dropout and routing noise (the only randomness is initialization and
data order), sequence and context parallelism, expert tensor parallelism, multi-head latent attention,
sliding-window attention, a tied embedding and head, fp16, ZeRO 3.
"""


def strategy_reference() -> str:
    """The bytes of docs/strategy.md."""
    return "\n".join([_INTRODUCTION, *_sections(), *_devices(), *_claims(), *_rules()])


def _sections() -> Iterator[str]:
    schema = json.loads(json_schema())
    for path, section in _walk(Strategy, ()):
        keys = (schema if section is Strategy else schema["$defs"][section.__name__])["properties"]
        yield f"## {'.'.join(path) or 'The top level'}\n"
        yield f"{(section.__doc__ or '').strip()}\n"
        rows = [
            (
                f"`{key}`",
                _legal((*path, key), keys[key]),
                _default((*path, key), field, keys[key]),
                field.description or _first_line(find_section((*path, key))),
            )
            for key, field in section.written_keys().items()
        ]
        yield _table(("key", "legal values", "default", "meaning"), rows)


def _walk(section: type[Section], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    yield path, section
    for key in section.written_keys():
        inner = find_section((*path, key))
        if inner is not None:
            yield from _walk(inner, (*path, key))


def _legal(path: tuple[str, ...], schema: dict[str, Any]) -> str:
    match path:
        case ("cluster", "gpu"):
            return "[a name](#devices-by-name), or [a section](#clustergpu)"
        case ("cluster", "links", "intra_host" | "inter_host"):
            return "a number with a unit, for example 100 Gbps, or [a name](#links-by-name)"
        case ("parallel",):
            return "[a section](#parallel), or a short name"
        case ("runtime", "recompute"):
            return "none, layer, attention, experts, or {layers: N}"
        case ("claims",):
            return "a list of [claims](#claims)"
        case ("data", "mix"):
            return "a list of [corpora](#datamix), or null"
        case ("claims", "quantity"):
            return "one of [these](#quantities-of-claims)"
        case ("claims", "value"):
            return "a number, with a unit where the quantity has one"
        case ("claims", "with"):
            return "a mapping of dotted keys to values"
        case _ if find_section(path) is not None:
            return f"[a section](#{''.join(path)})"
        case _:
            return ", or ".join(dict.fromkeys(describe(branch) for branch in _branches(schema)))


def _branches(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for branch in schema.get("anyOf", [schema]):
        kinds = branch.get("type")
        if isinstance(kinds, list):  # ["integer", "null"]: the bounds are the number's
            yield from ({"type": kind} if kind == "null" else {**branch, "type": kind} for kind in kinds)
        else:
            yield branch


def _first_line(section: type[Section] | None) -> str:
    return (section.__doc__ or "").strip().partition("\n")[0] if section is not None else ""


def _default(path: tuple[str, ...], field: FieldInfo, schema: dict[str, Any]) -> str:
    if field.is_required():
        return "required"
    if path in (("model", "num_key_value_heads"), ("model", "head_dim")):
        return "derived"
    if find_section(path) is not None and path != ("data", "mix"):
        return "none" if path == ("claims",) else "its keys' defaults"
    return f"`{_yaml(schema.get('default', {}))}`"


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    return "{}" if value == {} else str(value)


def _devices() -> Iterator[str]:
    yield "## Devices by name\n"
    yield (
        "From `planner/hardware/devices.yaml`. Peaks are dense rates, memory is what the driver reports in\n"
        "all. Case, dashes and spaces of a name do not matter. `gpu: {name: H100, memory: 90 GB}` overrides\n"
        "a figure. `--hardware FILE` and `~/.config/switchyard/hardware.yaml` add devices.\n"
    )
    rows = [
        (
            f"`{name}`",
            ", ".join(map(str, entry.get("aliases") or ())),
            str(entry["memory"]),
            str(entry["memory_bandwidth"]),
            ", ".join(f"{precision} {rate}" for precision, rate in entry["peak"].items()),
            str(entry["source"]),
        )
        for name, entry in devices().items()
    ]
    yield _table(("name", "also", "memory", "memory bandwidth", "peak", "source"), rows)
    yield "## Links by name\n"
    yield "Of one GPU, one way; for `cluster.links`.\n"
    links = [
        (f"`{link.name}`", format_quantity(link.bytes_per_s, "bytes/s"), link.source)
        for link in shipped_links().values()
    ]
    yield _table(("name", "bandwidth", "source"), links)


def _claims() -> Iterator[str]:
    yield "## Quantities of claims\n"
    yield "What a claim may state. `python -m launch audit` checks claims: see [audit](how-to/audit.md).\n"
    yield (
        "With `with`, a quantity is that of the changed plan, on all hosts: `{quantity: gpus, with: "
        "{parallel.dp: 2},\nvalue: 136}`. Read under their old names: "
        f"{', '.join(f'`{name}`' for name in OLD_QUANTITIES)}.\n"
    )
    by_dimension: dict[Dimension, list[str]] = {}
    for name, dimension in CLAIM_QUANTITIES.items():
        by_dimension.setdefault(dimension, []).append(f"`{name}`")
    rows = [
        ("none" if dimension == "count" else legal_units(dimension), ", ".join(names))
        for dimension, names in by_dimension.items()
    ]
    yield _table(("unit", "quantities"), rows)


def _rules() -> Iterator[str]:
    yield "## Rules\n"
    yield (
        "What must hold beyond the form of each key. A rule is one function; its message names the legal\n"
        "values. Causes and fixes: SW2xx in [errors](errors.md).\n"
    )
    for title, module in (
        ("Degrees and cluster", layout),
        ("Stages", stages),
        ("TP groups on hosts", hosts),
        ("Model", model),
        ("`dispatch: deepspeed`", deepspeed_dispatch),
        ("`force_routing`", forced_routing),
        ("Batch, schedule, resume", batch),
    ):
        file = f"{module.__name__.replace('.', '/')}.py"
        names = ", ".join(f"`{rule.__name__}`" for rule in module.RULES)
        yield f"- {title} (`{file}`): {names}"
    yield ""


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
