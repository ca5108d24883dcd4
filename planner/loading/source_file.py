"""Source file of `--from`: a Hugging Face model or a DeepSpeed configuration, judged by its content."""

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from planner.files import read_limited
from planner.loading.option_text import read_options
from planner.loading.programs import DEEPSPEED, find_program
from planner.loading.toml_document import looks_like_toml, read_toml, why_not_toml
from planner.problems import Problem, StrategyError
from planner.units import shorten
from planner.yaml12 import MAX_BYTES, Document, Mapping

_EXPECTED = "a model's folder, its config.json, or the configuration of DeepSpeed or another program"
_MODEL = frozenset({"model_type", "architectures", "hidden_size", "num_hidden_layers"})
_STRATEGY = frozenset({"cluster", "model", "training", "parallel"})
_NAMES = ("ds_config.json", "deepspeed_config.json", "deepspeed.json", "ds_config.yaml")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """What `--from` names.

    kind: program: another one that trains, which `title` names. argument: as it was written, for the place of
    later Problems. problems: of the form of a model's JSON; the keys without one are there to be checked.
    """

    kind: Literal["model", "deepspeed", "program"]
    title: str
    file: Path
    root: Mapping
    argument: str
    problems: tuple[Problem, ...] = ()


def read_source(argument: str) -> SourceFile:
    """The file, or the file in a folder, by its content.

    Raises:
        StrategyError: with one Problem if it is anything else, or with every mistake of JSON without keys.
    """
    file = _find(Path(argument))
    text = _read(file)
    if file.suffix.lower() == ".toml" and (why := why_not_toml(text)) is not None:
        raise StrategyError([_not_toml(file, *why)])
    if (table := read_toml(text) if looks_like_toml(text) else None) is not None:
        return _of_program(file, table, argument)
    document = Document(text, str(file))
    root = document.root.value if document.root is not None else None
    looks_like_json = text.lstrip()[:1] == "{"
    is_model = isinstance(root, Mapping) and bool(set(root.entries) & _MODEL)
    if document.problems and looks_like_json and not is_model:
        raise StrategyError(document.problems)
    if not isinstance(root, Mapping) or (document.problems and not looks_like_json):
        options = read_options(text)
        if options is not None and find_program(options) is not None:
            return _of_program(file, options, argument)
    if document.problems and not looks_like_json and file.suffix.lower() in (".yaml", ".yml"):
        raise StrategyError(document.problems)
    if not isinstance(root, Mapping) or (document.problems and not looks_like_json):
        raise StrategyError([_unreadable(file, "not a config: the top level is not an object")])
    keys = set(root.entries)
    program = find_program(root)
    if program is None and (keys & _MODEL or not keys):
        return SourceFile(
            kind="model",
            title="the config of a model",
            file=file,
            root=root,
            argument=argument,
            problems=tuple(document.problems),
        )
    if program is None and len(keys & _STRATEGY) > 1:
        raise StrategyError([_other(file, "a strategy", f"python -m launch plan {shlex.quote(str(file))}")])
    return _of_program(file, root, argument)


def _of_program(file: Path, root: Mapping, argument: str) -> SourceFile:
    program = find_program(root)
    if program is None:
        raise StrategyError([_other(file, _guess(root.entries), "give one of these")])
    kind: Literal["deepspeed", "program"] = "deepspeed" if program == DEEPSPEED else "program"
    return SourceFile(kind=kind, title=program, file=file, root=root, argument=argument)


def find_program_file(argument: str) -> SourceFile | None:
    """The configuration of DeepSpeed or of another program that `--from` names; None for anything else."""
    try:
        source = read_source(argument)
    except StrategyError:
        return None  # reported where the model is read
    return source if source.kind != "model" else None


def find_toml(text: str, file: str | None) -> Problem | None:
    """The Problem of a strategy in TOML, which most often is a configuration of torchtitan."""
    root = read_toml(text) if looks_like_toml(text) else None
    if root is None:
        return None
    other = find_other_config(root, file) if file is not None else None
    return other or Problem(
        code="SW102",
        line=1,
        found="this is TOML, not YAML",
        expected="a YAML mapping, as in ds_configs/",
        fix="write the same in YAML: a [section] as `section:`, and its keys below as `  key: value`",
        file=file,
    )


def find_other_config(root: Mapping, file: str) -> Problem | None:
    """The Problem of a strategy that is another program's file, which `--from` reads."""
    keys = set(root.entries)
    is_model = "model_type" in keys and not keys & _STRATEGY
    what = find_program(root) or ("the config of a model" if is_model else None)
    if what is None:
        return None
    return Problem(
        code="SW109",
        found=f"this is {what}, not a strategy",
        expected="sections such as cluster: and model:",
        fix=f"python -m launch plan --from {shlex.quote(file)}",
        file=file,
    )


def _find(path: Path) -> Path:
    """The file that is meant: of a folder its config.json, else its DeepSpeed configuration."""
    if not path.is_dir():
        return path
    if (path / "config.json").exists():
        return path / "config.json"
    if (path / "strategy.yaml").is_file():  # of a run or a launch; its ds_config.json is made from it
        strategy = path / "strategy.yaml"
        raise StrategyError([_other(path, "the folder of a run", f"python -m launch plan {strategy}")])
    return next((path / name for name in _NAMES if (path / name).is_file()), path / "config.json")


def _read(file: Path) -> str:
    try:
        # JSON may be indented with tabs, YAML may not; no JSON string contains a bare tab.
        return read_limited(file, MAX_BYTES).decode("utf-8-sig").replace("\t", " ")
    except UnicodeDecodeError:
        found = "the file cannot be read: it is not text"
    except (OSError, ValueError) as error:
        found = f"the file cannot be read: {(getattr(error, 'strerror', None) or str(error)).lower()}"
    raise StrategyError([_unreadable(file, found)])


def _guess(keys: Collection[str]) -> str:
    if "added_tokens" in keys:
        return "a tokenizer"
    if "weight_map" in keys:
        return "the index of a model's weights"
    shown = ", ".join(sorted(map(str, keys))[:5])
    return f"a file with the keys {shown}" if keys else "an empty file"


def _unreadable(file: Path, found: str) -> Problem:
    return Problem(
        code="SW151", found=found, expected=_EXPECTED, fix="give the folder that holds it", file=str(file)
    )


def _not_toml(file: Path, found: str, line: int | None) -> Problem:
    return Problem(
        code="SW102",
        line=line,
        found=f"this is not TOML: {shorten(found, 120)}",
        expected="TOML, as torchtitan writes it",
        fix="correct this line",
        file=str(file),
    )


def _other(file: Path, what: str, fix: str) -> Problem:
    return Problem(code="SW155", found=f"this is {what}", expected=_EXPECTED, fix=fix, file=str(file))
