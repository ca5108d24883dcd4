"""Fault: one thing wrong at a path of a document, before it is known where it was written."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.problems import Problem
from planner.yaml12 import Origin
from planner.yaml12_writer import flow_yaml

Path = tuple[str | int, ...]
_SHORT, _LONGEST = 30, 120  # characters of a value that a fix repeats, and that it writes


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`found` is None when it only follows from another fault.

    writes: dotted keys and the values that mend it, from which the fix is made where there is no `fix`;
    replaces: whether they take the place of a key of another name, whose `value` is shown. hint: the end of
    the fix.
    """

    path: Path
    found: str | None
    code: str = ""
    expected: str = ""
    fix: str = ""
    writes: Mapping[str, Any] = field(default_factory=dict)
    replaces: bool = False
    value: Any = None
    hint: str = ""
    problems: tuple[Problem, ...] = ()  # of a file that the value names
    is_derived: bool = False  # a default that could not be taken from other keys because there were faults
    meant: tuple[Path, ...] = ()  # for an unknown key: the paths of the keys that seem to be meant

    def value_at(self, data: Any) -> Any:
        """What the document has at the path; None where it has nothing."""
        for key in self.path:
            is_item = isinstance(data, (list, tuple)) and isinstance(key, int) and key < len(data)
            if not is_item and not (isinstance(data, dict) and key in data):
                return None
            data = data[key]
        return data

    def _leaves(self, here: str, value: Any) -> Iterator[tuple[str, Any]]:
        """A section under its right name, key by key: each was one override."""
        is_moved = isinstance(value, dict) and isinstance(self.value, dict) and set(value) == set(self.value)
        if self.replaces and is_moved and value:
            yield from ((f"{here}.{key}", item) for key, item in value.items())
        else:
            yield here, value

    def fix_in_file(self, *, is_dotted: bool = False) -> str:
        """What to write in the file; keys of the same section by their last part, unless `is_dotted`."""
        if not self.writes:
            return self.fix + self.hint
        if not self.replaces and (inside := self._inside()) is not None:
            return f"write {self.path[-1]}: {flow_yaml(inside)}{self.hint}"
        key, value = str(self.path[-1]), flow_yaml(self.value)
        has_value = len(value) <= _SHORT and ":" not in key  # `ep:8` is all there is
        instead = f"{key}: {value}" if has_value else key
        section = "" if is_dotted else dotted(self.path[:-1])
        texts = {_beside(here, section): flow_yaml(value) for here, value in self.writes.items()}
        at_top = {here for here in self.writes if "." not in here and section}
        if self.replaces and any(len(text) > _LONGEST for text in texts.values()):
            return f"write {', '.join(texts)} instead of {instead}{self.hint}"
        listed = ", ".join(
            f"{here}: {text}{' at the top level' if here in at_top else ''}" for here, text in texts.items()
        )
        return f"write {listed}{f' instead of {instead}' if self.replaces else ''}{self.hint}"

    def _inside(self) -> dict[str, Any] | None:
        """What is written inside the key itself, as its section; None where it is the key that is written."""
        above = f"{dotted(self.path)}."
        if not all(here.startswith(above) for here in self.writes):
            return None
        section: dict[str, Any] = {}
        for here, value in self.writes.items():
            *before, last = here.removeprefix(above).split(".")
            place = section
            for name in before:
                place = place.setdefault(name, {})
            place[last] = value
        return section

    def fix_at_origin(self, origin: Origin) -> str:
        """What to write under the key of a model's config."""
        if not self.writes:
            return self.fix + self.hint
        (value,) = self.writes.values()
        is_example = "another" in self.hint and origin.usual is not None
        shown = flow_yaml(origin.usual if is_example else value)
        hint = ", the default of its family, or another legal value" if is_example else self.hint
        return f"write {origin.key.rpartition('.')[2]}: {shown}{hint}"

    def fix_of_override(self) -> str:
        """What to write on the command line."""
        if not self.writes:
            return self.fix + self.hint
        leaves = (leaf for here, value in self.writes.items() for leaf in self._leaves(here, value))
        written = (shlex.quote(f"{here}={flow_yaml(value)}") for here, value in leaves)
        return f"write {' '.join(written)}{self.hint}"


def _beside(key: str, section: str) -> str:
    """A dotted key as it is written in a section."""
    before, _, name = key.rpartition(".")
    return name if before == section else key


def dotted(path: Sequence[str | int]) -> str:
    """A path as it is printed: claims[3].value."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text
