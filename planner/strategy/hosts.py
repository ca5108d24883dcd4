"""Host list of a strategy: names, a hostfile in DeepSpeed's syntax, or a number of hosts."""

import ipaddress
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from planner.problems import Problem
from planner.strategy.field_types import make_error, show
from planner.units import shorten

MAX_HOSTS = 65_536
MAX_SLOTS = 1_024
_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_.-]*@)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_EXPECTED_NAME = "a host name or address in ASCII, or an alias of the ssh configuration"
# DeepSpeed 0.19.8, launcher/runner.py:229, accepts anything after the digits; here only a comment may follow.
_LINE = re.compile(r"(\S+)\s+slots=(\d{1,9})(?:\s+#.*)?")
_EXPECTED = "a list of names, hostfile: FILE, or a number of hosts"


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


def parse_hosts(value: Any) -> Any:
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
        return _from_mapping(value)
    raise make_error(
        "SW131",
        f"{show(value)} is not a list of hosts",
        _EXPECTED,
        "put the names in brackets: [node1, node2]",
    )


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
    seen: set[str] = set()
    if not items or len(items) > MAX_HOSTS:
        raise make_error("SW133", f"a list of {len(items)} hosts", f"1 to {MAX_HOSTS} hosts")
    for item in items:
        if not isinstance(item, str):
            raise make_error(
                "SW131", f"{show(item)} is not a host name", _EXPECTED_NAME, f'put it in quotes: "{item}"'
            )
        match = _LINE.fullmatch(item)
        name, slot = (match.group(1), int(match.group(2))) if match else (item, None)
        if not is_host_name(name):
            raise make_error(
                "SW131", f"{shorten(name)!r} is not a host name", _EXPECTED_NAME, _suggest_fix(name)
            )
        if slot is not None and not 1 <= slot <= MAX_SLOTS:
            raise make_error(
                "SW133",
                f"{name} has slots={slot}",
                f"1 to {MAX_SLOTS} slots",
                "remove the host or correct its slots",
            )
        if _machine(name) in seen:
            raise make_error(
                "SW132", f"host {name!r} is listed twice", "each host once", f"remove one {name!r}"
            )
        seen.add(_machine(name))
        names.append(name)
        slots.append(slot)
    return Hosts(names=tuple(names), slots=tuple(slots))


def _from_mapping(value: dict[str, Any]) -> Hosts:
    path = value.get("hostfile")
    if set(value) != {"hostfile"} or not isinstance(path, str):
        keys = ", ".join(sorted(set(value) - {"hostfile"})) or f"hostfile: {show(path)}"
        raise make_error("SW131", f"{shorten(keys)} under hosts", _EXPECTED, "write hosts: {hostfile: FILE}")
    hosts, problems = read_hostfile(path)
    if problems:
        error = make_error(problems[0].code, problems[0].found, problems[0].expected, problems[0].fix)
        assert error.context is not None
        error.context["problems"] = problems
        raise error
    assert hosts is not None
    return hosts


def _machine(name: str) -> str:
    """The host of a name, without the user."""
    return name.rpartition("@")[2].lower()


def is_host_name(name: str) -> bool:
    """A DNS name, an ssh alias, an address, or one of them after `user@`."""
    if len(name) <= 253 and _NAME.fullmatch(name):
        return True
    try:
        return ipaddress.ip_address(name).version == 6
    except ValueError:
        return False


def _suggest_fix(name: str) -> str:
    if re.fullmatch(r"[^:\s]+:\d+", name):
        return f"write {name.split(':')[0]}, and set the port in the ssh configuration"
    return "correct the name"


def read_hostfile(path: str) -> tuple[Hosts | None, tuple[Problem, ...]]:
    """The hosts of a file in DeepSpeed's syntax (`name slots=N` a line), or every Problem in it."""
    expected = "a file of lines `name slots=N`"

    def problem(code: str, line: int | None, found: str, expected: str, fix: str) -> Problem:
        return Problem(
            code=code,
            path="cluster.hosts",
            line=line,
            found=found,
            expected=expected,
            fix=fix,
            file=path if line else None,
        )

    def unreadable(why: str, fix: str = "correct the path") -> tuple[None, tuple[Problem, ...]]:
        return None, (problem("SW134", None, f"hostfile {path!r} {why}", expected, fix),)

    try:
        with Path(path).open("rb") as file:
            data = file.read(16 * 2**20 + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        return unreadable(f"cannot be read: {(error.strerror or str(error)).lower()}")
    except ValueError:
        return unreadable("is not text")
    names: dict[str, int] = {}
    hosts: list[tuple[str, int]] = []
    problems: list[Problem] = []
    for number, raw in enumerate(text.splitlines()[: 2 * MAX_HOSTS], start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        name = match.group(1) if match else line.split()[0]
        if match is None:
            problems.append(
                problem(
                    "SW135",
                    number,
                    f"cannot parse {shorten(line)!r}",
                    "name slots=N",
                    f"write {name} slots=8",
                )
            )
        elif not is_host_name(name):
            problems.append(
                problem(
                    "SW131",
                    number,
                    f"{shorten(name)!r} is not a host name",
                    _EXPECTED_NAME,
                    _suggest_fix(name),
                )
            )
        elif not 1 <= int(match.group(2)) <= MAX_SLOTS:
            fix = f"remove {name}, or correct its slots"
            problems.append(
                problem("SW133", number, f"slots={match.group(2)}", f"1 to {MAX_SLOTS} slots", fix)
            )
        elif _machine(name) in names:
            found = f"{name!r} is listed twice, here and in line {names[_machine(name)]}"
            problems.append(problem("SW132", number, found, "each host once", f"remove one {name!r}"))
        else:
            names[_machine(name)] = number
            hosts.append((name, int(match.group(2))))
    if not hosts and not problems:
        return unreadable("names no host", "add the hosts")
    if problems:
        return None, tuple(problems)
    return Hosts(names=tuple(n for n, _ in hosts), slots=tuple(s for _, s in hosts)), ()
