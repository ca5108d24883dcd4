"""The override that names a new file in the place of one of the data, and keeps all others."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from planner.yaml12_writer import flow_yaml

CONVERTED = ".converted.jsonl"  # what a conversion adds to a file's name
MAX_SIBLINGS = 12  # files of a folder that an override lists


@dataclass(frozen=True, kw_only=True)
class Written:
    """`data.path` as the strategy has it, or `data.mix`: the entries of each part, and the mix's weights."""

    parts: tuple[tuple[str, ...], ...]
    weights: tuple[float, ...] | None = None

    def override(self, part: int, entries: Sequence[str]) -> str:
        """The override, as a shell takes it, that gives this part other entries."""
        if self.weights is None:
            return f"data.path={_quoted(_plain(entries))}"
        mix = [
            {"path": _plain(entries if number == part else old), "weight": weight}
            for number, (old, weight) in enumerate(zip(self.parts, self.weights, strict=True))
            if number != part or entries
        ]
        return f"data.mix={_quoted(mix)}"


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Where a file is named: by which entry of which part. `siblings`: all files of a folder or glob."""

    written: Written
    file: Path
    part: int = 0
    entry: int = 0
    siblings: Sequence[Path] = ()

    def then_write(self, command: str, new: Path, others: str = "") -> str:
        """The command that makes `new` of the file, and the overrides to write then.

        Of a folder with many files none can be left out by an override: the command hides the file, so that
        the folder stays named.

        Args:
            others: other overrides, with a space after each.
        """
        return f"{command}{self.hiding()}, then write {others}{self.override(new)}"

    def override(self, new: Path) -> str:
        """The override that names `new` in the place of the file."""
        old = self.written.parts[self.part]
        if self._has_many:
            named = old[self.entry]
            entries = [named] if _reaches(named, new) else [named, str(new)]
        else:
            entries = [str(new if path == self.file else path) for path in self.siblings or (self.file,)]
        return self.override_with(entries)

    def override_with(self, entries: Sequence[str | Path]) -> str:
        """The override that has these entries in the place of the file's."""
        old = self.written.parts[self.part]
        named = [*old[: self.entry], *map(str, entries), *old[self.entry + 1 :]]
        return self.written.override(self.part, list(dict.fromkeys(named)))  # a new file may be there already

    def without(self) -> str | None:
        """The override that names all files but this one; None if there are none, or too many."""
        old = self.written.parts[self.part]
        entries = [str(path) for path in self.siblings if path != self.file]
        left = [*old[: self.entry], *entries, *old[self.entry + 1 :]]
        if self._has_many or not (left or self.written.weights):
            return None
        return self.written.override(self.part, left)

    def hiding(self) -> str:
        """What the command ends with, so that the file is not read beside the new one."""
        if not self._has_many:
            return ""
        hidden = self.file.with_name(f".{self.file.name}")
        return f" && mv {shell_path(self.file)} {shell_path(hidden)}"

    @property
    def _has_many(self) -> bool:
        return len(self.siblings) > MAX_SIBLINGS


def converted_name(file: Path) -> Path:
    """The file that a conversion writes."""
    return file.with_name(f"{file.name}{CONVERTED}")


def shell_path(file: Path | str) -> str:
    """The file's name as a shell takes it: one that begins with `-` would be an option."""
    name = str(file)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def _reaches(entry: str, new: Path) -> bool:
    """Whether the folder or glob brings the new file in."""
    path = Path(entry).expanduser()
    return new.is_relative_to(path) if path.is_dir() else fnmatch(str(new), str(path))


def alone(file: Path) -> Naming:
    """Of a file that data.path names, and no other."""
    return Naming(written=Written(parts=((str(file),),)), file=file)


def _plain(entries: Sequence[str]) -> str | list[str]:
    """A single entry is written without brackets."""
    return entries[0] if len(entries) == 1 else list(entries)


def _quoted(value: object) -> str:
    return shlex.quote(flow_yaml(value))
