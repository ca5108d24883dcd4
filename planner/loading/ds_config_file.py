"""Configuration of another program as keys of a strategy, with what is left out and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from planner.loading.foreign_defaults import deepspeed_defaults, program_defaults
from planner.loading.foreign_layout import zero_stage
from planner.loading.foreign_meaning import AUTO, Meaning, number, write
from planner.loading.foreign_names import (
    find_foreign,
    find_meaning,
    find_value,
    is_section,
    own_tails,
    plain_name,
)
from planner.loading.foreign_recipe import share_of_steps
from planner.loading.interpolations import find_interpolations, with_resolved
from planner.loading.off_spellings import is_off as says_off
from planner.loading.programs import OTHER_MEANINGS
from planner.loading.refused_keys import find_refusal, is_off
from planner.loading.source_file import SourceFile
from planner.loading.trial import is_legal
from planner.loading.validation_messages import legal_values
from planner.loading.value_fixes import propose_value
from planner.problems import Problem
from planner.strategy.sources import Sources
from planner.yaml12 import Entry
from planner.yaml12_writer import flow_yaml

_ACCUMULATION = "gradient_accumulation_steps"
_LAST = {"scheduler": 1, _ACCUMULATION: 2}
_FORMULA = "training.micro_batch follows: global_batch / (accumulation × data-parallel size)"


@dataclass(frozen=True, kw_only=True)
class DsConfig:
    """writes: dotted keys of a strategy and their values; left_out: dotted keys there, and why; problems: of
    values that are not legal."""

    writes: Mapping[str, Any]
    left_out: Mapping[str, str]
    problems: tuple[Problem, ...] = ()


def convert_ds_config(source: SourceFile, strategy: Mapping[str, Any]) -> DsConfig:
    """What the configuration of DeepSpeed or another program says of a strategy.

    `strategy`: the strategy that takes it over, as plain data, whose degrees relate accumulation to
    micro_batch; empty without one.
    """
    whole = Entry(value=source.root, line=None)
    interpolations = find_interpolations(whole)
    config = with_resolved(whole, interpolations).plain()
    problems: list[Problem] = []
    writes: dict[str, Any] = {}
    left_out = {
        ".".join(one.path): f"{one.text}: nothing here says what it comes to"
        for one in interpolations
        if one.entry is None
    }
    strategy = _without_width(strategy, config)
    said: dict[str, str] = {}  # by which key there a key here was last written
    # Accumulation follows from the batches, and DeepSpeed's schedulers replace the optimizer's rate, whatever
    # their order in the file.
    for key, value in sorted(config.items(), key=lambda item: _LAST.get(item[0], 0)):
        refusal = find_refusal(key)
        if is_off(key, value) and (refusal is not None or isinstance(value, dict)) and key != "bf16":
            continue
        if refusal is not None:
            is_auto = isinstance(value, dict) and value.get("enabled") == AUTO
            why = f"auto leaves it to the Hugging Face Trainer; {refusal.why}" if is_auto else refusal.why
            left_out[key] = f"{flow_yaml(value)}: {why}"
            continue
        if key in OTHER_MEANINGS.get(source.title, {}):
            left_out[key] = f"{flow_yaml(value)}: {OTHER_MEANINGS[source.title][key]}"
            continue
        data = _merged(_merged(strategy, sections_of(writes)), config)
        for path, item, meaning in _meanings((key,), value, data):
            name = ".".join(path)
            if meaning is None:
                refusal = find_refusal(path[-1])
                if item is not None and (refusal is None or not is_off(path[-1], item)):
                    why = "has no key in a strategy" if refusal is None else refusal.why
                    left_out[name] = f"{flow_yaml(item)}: {why}"
                continue
            if meaning.wrong:
                problems.append(_problem(source, path, item, meaning.wrong))
                continue
            if key == _ACCUMULATION and item != AUTO and not strategy and "parallel.dp" not in meaning.writes:
                left_out[name] = f"{flow_yaml(item)}: {_FORMULA}"
                continue
            for here, converted in meaning.writes.items():
                if _is_hostfile(here, writes.get(here)):
                    left_out[name] = f"{flow_yaml(item)}: {said[here]} names the hosts"
                elif _is_hostfile(here, converted) or is_legal(here.split("."), converted):
                    if writes.get(here, converted) != converted:
                        left_out[said[here]] = f"{flow_yaml(writes[here])}: {name} sets {here}"
                    writes[here], said[here] = converted, name
                elif find_foreign(path) is None:
                    left_out[name] = f"{flow_yaml(converted)} is not legal for {here}"
                else:
                    target = tuple(here.split("."))
                    meant = propose_value(target, converted, data)
                    if meant is None or not says_off(converted):
                        is_same = meant is not None and converted == item
                        written = meant.value if meant is not None and is_same else None
                        problems.append(_problem(source, path, item, legal_values(target), written))
                        continue
                    writes[here], said[here] = meant.value, name
                    left_out[name] = f"{flow_yaml(item)}: {here} is {flow_yaml(meant.value)}{meant.hint}"
            for here, why in meaning.asks.items():
                left_out[name] = f"{flow_yaml(item)}: {here} is not known ({why})"
            if meaning.refused or meaning.no_effect or meaning.note:
                left_out[name] = f"{flow_yaml(item)}: {meaning.refused or meaning.no_effect or meaning.note}"
    left_out.update(
        deepspeed_defaults(config) if source.kind == "deepspeed" else program_defaults(source.title, config)
    )
    return DsConfig(writes=writes, left_out=left_out, problems=tuple(problems))


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


def _without_width(strategy: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The strategy without the width of its experts where the configuration has one of its own.

    Beside it Megatron's ffn_hidden_size would be the width of dense layers.
    """
    model = strategy.get("model")
    if not isinstance(model, dict) or not _has_key(config, "ffn_hidden_size"):
        return strategy
    kept = {key: value for key, value in model.items() if key != "moe_intermediate_size"}
    return {**strategy, "model": kept}


def _has_key(config: Mapping[str, Any], name: str) -> bool:
    return any(
        plain_name(str(key)) == name or (isinstance(value, dict) and _has_key(value, name))
        for key, value in config.items()
    )


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
    named = ("training", *path) if path == ("optimizer",) and isinstance(value, str) else path
    entry = find_foreign(named)
    if entry is not None and not is_section(path, value):
        meaning = find_meaning(named, value, data)
        yield path, value if not isinstance(value, dict) else _main(value), meaning
        for lost in meaning.lost if meaning is not None else ():
            yield from _meanings((*path, lost), value[lost], data)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _meanings((*path, str(key)), item, data)
    else:
        yield path, value, _own_meaning(path[-1], value, data)


def _is_hostfile(here: str, value: Any) -> bool:
    """A file that is read, and what is wrong in it told, where the strategy is."""
    return here == "cluster.hosts" and isinstance(value, dict) and isinstance(value.get("hostfile"), str)


def _own_meaning(key: str, value: Any, data: Mapping[str, Any]) -> Meaning | None:
    """Of a key that has the same name here; None if none has."""
    own = own_tails().get(plain_name(key))
    if own == "parallel.zero_stage":
        return zero_stage(value, lambda wanted: find_value(data, wanted))
    if own is None or not own.startswith(("model.", "training.")):
        return None
    part = number(value)
    if own == "training.warmup_steps" and part is not None and 0 < part < 1:  # since transformers 5
        return share_of_steps(value, lambda wanted: find_value(data, wanted))
    if own == "model.capacity_factor" and part is not None and part > 0:
        return Meaning(writes={"model.dispatch": "capacity", own: value})
    if own == "model.num_experts" and isinstance(value, (list, tuple)) and len(set(value)) == 1:
        return Meaning(writes={own: value[0]})  # DeepSpeed's examples list it for each layer
    return write(own, value)


def _main(section: Mapping[str, Any]) -> Any:
    """What a section like {stage: 2, …} or {enabled: true} mainly says."""
    return section.get("stage", section.get("enabled", dict(section)))


def _problem(source: SourceFile, path: tuple[str, ...], value: Any, legal: str, meant: Any = None) -> Problem:
    """`meant`: the legal value that the file seems to mean; None where nothing says one."""
    fix = f"correct {path[-1]} in {source.file.name}, or remove it there and write the key of the strategy"
    if meant is not None:
        fix = f"write {path[-1]}: {flow_yaml(meant)} in {source.file.name}"
    problem = Problem(
        code="SW156",
        path=".".join(path),
        found=f"{flow_yaml(value)} is not legal",
        expected=legal,
        fix=fix,
    )
    return Sources(file=str(source.file), root=Entry(value=source.root, line=None)).locate(problem, path)
