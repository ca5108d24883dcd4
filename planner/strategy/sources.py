"""Sources of a strategy: the file and line, or the override, in which each of its keys was written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from planner.problems import Problem
from planner.strategy.config_names import locate_in_config
from planner.yaml12 import Entry, Mapping

_KEY = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What `load` read; empty for a strategy made in code.

    Two Sources are always equal, so that equal strategies are equal whatever files they come from.
    `ignored_model_keys`: keys of a Hugging Face config that have no effect on the model. `left_out`: keys of
    a DeepSpeed configuration that were not taken over, with the reason.
    """

    file: str | None = field(default=None, compare=False)
    root: Entry | None = field(default=None, compare=False, repr=False)
    ignored_model_keys: tuple[str, ...] = field(default=(), compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)

    def entry(self, keys: Sequence[str | int]) -> Entry | None:
        """What was read at a path, or at the deepest section on the way to it."""
        return None if self.root is None else _find(self.root, keys)

    def may_replace(self, path: Sequence[str | int], target: Sequence[str | int]) -> bool:
        """Whether the key at a path is an override, which takes the place of what the file, but no other
        override, has at the target."""
        given, written = self.entry(path), self.entry(target)
        return _is_override(given) and not _is_override(written)

    def locate(self, problem: Problem, keys: Sequence[str | int] | None = None) -> Problem:
        """The problem with the place of its key, or of the deepest section on the way to it.

        One that has a place, or whose place is not known, comes back as it is.

        Args:
            keys: the problem's path, for keys that may contain dots; None: what `problem.path` says.
        """
        if self.root is None or problem.file is not None or problem.override is not None:
            return problem
        path = _split(problem.path or "") if keys is None else keys
        in_config = locate_in_config(problem, path, self.root)
        if in_config is not None:
            return in_config
        entry = _find(self.root, path)
        if entry.override is not None:
            return replace(problem, line=None, override=entry.override)
        return replace(problem, line=entry.line, file=self.file)


def _split(path: str) -> tuple[str | int, ...]:
    """claims[3].value -> claims, 3, value."""
    return tuple(int(index) if index else key for index, key in _KEY.findall(path))


def _find(root: Entry, path: Sequence[str | int]) -> Entry:
    """The entry at a path, or the deepest one on the way to it."""
    entry = root
    for key in path:
        if isinstance(entry.value, Mapping) and key in entry.value.entries:
            entry = entry.value.entries[str(key)]
        elif isinstance(entry.value, tuple) and isinstance(key, int) and key < len(entry.value):
            entry = entry.value[key]
        else:
            break
    return entry


def _is_override(entry: Entry | None) -> bool:
    return entry is not None and entry.override is not None and not entry.override.startswith("--from ")
