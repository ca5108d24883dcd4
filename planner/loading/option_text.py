"""Options of a command line, in a shell script or a file of arguments, as the tree of a YAML document.

Megatron-LM is configured so. Nothing is run: variables are those that the text itself sets to plain values.
"""

import re
import shlex

from planner.yaml12 import Entry, Mapping
from planner.yaml12_scalars import resolve_scalar

MIN_OPTIONS = 3
_OPTION = re.compile(r"--([A-Za-z][\w-]*)(?:=(.*))?")
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=([^\s()$]+|\"[^\"$]*\"|'[^']*')\s*;?\s*")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# Options of several values, weights with files.
_LISTS = re.compile(r"(?:train_|valid_|test_)?data_path")


def read_options(text: str) -> Mapping | None:
    """The options with their values, true for those without one; None where the text has hardly any.

    Of an option that is given twice the last one counts, as programs have it.
    """
    entries: dict[str, Entry] = {}
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if assignment := _ASSIGNMENT.fullmatch(line.strip()):
            variables[assignment[1]] = assignment[2].strip("\"'")
            continue
        key, values = None, []
        for word in [*_words(line), "--"]:
            option = _OPTION.fullmatch(word)
            if option is None and word != "--":
                values.append(_VARIABLE.sub(lambda m: variables.get(m[1] or m[2], m[0]), word))
                continue
            if key is not None:
                entries[key] = Entry(value=_value(key, values), line=number)
            key = option[1].replace("-", "_") if option is not None else None
            values = [] if option is None or option[2] is None else [option[2]]
    return Mapping(entries=entries) if len(entries) >= MIN_OPTIONS else None


def _words(line: str) -> list[str]:
    """The words of a line of a script, without its comment, the brackets of arrays and names of programs."""
    plain = line.strip().removesuffix("\\").replace("=(", "=( ")
    try:
        words = shlex.split(plain, comments=True)
    except ValueError:  # a quote that ends on another line
        words = plain.replace('"', "").replace("'", "").split()
    words = [word.removesuffix(")") if word.startswith("-") or word[:1].isalnum() else word for word in words]
    return [
        word
        for word in words
        if word and word not in ("(", ")", "\\") and not word.endswith((".py", "(", "[@]}"))
    ]


def _value(key: str, values: list[str]) -> str | int | float | bool | None:
    if not values:
        return True
    if _LISTS.fullmatch(key) and len(values) > 1:
        return " ".join(values)
    try:
        return resolve_scalar(values[0])
    except ValueError:
        return values[0]
