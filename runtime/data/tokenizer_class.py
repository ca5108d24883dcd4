"""Which class a folder's vocabulary is of, where no configuration beside it says so."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from runtime.data.naming import shell_path

CONFIG = "tokenizer_config.json"
CLASS_KEYS = {CONFIG: ("tokenizer_class",), "config.json": ("tokenizer_class", "model_type")}


class UnknownClass(NamedTuple):
    """What the folder lacks, and the fix."""

    found: str
    fix: str


def find_unknown_class(folder: Path) -> UnknownClass | None:
    """What keeps transformers from choosing a class for the vocabulary's files; None if nothing does."""
    if any(_read(folder / name).get(key) for name, keys in CLASS_KEYS.items() for key in keys):
        return None
    names = [name for name in ("vocab.json", "merges.txt", "vocab.txt") if (folder / name).is_file()]
    if names in (["vocab.json"], ["merges.txt"]):
        (missing,) = {"vocab.json", "merges.txt"} - set(names)
        found = f"{folder} has {names[0]} of a BPE tokenizer without its {missing}"
        return UnknownClass(found, f"copy {missing} from where {names[0]} came from")
    if not names:
        return None
    settings = _guess(folder, names)
    found = f"{folder} has {' and '.join(names)}, and nothing that says which tokenizer they are of"
    config, given = folder / CONFIG, _read(folder / CONFIG)
    text = json.dumps({**settings, **given}, ensure_ascii=False).replace("'", "\\u0027")
    fix = (
        f"if they are of a {settings['tokenizer_class']}, as it seems, say so: "
        f"printf '%s' '{text}' > {shell_path(config)}"
    )
    return UnknownClass(found, fix)


def _guess(folder: Path, names: list[str]) -> dict[str, str]:
    """The class and the end of a text, by the vocabulary's entries."""
    if "vocab.txt" in names:
        return {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]"}
    entries = _read(folder / "vocab.json").keys()
    if any(entry.endswith("</w>") for entry in entries):
        return {"tokenizer_class": "CLIPTokenizer", "eos_token": "<|endoftext|>"}
    if {"<s>", "</s>"} <= entries:
        return {"tokenizer_class": "RobertaTokenizer", "eos_token": "</s>"}
    if "<|im_end|>" in entries:
        return {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"}
    return {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
