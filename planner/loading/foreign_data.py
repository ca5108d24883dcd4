"""Data as other programs name them: lists of data sets, blends with weights, packing."""

from collections.abc import Mapping
from typing import Any

from planner.loading.foreign_meaning import Find, Meaning, shown, write
from planner.strategy.mix_spellings import PATH_NAMES, WEIGHT_NAMES, as_mix, as_paths, find_parts, has_weights

# How Axolotl and LLaMA-Factory name the form of records -> data.format
_CHAT = ("chat_template", "sharegpt", "chatml", "openai", "messages")
_PROMPT = ("alpaca", "alpaca_chat", "input_output", "instruction", "gpteacher", "oasst", "prompt_completion")
_TEXT = ("completion", "pretrain", "text")
_READ = {*PATH_NAMES, *WEIGHT_NAMES, "type", "ds_type", "split", "field", "text_column"}
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst", ".md")


def corpora(value: Any, find: Find) -> Meaning:
    """Files, folders, or a blend with weights: data.path, or data.mix where there are weights."""
    if value is None:
        return write("data.path", value)
    parts = find_parts(value) or ([(value, None)] if isinstance(value, str) else None)
    if parts is None:
        return Meaning(writes={"data.path": value})
    writes: dict[str, Any] = {}
    mix = as_mix(parts) if has_weights(parts) else None
    read = parts if mix is None else [(part["path"], part["weight"]) for part in mix]
    if mix is not None and len(mix) > 1:
        writes["data.mix"] = mix
    else:
        writes["data.path"] = _on_the_hub(as_paths(read), find)
    items = [item for item in _items(value) if isinstance(item, Mapping)]
    kinds = {_format(item.get("type")) for item in items if item.get("type") is not None}
    notes = [_note(as_paths(parts))]
    if len(kinds) == 1 and None not in kinds:
        (kind,) = kinds
        if kind != "text":
            writes["data.format"] = kind
    elif kinds:
        notes.append("data.format is text, chat or prompt, the same for all files")
    fields = {str(item[key]) for item in items for key in ("field", "text_column") if key in item}
    if len(fields) == 1 and "data.format" not in writes:
        writes["data.text_field"] = fields.pop()
    lost = tuple(dict.fromkeys(str(key) for item in items for key in item if key not in _READ))
    return Meaning(writes=writes, lost=lost, note="; ".join(filter(None, notes)))


def packing(value: Any, find: Find) -> Meaning:
    """Packing of samples, between which no token attends: on or off, documents stay on their own."""
    path = "data.packing"
    word = str(value).lower()
    if word in ("true", "bfd", "bfd_split", "bfd-requeue"):
        return Meaning(writes={path: "documents"})
    if word == "false":
        note = "each document attends to itself only; several short ones share a sequence"
        return Meaning(writes={path: "documents"}, note=note)
    if value == "wrapped":
        return Meaning(writes={path: "stream"})
    return write(path, value) if value is None else Meaning(asks={path: "stream or documents"})


def _items(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return _items(value["train"]) if "train" in value else (value,)
    return tuple(value) if isinstance(value, (list, tuple)) else ()


def _format(kind: Any) -> str | None:
    """data.format of the name of a form; None for one that has none here."""
    word = str(kind).lower().partition(".")[0].partition(":")[0]
    for name, words in (("chat", _CHAT), ("prompt", _PROMPT), ("text", _TEXT)):
        if word in words:
            return name
    return None


def _note(paths: Any) -> str:
    """What a name needs that is no file: a data set of the Hub, or the tokens of Megatron-LM."""
    listed = [path for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str)]
    if any(path.endswith((".bin", ".idx", "_document")) for path in listed):
        return "the text, not the tokens that Megatron-LM made of it (.bin, .idx)"
    if any(not path.endswith(_FILES) and not path.startswith(("/", ".", "~", "$")) for path in listed):
        return "a file, a folder, or a data set of the Hub: OWNER/NAME or OWNER/NAME:CONFIGURATION"
    return ""


# Names without an owner, as torchtitan's registry and the older ones of the Hub have them.
_OWNERS: Mapping[str, str] = {
    "c4": "allenai/c4:en",
    "openwebtext": "Skylion007/openwebtext",
    "wikitext": "Salesforce/wikitext:wikitext-103-raw-v1",
    "wikipedia": "wikimedia/wikipedia:20231101.en",
}


def _on_the_hub(paths: Any, find: Find) -> Any:
    """One name with its owner, and with its configuration where that is a key of its own."""
    configuration = find("dataset_config_name") or find("dataset_config")
    if not isinstance(paths, str) or paths.endswith(_FILES) or ":" in paths:
        return paths
    owned = _OWNERS.get(paths.lower(), paths)
    if not isinstance(configuration, str):
        return owned
    return f"{owned.partition(':')[0]}:{configuration}"


def dataset_configuration(value: Any, find: Find) -> Meaning:
    """The configuration of a data set of the Hub, which is written behind its name."""
    if value is None:
        return Meaning(no_effect="null is the only configuration")
    return Meaning(no_effect=f"it is the end of data.path, NAME:{shown(value)}")
