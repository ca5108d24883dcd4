"""Host list of a strategy: names, ranges of names as Slurm writes them, a hostfile, or a number of hosts."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo

from planner.strategy.field_types import expand_path, make_error, show
from planner.strategy.host_dialects import read_dialect
from planner.strategy.host_expressions import expand, split_outside_brackets
from planner.strategy.host_names import (
    EXPECTED_NAME,
    LINE,
    MAX_HOSTS,
    MAX_SLOTS,
    is_host_name,
    machine_of,
    same_machine,
)
from planner.strategy.hostfile import read_hostfile
from planner.units import shorten

_EXPECTED = "a list of names, hostfile: FILE, or a number of hosts"
# As `squeue` and `sinfo` print it: node[01-04,07], or several separated by commas.
_RANGE = re.compile(r"[\w.@-]*[A-Za-z][\w.@-]*(?:\[[\d,-]+\][\w.-]*)+")


class Hosts(BaseModel):
    """The hosts in their order.

    `slots`: how many ranks each may run; None for `gpus_per_host`. `are_made_up`: the names host-00 … are
    placeholders for a number of hosts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    names: tuple[str, ...]
    slots: tuple[int | None, ...]
    are_made_up: bool = False

    @property
    def count(self) -> int:
        return len(self.names)

    def written(self) -> int | list[str]:
        """The shortest form that `parse_hosts` reads back to the same hosts."""
        if self.are_made_up or (self.names == ("localhost",) and self.slots == (None,)):
            return self.count
        return [
            name if slots is None else f"{name} slots={slots}"
            for name, slots in zip(self.names, self.slots, strict=True)
        ]


def parse_hosts(value: Any, info: ValidationInfo) -> Any:
    """The value of cluster.hosts as Hosts.

    Raises:
        PydanticCustomError: for anything else.
    """
    if isinstance(value, Hosts):
        return value
    if isinstance(value, bool) or value is None:
        raise make_error("SW131", f"{show(value)} is not a host name", _EXPECTED)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return _numbered(value)
    if isinstance(value, (tuple, list)):
        return _listed(value)
    if isinstance(value, dict):
        return _from_mapping(value, info)
    if isinstance(value, str) and _RANGE.search(value):
        return _listed(split_outside_brackets(value, ","))
    meant, hint = _meant_by(value)
    raise make_error("SW131", f"{show(value)} is not a list of hosts", _EXPECTED, meant=meant, hint=hint)


_Meant = tuple[Any, str]  # the value, or None, and what a fix adds to it


def _meant_by(value: object) -> _Meant:
    """Hosts that a single text seems to mean: a number, a file, one name or several."""
    if not isinstance(value, str) or not value.strip():
        return None, ""
    text = value.strip()
    if text.isdigit() and len(text) <= 5:
        return int(text), ""
    if by := re.fullmatch(r"(\d{1,5})\s*[x×*]\s*(\d{1,4})", text):
        return int(by[1]), f", and gpus_per_host: {int(by[2])}"
    if "/" in text or text.endswith(".txt") or "hostfile" in text.lower():
        return {"hostfile": text}, ""
    return _corrected([text])


def _corrected(items: Iterable[object]) -> _Meant:
    """A list of hosts as it seems to be meant, each host once; None if an item is unclear."""
    found: dict[str, str] = {}
    hints: dict[str, None] = {}
    for item in items:
        reading = read_dialect(_as_line(item))
        if reading.unclear:
            return None, ""
        hints |= {reading.hint: None}
        for name, slots in reading.hosts:
            if slots != 0:  # a host without slots runs no rank
                found.setdefault(machine_of(name), name if slots is None else f"{name} slots={slots}")
    return list(found.values()) or None, "".join(hints)


_NAMES = ("name", "host", "hostname", "address", "ip", "node")
_COUNTS = ("slots", "gpus", "num_gpus", "gpus_per_host", "nproc_per_node", "count")


def _as_line(item: object) -> str:
    """{name: n1, slots: 8} as a line of a hostfile; anything else as it is."""
    if not isinstance(item, dict):
        return str(item)
    name = next((item[key] for key in _NAMES if isinstance(item.get(key), str)), None)
    slots = next((item[key] for key in _COUNTS if isinstance(item.get(key), int)), None)
    used = (name is not None) + (slots is not None)
    if name is None or used != len(item):
        return str(item)
    return name if slots is None else f"{name} slots={slots}"


def _numbered(count: int) -> Hosts:
    if not 1 <= count <= MAX_HOSTS:
        raise make_error("SW133", f"{shorten(str(count), 40)} hosts", f"1 to {MAX_HOSTS} hosts")
    if count == 1:
        return Hosts(names=("localhost",), slots=(None,))
    width = max(2, len(str(count - 1)))
    return Hosts(
        names=tuple(f"host-{i:0{width}d}" for i in range(count)), slots=(None,) * count, are_made_up=True
    )


def _listed(items: tuple[Any, ...] | list[Any]) -> Hosts:
    names: list[str] = []
    slots: list[int | None] = []
    seen: dict[str, str] = {}
    items = list(_with_ranges_expanded(items))
    if not items or len(items) > MAX_HOSTS:
        raise make_error("SW133", f"a list of {len(items)} hosts", f"1 to {MAX_HOSTS} hosts")
    for item in items:
        match = LINE.fullmatch(item) if isinstance(item, str) else None
        name, slot = (match.group(1), int(match.group(2))) if match else (item, None)
        if not isinstance(name, str) or not is_host_name(name):
            found = show(item) if not isinstance(item, str) else repr(shorten(item))
            meant, hint = _corrected(items)
            fix = None if meant else f"remove {shorten(str(item))}, or write the name by which ssh reaches it"
            raise make_error(
                "SW131", f"{found} is not a host name", EXPECTED_NAME, fix, meant=meant, hint=hint
            )
        if slot is not None and not 1 <= slot <= MAX_SLOTS:
            meant, hint = _corrected(items)
            fix = None if meant else f"remove {name}, or correct its slots"
            expected = f"1 to {MAX_SLOTS} slots"
            raise make_error("SW133", f"{name} has slots={slot}", expected, fix, meant=meant, hint=hint)
        if machine_of(name) in seen:
            found = f"host {name!r} is listed twice{same_machine(name, seen[machine_of(name)])}"
            meant, hint = _corrected(items)
            raise make_error("SW132", found, "each host once", meant=meant, hint=hint)
        seen[machine_of(name)] = name
        names.append(name)
        slots.append(slot)
    return Hosts(names=tuple(names), slots=tuple(slots))


def _with_ranges_expanded(items: Iterable[Any]) -> Iterator[Any]:
    """Each `node[01-16]`, also with slots, as its names; what is no range is left for `_listed` to judge."""
    for item in items:
        match = LINE.fullmatch(item) if isinstance(item, str) else None
        name, slots = (match[1], f" slots={match[2]}") if match else (item, "")
        if not isinstance(name, str) or not _RANGE.fullmatch(name):
            yield item
            continue
        try:
            names = list(expand(name))
        except ValueError:
            yield item
        else:
            yield from (f"{each}{slots}" for each in names)


def _from_mapping(value: dict[str, Any], info: ValidationInfo) -> Hosts:
    path = value.get("hostfile")
    if set(value) != {"hostfile"} or not isinstance(path, str):
        keys = ", ".join(sorted(map(str, set(value) - {"hostfile"}))) or f"hostfile: {show(path)}"
        found = f"{shorten(keys)} under hosts"
        meant, hint = _meant_by_mapping(value)
        raise make_error(
            "SW131",
            found,
            _EXPECTED,
            meant=meant or 1,
            hint=hint if meant else ", the number of hosts, or hostfile: FILE",
        )
    context = info.context if isinstance(info.context, dict) else {}
    listed, problems = read_hostfile(expand_path(path), context.get("gpus_per_host"))
    if problems:
        error = make_error(problems[0].code, problems[0].found, problems[0].expected, problems[0].fix)
        assert error.context is not None
        error.context["problems"] = problems
        raise error
    return Hosts(names=tuple(name for name, _ in listed), slots=tuple(slots for _, slots in listed))


def _meant_by_mapping(value: dict[str, Any]) -> _Meant:
    """{file: hosts.txt}, {node1: 8, node2: 8}, {names: [node1, node2]}."""
    if isinstance(value.get("hostfile"), str):
        return {"hostfile": value["hostfile"]}, ""
    items = list(value.values())
    if len(items) == 1 and isinstance(items[0], (tuple, list)):
        return _corrected(items[0])
    if len(items) == 1 and isinstance(items[0], str) and "hostfile" not in value:
        return _meant_by(items[0])
    if items and all(isinstance(item, int) and 1 <= item <= MAX_SLOTS for item in items):
        return _corrected(f"{name} slots={item}" for name, item in value.items())
    return None, ""
