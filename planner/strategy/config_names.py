"""Names of a model's config.json in Problems of a strategy that takes its model from there."""

import re
from collections.abc import Sequence
from dataclasses import replace

from planner.problems import Problem
from planner.yaml12 import Entry, Mapping

# Keys of our model section that no other config has. Where both have one, the strategy's own counts.
OURS_ALONE = frozenset({"dispatch", "capacity_factor", "embedding_std", "init_from"})
_KEY = re.compile(r"(?<![\w.])(model\.)?([a-z]\w*)(?![\w.]*=)")


def locate_in_config(problem: Problem, path: Sequence[str | int], root: Entry) -> Problem | None:
    """The Problem of a key of the model as one of the config: its file, line and names.

    None for a strategy that writes its own model, and for a key that the strategy or an override writes.
    """
    model = root.value.entries.get("model") if isinstance(root.value, Mapping) else None
    if model is None or not isinstance(model.value, Mapping) or len(path) < 2 or path[0] != "model":
        return None
    entries = model.value.entries
    names = {ours: entry.origin for ours, entry in entries.items() if entry.origin is not None}
    key = str(path[1])
    own = entries.get(key)
    if not names or key in OURS_ALONE or (own is not None and own.origin is None):
        return None
    origin = names[key] if own is not None else next(iter(names.values()))
    prefix = "model." if origin.key.startswith("model.") else ""  # pasted into the strategy

    def rename(match: re.Match[str]) -> str:
        dotted, name = match.groups()
        if name in names:
            theirs = names[name].key
            return theirs if dotted else theirs.removeprefix(prefix)
        is_of_config = dotted and name not in OURS_ALONE and name not in entries
        return f"{prefix}{name}" if is_of_config else match.group()

    found, expected, fix = (_KEY.sub(rename, text) for text in (problem.found, problem.expected, problem.fix))
    line = own.line if own is not None else model.line if prefix else None
    place = origin.key if own is not None else f"{prefix}{key}"
    return replace(problem, path=place, line=line, file=origin.file, found=found, expected=expected, fix=fix)
