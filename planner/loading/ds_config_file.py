"""DeepSpeed configuration of another program as keys of a strategy, with what is left out and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from planner.loading.foreign_meaning import Meaning
from planner.loading.foreign_names import find_foreign, find_meaning, own_tails
from planner.loading.refused_keys import find_refusal, is_off
from planner.loading.source_file import SourceFile
from planner.loading.trial import is_legal
from planner.loading.value_examples import example_of
from planner.yaml12 import Entry
from planner.yaml12 import Mapping as YamlMapping
from planner.yaml12_writer import flow_yaml

# Keys whose default in DeepSpeed 0.19.8 or torch is another than here: (key there, key here).
_OTHER_DEFAULTS = (
    ("optimizer.params.betas", "training.optimizer.betas"),
    ("optimizer.params.weight_decay", "training.optimizer.weight_decay"),
    ("scheduler.params.cos_min_ratio", "training.min_learning_rate"),
)


_ACCUMULATION = "gradient_accumulation_steps"
_LAST = {"scheduler": 1, _ACCUMULATION: 2}
_FORMULA = "training.micro_batch follows: global_batch / (accumulation × data-parallel size)"


@dataclass(frozen=True, kw_only=True)
class DsConfig:
    """writes: dotted keys of a strategy and their values; left_out: dotted keys there, and why."""

    writes: Mapping[str, Any]
    left_out: Mapping[str, str]


def convert_ds_config(root: YamlMapping, strategy: Mapping[str, Any]) -> DsConfig:
    """What a DeepSpeed configuration says of a strategy.

    `strategy`: the strategy that takes it over, as plain data, whose degrees relate accumulation to
    micro_batch; empty without one.
    """
    config = {key: entry.plain() for key, entry in root.entries.items()}
    writes: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    said: dict[str, str] = {}  # by which key there a key here was last written
    # Accumulation follows from the batches, and DeepSpeed's schedulers replace the optimizer's rate, whatever
    # their order in the file.
    for key, value in sorted(config.items(), key=lambda item: _LAST.get(item[0], 0)):
        refusal = find_refusal(key)
        if is_off(key, value) and (refusal is not None or isinstance(value, dict)) and key != "bf16":
            continue
        if refusal is not None:
            left_out[key] = f"{flow_yaml(value)}: {refusal.why}"
            continue
        data = {**_merged(strategy, sections_of(writes)), **config}
        for path, item, meaning in _meanings((key,), value, data):
            name = ".".join(path)
            if meaning is None:
                left_out[name] = f"{flow_yaml(item)}: has no key in a strategy"
                continue
            if key == _ACCUMULATION and not strategy and "parallel.dp" not in meaning.writes:
                left_out[name] = f"{flow_yaml(item)}: {_FORMULA}"
                continue
            for here, converted in meaning.writes.items():
                if is_legal(here.split("."), converted):
                    if writes.get(here, converted) != converted:
                        left_out[said[here]] = f"{flow_yaml(writes[here])}: {name} sets {here}"
                    writes[here], said[here] = converted, name
                else:
                    left_out[name] = f"{flow_yaml(converted)} is not legal for {here}"
            for here, why in meaning.asks.items():
                left_out[name] = f"{flow_yaml(item)}: {here} is not known ({why})"
            if meaning.refused or meaning.no_effect or meaning.note:
                left_out[name] = f"{flow_yaml(item)}: {meaning.refused or meaning.no_effect or meaning.note}"
    left_out.update(_unwritten(config))
    return DsConfig(writes=writes, left_out=left_out)


def with_ds_config(root: Entry, source: SourceFile) -> tuple[Entry, tuple[str, ...]]:
    """The strategy with the keys of a DeepSpeed configuration in place of its own, and what is left out."""
    found = convert_ds_config(source.root, root.plain())
    origin = f"--from {source.argument}"
    for here, value in found.writes.items():
        root = _put(root, here.split("."), _entry(value, origin))
    return root, tuple(f"{key}: {why}" for key, why in found.left_out.items())


def sections_of(writes: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections."""
    sections: dict[str, Any] = {}
    for here, value in writes.items():
        *before, last = here.split(".")
        place = sections
        for name in before:
            place = place.setdefault(name, {})
        place[last] = value
    return sections


def _merged(sections: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(sections)
    for key, value in more.items():
        inside = merged.get(key)
        merged[key] = (
            _merged(inside, value) if isinstance(inside, dict) and isinstance(value, dict) else value
        )
    return merged


def _meanings(
    path: tuple[str, ...], value: Any, data: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], Any, Meaning | None]]:
    """Each key of a section with its meaning; a section that has one itself comes with its other keys."""
    entry = find_foreign(path)
    if entry is not None:
        meaning = find_meaning(path, value, data)
        yield path, value if not isinstance(value, dict) else _main(value), meaning
        for lost in meaning.lost if meaning is not None else ():
            yield from _meanings((*path, lost), value[lost], data)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _meanings((*path, str(key)), item, data)
    else:
        own = own_tails().get(path[-1])
        yield path, value, None if own is None else Meaning(writes={own: value})


def _main(section: Mapping[str, Any]) -> Any:
    """What a section like {stage: 2, …} or {enabled: true} mainly says."""
    return section.get("stage", section.get("enabled", dict(section)))


def _unwritten(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for theirs, here in _OTHER_DEFAULTS:
        section, _, last = theirs.rpartition(".")
        place: Any = config
        for key in section.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict) and last not in place:
            default = flow_yaml(example_of(here.split(".")))
            yield theirs, f"is not written; {here} is {default} unless you set it"
    scheduler = config.get("scheduler")
    params = scheduler.get("params") if isinstance(scheduler, dict) else None
    if isinstance(params, dict) and "warmup_type" not in params:
        yield "scheduler.params.warmup_type", "is not written, which is log there; the warm-up is linear here"


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
