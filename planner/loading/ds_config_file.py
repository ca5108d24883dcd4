"""Configuration of another program as keys of a strategy, with what is left out and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from planner.loading.foreign_meaning import AUTO, Meaning, number, write
from planner.loading.foreign_names import find_foreign, find_meaning, find_value, is_section, own_tails
from planner.loading.foreign_recipe import share_of_steps
from planner.loading.programs import AXOLOTL, LLAMA_FACTORY, MEGATRON, OTHER_MEANINGS, TRAINER
from planner.loading.refused_keys import find_refusal, is_off
from planner.loading.source_file import SourceFile
from planner.loading.trial import is_legal
from planner.loading.validation_messages import legal_values
from planner.loading.value_examples import example_of
from planner.problems import Problem
from planner.strategy.sources import Sources
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
    root = source.root
    config = {key: entry.plain() for key, entry in root.entries.items()}
    problems: list[Problem] = []
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
                if is_legal(here.split("."), converted):
                    if writes.get(here, converted) != converted:
                        left_out[said[here]] = f"{flow_yaml(writes[here])}: {name} sets {here}"
                    writes[here], said[here] = converted, name
                elif find_foreign(path) is None:
                    left_out[name] = f"{flow_yaml(converted)} is not legal for {here}"
                else:
                    problems.append(_problem(source, path, item, legal_values(tuple(here.split(".")))))
            for here, why in meaning.asks.items():
                left_out[name] = f"{flow_yaml(item)}: {here} is not known ({why})"
            if meaning.refused or meaning.no_effect or meaning.note:
                left_out[name] = f"{flow_yaml(item)}: {meaning.refused or meaning.no_effect or meaning.note}"
    left_out.update(_unwritten(config) if source.kind == "deepspeed" else _defaults(source.title, config))
    return DsConfig(writes=writes, left_out=left_out, problems=tuple(problems))


def with_ds_config(root: Entry, source: SourceFile) -> tuple[Entry, DsConfig] | None:
    """The strategy with the keys of another program's configuration in place of its own, and what else that
    says; None where neither has a model."""
    found = convert_ds_config(source, root.plain())
    has_model = isinstance(root.value, YamlMapping) and "model" in root.value.entries
    if not has_model and not any(key.startswith("model.") for key in found.writes):
        return None
    origin = f"--from {source.argument}"
    for here, value in found.writes.items():
        root = _put(root, here.split("."), _entry(value, origin))
    return root, found


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


def _own_meaning(key: str, value: Any, data: Mapping[str, Any]) -> Meaning | None:
    """Of a key that has the same name here; None if none has."""
    own = own_tails().get(key)
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


_BETAS = "training.optimizer.betas"
_SCHEDULE = "here it is a linear warm-up and a cosine"
# transformers' TrainingArguments, which LLaMA-Factory's extend.
_TRAINER = (
    ("learning_rate", 5e-5, "training.learning_rate"),
    ("weight_decay", 0, "training.optimizer.weight_decay"),
    ("adam_beta2", 0.999, _BETAS),
    ("warmup_steps", 0, "training.warmup_steps"),
    ("lr_scheduler_type", "linear", _SCHEDULE),
)
# Megatron-LM's arguments.py, transformers 5 and Axolotl's schemas: key there, its default there, and the key
# here or what is here instead.
DEFAULTS: Mapping[str, tuple[tuple[str, Any, str], ...]] = {
    MEGATRON: (
        ("moe_router_topk", 2, "model.num_experts_per_tok"),
        ("norm_epsilon", 1e-5, "model.rms_norm_eps"),
        ("weight_decay", 0.01, "training.optimizer.weight_decay"),
        ("adam_beta2", 0.999, _BETAS),
        ("moe_aux_loss_coeff", 0, "training.balance_loss"),
        ("lr_decay_style", "linear", _SCHEDULE),
        ("normalization", "LayerNorm", "here every norm is an RMSNorm"),
    ),
    TRAINER: _TRAINER,
    LLAMA_FACTORY: _TRAINER,
    AXOLOTL: (
        ("weight_decay", 0, "training.optimizer.weight_decay"),
        ("adam_beta2", 0.999, _BETAS),
    ),
}


def _defaults(title: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for theirs, default, here in DEFAULTS.get(title, ()):
        if theirs in config or theirs.replace("_", "-") in config:
            continue
        if theirs == "warmup_steps" and "warmup_ratio" in config:
            continue
        if "." in here:
            here = f"{here} is {flow_yaml(example_of(here.split('.')))} unless you set it"
        yield theirs, f"is not written, which is {flow_yaml(default)} there; {here}"


def _problem(source: SourceFile, path: tuple[str, ...], value: Any, legal: str) -> Problem:
    problem = Problem(
        code="SW156",
        path=".".join(path),
        found=f"{flow_yaml(value)} is not legal",
        expected=legal,
        fix=f"correct {path[-1]} in {source.file.name}, or remove it there and write the key of the strategy",
    )
    return Sources(file=str(source.file), root=Entry(value=source.root, line=None)).locate(problem, path)


def _unwritten(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    scheduler = config.get("scheduler")
    kind = scheduler.get("type") if isinstance(scheduler, dict) else None
    for theirs, here in _OTHER_DEFAULTS:
        if theirs.startswith("scheduler") and kind != "WarmupCosineLR":
            continue
        section, _, last = theirs.rpartition(".")
        place: Any = config
        for key in section.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict) and last not in place:
            default = flow_yaml(example_of(here.split(".")))
            yield theirs, f"is not written; {here} is {default} unless you set it"
    params = scheduler.get("params") if isinstance(scheduler, dict) else None
    if isinstance(params, dict) and "warmup_type" not in params and str(kind).startswith("Warmup"):
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
