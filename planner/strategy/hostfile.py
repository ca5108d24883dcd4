"""Hostfile in DeepSpeed's syntax: `name slots=N` a line; another line is a Problem with its replacement."""

from collections import Counter
from pathlib import Path

from planner.files import read_limited
from planner.problems import Problem
from planner.strategy.host_dialects import Reading, read_dialect, read_rankfile
from planner.strategy.host_names import (
    EXPECTED_NAME,
    LINE,
    MAX_HOSTS,
    MAX_SLOTS,
    is_host_name,
    machine_of,
    same_machine,
)
from planner.units import shorten

_MAX_BYTES = 16 * 2**20
_SHOWN = 8  # lines that a fix writes out
_MOST_PROBLEMS = 100
_BY_HAND = (
    "write a line `name slots=N` for each host, with the name by which ssh reaches it and its number of "
    "GPUs, or remove this line"
)


def read_hostfile(
    path: str, gpus_per_host: int | None = None
) -> tuple[tuple[tuple[str, int], ...], tuple[Problem, ...]]:
    """The hosts of a file with their slots, or every Problem in it.

    `gpus_per_host`: the slots that a fix writes for a host without a number.
    """
    text, problem = _read(path)
    if problem is not None:
        return (), (problem,)
    lines = [line.strip() for line in text.splitlines()[: 2 * MAX_HOSTS]]
    # PBS lists a host once for each of its slots.
    repeated = Counter(line for line in lines if is_host_name(line))
    listed = {machine_of(name) for line in lines if (name := _complete_name(line)) is not None}
    ranks = read_rankfile(lines)
    seen: dict[str, tuple[int, str, int]] = {}  # machine -> line, name and slots
    hosts: list[tuple[str, int]] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if len(problems) >= _MOST_PROBLEMS:
            break  # it is no hostfile
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        name, slots = (match.group(1), int(match.group(2))) if match else (line, 0)
        if match is None or not is_host_name(name):
            count = repeated[line] if repeated[line] > 1 else gpus_per_host
            reading = ranks[number] if number in ranks else read_dialect(line)
            problems.append(_wrong_line(path, number, line, reading, count, listed))
        elif not 1 <= slots <= MAX_SLOTS:
            fix = "remove this line: a host without slots runs no rank"
            if slots:
                fix = f"write `{name} slots=N` with its number of GPUs, or remove this line"
            problems.append(_at(path, number, "SW133", f"slots={slots}", f"1 to {MAX_SLOTS} slots", fix))
        elif machine_of(name) in seen:
            first, other, earlier = seen[machine_of(name)]
            found = f"{name!r} is listed twice, here and in line {first}{same_machine(name, other)}"
            fix = "remove this line" + ("" if earlier == slots else f", or line {first} (slots={earlier})")
            problems.append(_at(path, number, "SW132", found, "each host once", fix))
        else:
            seen[machine_of(name)] = (number, name, slots)
            hosts.append((name, slots))
    if not hosts and not problems:
        fix = "write a line for each host, for example node1 slots=8"
        return (), (_unreadable(path, "names no host", fix),)
    return tuple(hosts), tuple(problems)


def _read(path: str) -> tuple[str, Problem | None]:
    try:
        text = read_limited(path, _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        why = f"cannot be read: {(error.strerror or str(error)).lower()}"
        return "", _unreadable(path, why, f"correct the path (relative paths start at {Path.cwd()})")
    except ValueError:
        return "", _unreadable(path, "is not text", "give a text file")
    if "\0" in text:
        return "", _unreadable(path, "is not text", "give a text file")
    return text, None


def _unreadable(path: str, why: str, fix: str) -> Problem:
    return Problem(
        code="SW134",
        path="cluster.hosts",
        found=f"hostfile {shorten(path, 200)!r} {why}",
        expected="a file of lines `name slots=N`",
        fix=fix,
    )


def _at(path: str, line: int, code: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(
        code=code, path="cluster.hosts", line=line, found=found, expected=expected, fix=fix, file=path
    )


def _complete_name(line: str) -> str | None:
    """The host of a line that is read as it is."""
    match = LINE.fullmatch(line)
    is_read = match is not None and is_host_name(match.group(1)) and 1 <= int(match.group(2)) <= MAX_SLOTS
    return match.group(1) if match is not None and is_read else None


def _wrong_line(
    path: str, number: int, line: str, reading: Reading, slots: int | None, listed: set[str]
) -> Problem:
    """A line of another dialect with the lines that it means; the numbers that it has are kept.

    `listed`: machines that other lines have, to which this one's are added.
    """
    match = LINE.fullmatch(line)
    is_misnamed = match is not None and (bool(reading.unclear) or len(reading.hosts) == 1)
    fix = _replacement(reading, slots, listed)
    why = f": {reading.unclear}" if reading.unclear else ""
    if is_misnamed:
        return _at(path, number, "SW131", f"{shorten(line)!r} is not a host name{why}", EXPECTED_NAME, fix)
    return _at(path, number, "SW135", f"cannot parse {shorten(line)!r}{why}", "name slots=N", fix)


def _replacement(reading: Reading, slots: int | None, listed: set[str]) -> str:
    if reading.no_host:
        return f"remove this line: {reading.no_host}"
    if reading.unclear:
        return _BY_HAND
    if all(count == 0 for _, count in reading.hosts):
        return "remove this line: a host without slots runs no rank"
    written: list[tuple[str, int]] = []
    for name, count in reading.hosts:
        if machine_of(name) not in listed and count != 0:
            listed.add(machine_of(name))
            written.append((name, (slots or 8) if count is None else count))
    if not written:
        return "remove this line: its host is in another line"
    has_no_number = any(count is None for _, count in reading.hosts)
    guess = ", or with its number of GPUs" if has_no_number and slots is None else ""
    if len(written) == 1:
        name, count = written[0]
        return f"write {name} slots={count}{reading.hint}{guess}"
    return f"write {len(written)} lines: {_lines(reading, written)}{reading.hint}{guess}"


def _lines(reading: Reading, written: list[tuple[str, int]]) -> str:
    """The lines themselves, or a command that prints them."""
    counts = {count for _, count in written}
    if len(written) <= _SHOWN or len(counts) > 1:
        return "; ".join(f"{name} slots={count}" for name, count in written)
    is_whole = len(written) == len(reading.hosts)
    names = reading.braces if is_whole else " ".join(name for name, _ in written)
    return f"those that this prints: printf '%s slots={counts.pop()}\\n' {names}"
