"""Catalog of error codes, read from the YAML files of this folder; source of `explain` and docs/errors.md."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import yaml

CODE = re.compile(r"SW[1-9]\d\d")
# The hundreds of the codes, in the order of the errors page: digit -> file, heading.
GROUPS: Mapping[str, tuple[str, str]] = {
    "1": ("strategy", "Reading a strategy"),
    "2": ("rules", "Rules: layout, model, training"),
    "3": ("plan", "Plan, prediction, search, audit"),
    "4": ("launch", "Generating and starting a launch"),
    "5": ("preflight", "Preflight: hosts, GPUs, links"),
    "6": ("startup", "Starting a run"),
    "7": ("data", "Data and tokenizers"),
    "8": ("checkpoint", "Checkpoints and resume"),
    "9": ("training", "Training, generation, internal errors"),
}


@dataclass(frozen=True, kw_only=True)
class ErrorEntry:
    """What is known of one code: `example` is a message as it is printed."""

    code: str
    title: str
    cause: str
    example: str
    fix: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@lru_cache(maxsize=1)
def error_catalog() -> dict[str, ErrorEntry]:
    """Every code in ascending order.

    Raises:
        ValueError: if an entry is in another group's file.
    """
    entries = {}
    for digit, (name, _) in GROUPS.items():
        text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
        for code, fields in (yaml.safe_load(text) or {}).items():
            if not CODE.fullmatch(code) or code[2] != digit:
                raise ValueError(f"planner/errors/{name}.yaml: {code} is not of the form SW{digit}NN")
            stripped = {key: str(value).strip() for key, value in fields.items()}
            entries[code] = ErrorEntry(code=code, **stripped)
    return dict(sorted(entries.items()))
