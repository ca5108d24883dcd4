"""YAML 1.2 reader: scalars of the core schema, duplicate keys refused, a line number for every key."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from planner.problems import Problem
from planner.units import shorten
from planner.yaml12_mistakes import fix_of_line
from planner.yaml12_scalars import MAX_DIGITS, resolve_scalar
from planner.yaml12_stream import several_documents

MAX_BYTES = 2**20  # a strategy is a page; a larger file is something else
# Values of a document with its aliases written out: room for the names of 65,536 hosts. Eight lines of nested
# aliases are 10⁸ values.
MAX_VALUES = 100_000
_HASH = "\U0010fffe"  # stands for # in the text of an override; a noncharacter, which no text contains
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value has another name: the key of a model's config, its file, and its usual value there."""

    file: str | None
    key: str
    usual: Any = None


@dataclass(kw_only=True)
class Entry:
    """A value of the document with the line of its key or list item; `override` if it came from one."""

    value: "Mapping | tuple[Entry, ...] | str | int | float | bool | None"
    line: int | None
    override: str | None = None
    origin: Origin | None = None

    def plain(self) -> Any:
        """The value as dicts, tuples and scalars."""
        if isinstance(self.value, Mapping):
            return {key: entry.plain() for key, entry in self.value.entries.items()}
        if isinstance(self.value, tuple):
            return tuple(entry.plain() for entry in self.value)
        return self.value


@dataclass(kw_only=True)
class Mapping:
    """A mapping of the document."""

    entries: dict[str, Entry] = field(default_factory=dict)


class TooManyValuesError(Exception):
    """A document has more than MAX_VALUES values, with its aliases written out."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(line)


class Document:
    """The tree of one text; `problems` holds its mistakes of form. An override has no comments."""

    def __init__(self, text: str, file: str | None, override: str | None = None) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._override = override
        self._built: dict[int, Entry] = {}
        self._sizes: dict[int, int] = {}  # of what is built: its values, with aliases written out
        self._num_values = 0
        self._open: set[int] = set()
        self._path: list[str] = []
        self.root: Entry | None = None
        try:
            node = self._compose(text)
            if node is not None:
                self.root = self._build(node, node.start_mark.line + 1)
        except TooManyValuesError as error:
            self._path.clear()
            self._problem(
                "SW108",
                error.line,
                f"more than {MAX_VALUES:,} values, counting each alias as what it refers to",
                f"at most {MAX_VALUES:,} values",
                "remove the aliases (*name), or give the file of a strategy",
            )

    def _count(self, num_values: int, line: int) -> None:
        self._num_values += num_values
        if self._num_values > MAX_VALUES:
            raise TooManyValuesError(line)

    def _problem(
        self, code: str, line: int | None, found: str, expected: str, fix: str, key: str | None = None
    ) -> None:
        path = [*self._path, key] if key is not None else self._path
        self.problems.append(
            Problem(
                code=code,
                path=".".join(path) or None,
                line=None if self._override else line,
                found=found,
                expected=expected,
                fix=fix,
                file=self._file,
                override=self._override,
            )
        )

    def _compose(self, text: str) -> Node | None:
        loader = None
        try:
            loader = _Loader(text if self._override is None else text.replace("#", _HASH))
            node = loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            if error.context == "expected a single document in the stream" and error.problem_mark:
                count, fix = several_documents(_Loader(text))
                line = error.problem_mark.line + 1
                found = f"{count} YAML documents, the second of which begins here (---)"
                self._problem("SW102", line, found, "one document", fix)
                return None
            mark = error.problem_mark or error.context_mark
            what = " ".join(part for part in (error.context, error.problem) if part)
            last = mark.line + 1 if mark else 1
            first = error.context_mark.line + 1 if error.context_mark else last
            line, fix = fix_of_line(text, first, last)
            self._problem(
                "SW102",
                line,
                f"this is not YAML: {shorten(what.replace(_HASH, '#'), 120)}",
                "a YAML mapping, as in ds_configs/",
                fix,
            )
            return None
        except yaml.YAMLError as error:
            self._problem(
                "SW102",
                None,
                f"this is not YAML: {shorten(' '.join(str(error).split()), 120)}",
                "plain text in UTF-8",
                "remove the control characters",
            )
            return None
        except RecursionError:
            self._problem(
                "SW102",
                None,
                "values are nested too deeply",
                "at most a few levels",
                "remove the brackets or indentation",
            )
            return None
        finally:
            if loader is not None:
                loader.dispose()
        if node is None:
            self._problem(
                "SW102", None, "the file is empty", "a YAML mapping", "write the strategy, as in ds_configs/"
            )
        return node

    def _build(self, node: Node, line: int) -> Entry:
        """The entry of a node; an alias gets the entry of its anchor, with the lines of the anchor."""
        if id(node) in self._open:
            self._problem(
                "SW105", line, "YAML alias refers to itself", "no recursive alias", "write the value out"
            )
            return Entry(value=None, line=line)
        if id(node) in self._built:
            self._count(self._sizes[id(node)], line)
            return Entry(value=self._built[id(node)].value, line=line, override=self._override)
        before = self._num_values
        self._count(1, line)
        self._open.add(id(node))
        value: Any
        if isinstance(node, MappingNode):
            value = self._mapping(node)
        elif isinstance(node, SequenceNode):
            self._check_tag(node, "seq")
            value = tuple(self._build(item, item.start_mark.line + 1) for item in node.value)
        else:
            value = self._scalar(node)
        self._open.discard(id(node))
        entry = Entry(value=value, line=line, override=self._override)
        self._built[id(node)] = entry
        self._sizes[id(node)] = self._num_values - before
        return entry

    def _mapping(self, node: MappingNode) -> Mapping:
        self._check_tag(node, "map")
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value.replace(_HASH, "#") if isinstance(key_node, ScalarNode) else None
            if key is None or not isinstance(self._scalar(key_node), str):
                shown = f"{key!r}" if key is not None else "a list or mapping"
                self._problem(
                    "SW104", line, f"the key {shown} is not text", "a name", "remove it, or put it in quotes"
                )
                continue
            if key in lines:
                self._problem(
                    "SW106",
                    line,
                    f"is written twice, here and in line {lines[key]}",
                    "every key once",
                    "remove one of the two",
                    key,
                )
                continue
            lines[key] = line
            self._path.append(key)
            if key == "<<" and key_node.tag == _PLAIN:
                for name, entry in self._merge(value_node, line):
                    merged.setdefault(name, entry)
            else:
                own[key] = self._build(value_node, line)
            self._path.pop()
        return Mapping(entries={**own, **{key: entry for key, entry in merged.items() if key not in own}})

    def _merge(self, node: Node, line: int) -> Iterator[tuple[str, Entry]]:
        """The entries that `<<` merges: of one mapping or of a list of them, the earlier one first."""
        parts = node.value if isinstance(node, SequenceNode) else [node]
        for part in parts:
            value = self._build(part, line).value
            if isinstance(value, Mapping):
                yield from value.entries.items()
            elif id(part) not in self._open:
                self._problem(
                    "SW105", line, "<< needs a mapping", "an alias of a mapping", "write <<: *anchor"
                )

    def _scalar(self, node: Node) -> str | int | float | bool | None:
        assert isinstance(node, ScalarNode)
        text: str = node.value.replace(_HASH, "#")
        tag = node.tag.removeprefix(_TAG)
        if _SURROGATE.search(text):  # "\ud800" in double quotes; it cannot be written to a file
            line = node.start_mark.line + 1
            found = f"unpaired UTF-16 surrogate in {shorten(ascii(text))}"
            self._problem("SW107", line, found, "Unicode text", "correct the text")
            return None
        if tag == "str":
            return text
        try:
            value = resolve_scalar(text)
        except ValueError as error:
            expected = f"at most {MAX_DIGITS} digits"
            self._problem("SW107", node.start_mark.line + 1, str(error), expected, "write fewer digits")
            return None
        if tag != _PLAIN and not isinstance(value, _TAGGED.get(tag, ())):
            self._check_tag(node, "str")
        return value

    def _check_tag(self, node: Node, kind: str) -> None:
        if node.tag != _TAG + kind:
            self._problem(
                "SW105",
                node.start_mark.line + 1,
                f"the YAML tag {node.tag.replace(_TAG, '!!')} is not supported",
                "plain values",
                "remove the tag",
            )


_PLAIN = "plain"
_TAGGED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's parser without its YAML 1.1 scalars: only whether a scalar is plain is kept.

    It stops at MAX_VALUES: parsing takes 25 µs a value.
    """

    _num_values = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._num_values += index is not None or not isinstance(parent, MappingNode)  # else it is a key
        if self._num_values > MAX_VALUES:
            raise TooManyValuesError(self.line + 1)
        return super().compose_node(parent, index)

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else _TAG + "str"
        return _TAG + ("seq" if kind is SequenceNode else "map")
