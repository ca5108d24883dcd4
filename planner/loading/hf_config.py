"""Hugging Face config.json as a model section, by the tables of planner/loading/hf_families.py.

A key in none of the tables is a Problem: it may change the mathematics.
"""

from dataclasses import dataclass, field, replace

from planner.loading.hf_families import FAMILIES, HARMLESS, Family
from planner.loading.hf_unsupported import find_missing_features, find_unsupported
from planner.loading.source_file import read_source
from planner.problems import Problem, StrategyError
from planner.rules.partial import STAND_IN
from planner.strategy.config_names import OURS_ALONE
from planner.units import shorten
from planner.yaml12 import Entry, Mapping, Origin


@dataclass(frozen=True, kw_only=True)
class ConvertedModel:
    """The model section of a config: its entries in our names, the ignored keys, and problems.

    balance: training.balance where the routers have what one kind of it trains; None: either kind.
    """

    model_type: str
    section: Mapping
    balance: str | None = None
    ignored: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = field(default=())


def read_config(folder: str) -> ConvertedModel:
    """The config.json of a folder (or that file itself); `problems` says which keys are not supported.

    Raises:
        StrategyError: if it is missing, or not a config.
    """
    source = read_source(folder)
    if source.kind != "model":
        problem = Problem(
            code="SW155",
            found=f"this is {source.title}, not the config of a model",
            expected="a model's folder, or its config.json",
            fix="give the folder of the model",
            file=str(source.file),
        )
        raise StrategyError([problem])
    taken = convert_config(source.root, str(source.file), "", source=f"--from {folder}")
    return replace(taken, problems=(*source.problems, *taken.problems))


def convert_config(
    config: Mapping, file: str | None, prefix: str, source: str | None = None
) -> ConvertedModel:
    """The entries of a config in our names.

    Args:
        prefix: of the paths in Problems, `model.` for one that is pasted into a strategy.
        source: where later Problems say a value comes from; None: its line.
    """
    entries = config.entries
    kind = entries["model_type"].value if "model_type" in entries else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        line = entries["model_type"].line if "model_type" in entries else None
        found = "is missing" if kind is None else f"{shorten(str(kind))} is not supported"
        missing = find_missing_features(str(kind), config)
        by_hand = (
            "write the model section by hand, as in ds_configs/, if its layers are those of a listed family"
        )
        problem = Problem(
            code="SW152",
            path=f"{prefix}model_type",
            line=line,
            found=found,
            expected=f"one of: {', '.join(FAMILIES)}",
            fix=f"choose another model: no strategy expresses {', '.join(missing)}" if missing else by_hand,
            file=file,
        )
        return ConvertedModel(model_type=str(kind), section=Mapping(), problems=(problem,))
    family = FAMILIES[kind]
    problems = [
        Problem(
            code=fault.code,
            path=f"{prefix}{fault.key}",
            line=entries[fault.key].line if fault.key in entries else None,
            found=fault.found,
            expected=fault.expected,
            fix=fault.fix,
            file=file,
        )
        for fault in find_unsupported(kind, config, (*family.names, *family.more, *HARMLESS))
    ]
    section = Mapping()
    for ours, value in family.defaults.items():
        section.entries[ours] = Entry(value=value, line=None, override=source)
    for key, ours in family.names.items():
        entry = entries.get(key)
        if entry is None:
            continue
        # null is "derived", or none at all, which the schema tells; beside another spelling it says nothing.
        if entry.value is None and any(_has_value(entries, other) for other in _spellings(family, ours, key)):
            continue
        origin = Origin(file=file, key=f"{prefix}{key}", usual=family.defaults.get(ours))
        section.entries[ours] = Entry(value=entry.value, line=entry.line, override=source, origin=origin)
    _convert_rope(entries, section, source)
    for ours, value in family.fixed.items():
        section.entries[ours] = Entry(value=value, line=None, override=source)
    if "first_dense_layers" not in family.names:
        _convert_dense_layers(entries, section, source)
    bias = entries.get("router_bias")
    return ConvertedModel(
        model_type=kind,
        section=section,
        balance="bias" if bias is not None and bias.value is True else None,
        ignored=tuple(key for key in entries if key in HARMLESS or key.startswith("_")),
        problems=tuple(problems),
    )


def _spellings(family: Family, ours: str, key: str) -> tuple[str, ...]:
    """The other keys of a config that may hold the same value."""
    others = tuple(other for other, name in family.names.items() if name == ours and other != key)
    return (*others, "rope_parameters") if ours == "rope_theta" else others


def _has_value(entries: dict[str, Entry], key: str) -> bool:
    return key in entries and entries[key].value is not None


def with_model(root: Entry, file: str | None, folder: str | None) -> tuple[Entry, ConvertedModel | None]:
    """The strategy with the model of a folder, or of a config that is pasted under `model:`.

    Keys that only our own configs have (dispatch, capacity_factor, embedding_std, init_from) stay as written,
    as does training.balance, which a config with router_bias otherwise makes bias. Also returns what was
    taken, None where there is no config. Keys with a problem are left out; a model of which nothing is known
    has a stand-in, and its section is empty.
    """
    assert isinstance(root.value, Mapping)
    written = root.value.entries.get("model")
    pasted = written.value if written is not None and isinstance(written.value, Mapping) else None
    if folder is not None:
        taken = _try_to_read(folder)
        kept = {key: entry for key, entry in (pasted or Mapping()).entries.items() if key in OURS_ALONE}
    elif pasted is not None and "model_type" in pasted.entries:
        kept = {key: entry for key, entry in pasted.entries.items() if key in OURS_ALONE}
        theirs = {key: entry for key, entry in pasted.entries.items() if key not in kept}
        taken = convert_config(Mapping(entries=theirs), file, "model.")
    else:
        return root, None
    line = written.line if written is not None else None
    section = taken.section.entries
    if not section:
        section = {key: Entry(value=value, line=line) for key, value in STAND_IN["model"].items()}
    model = Entry(value=Mapping(entries={**section, **kept}), line=line)
    sections = {**root.value.entries, "model": model}
    training = sections.get("training")
    if taken.balance is not None and training is not None and isinstance(training.value, Mapping):
        source = None if folder is None else f"--from {folder}"
        balance = {"balance": Entry(value=taken.balance, line=model.line, override=source)}
        value = Mapping(entries={**balance, **training.value.entries})
        sections["training"] = Entry(value=value, line=training.line)
    return Entry(value=Mapping(entries=sections), line=root.line), taken


def _try_to_read(folder: str) -> ConvertedModel:
    try:
        return read_config(folder)
    except StrategyError as error:
        return ConvertedModel(model_type="", section=Mapping(), problems=error.problems)


def _convert_rope(entries: dict[str, Entry], section: Mapping, source: str | None) -> None:
    """transformers 5 writes `rope_parameters: {rope_theta, rope_type}`."""
    rope = entries.get("rope_parameters")
    if rope is not None and isinstance(rope.value, Mapping) and "rope_theta" in rope.value.entries:
        theta = rope.value.entries["rope_theta"]
        section.entries["rope_theta"] = Entry(value=theta.value, line=theta.line, override=source)


def _convert_dense_layers(entries: dict[str, Entry], section: Mapping, source: str | None) -> None:
    """Qwen3-MoE lists its dense layers; here they lead. Without any, intermediate_size has no meaning."""
    dense = entries.get("mlp_only_layers")
    layers = () if dense is None else dense.plain()
    count = len(layers) if isinstance(layers, tuple) and layers == tuple(range(len(layers))) else 0
    if count:
        assert dense is not None
        section.entries["first_dense_layers"] = Entry(value=count, line=dense.line, override=source)
    else:
        section.entries.pop("intermediate_size", None)
