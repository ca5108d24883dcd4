"""Hostfile in DeepSpeed's syntax: `name slots=N` a line; another line is a Problem with its replacement."""

from collections import Counter
from pathlib import Path

from planner.files import read_limited
from planner.problems import Problem
from planner.strategy.host_dialects import read_dialect
from planner.strategy.host_names import (
    EXPECTED_NAME,
    LINE,
    MAX_HOSTS,
    MAX_SLOTS,
    as_host_name,
    is_host_name,
    machine_of,
)
from planner.units import shorten

_MAX_BYTES = 16 * 2**20
_SHOWN = 8  # lines that a fix writes out
_MOST_PROBLEMS = 100


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
    first_lines = {line: number for number, line in reversed(list(enumerate(lines, start=1)))}
    complete = {machine_of(match.group(1)) for line in lines if (match := LINE.fullmatch(line))}
    seen: dict[str, tuple[int, int]] = {}  # machine -> line and slots
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
            is_first = first_lines[line] == number and machine_of(line) not in complete
            count = repeated[line] if repeated[line] > 1 else gpus_per_host
            reading = read_dialect(line)
            is_misnamed = reading is None or (match is not None and len(reading.hosts) == 1)
            code = "SW131" if is_misnamed else "SW135"
            problems.append(_wrong_line(path, number, line, code, count, is_first=is_first))
        elif not 1 <= slots <= MAX_SLOTS:
            fix = "remove this line: a host without slots runs no rank"
            if slots:
                fix = f"write {name} slots={min(gpus_per_host or 8, MAX_SLOTS)}, or its number of GPUs"
            problems.append(_at(path, number, "SW133", f"slots={slots}", f"1 to {MAX_SLOTS} slots", fix))
        elif machine_of(name) in seen:
            first, earlier = seen[machine_of(name)]
            found = f"{name!r} is listed twice, here and in line {first}"
            fix = "remove this line" + ("" if earlier == slots else f", or line {first} (slots={earlier})")
            problems.append(_at(path, number, "SW132", found, "each host once", fix))
        else:
            seen[machine_of(name)] = (number, slots)
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


def _wrong_line(
    path: str, number: int, line: str, code: str, slots: int | None, *, is_first: bool
) -> Problem:
    """A line of another dialect with the lines that it means; the numbers that it has are kept."""
    found = f"cannot parse {shorten(line)!r}" if code == "SW135" else f"{shorten(line)!r} is not a host name"
    expected = "name slots=N" if code == "SW135" else EXPECTED_NAME
    return _at(path, number, code, found, expected, _replacement(line, slots, is_first=is_first))


def _replacement(line: str, slots: int | None, *, is_first: bool) -> str:
    if not is_first:
        return "remove this line: the host is listed already"
    reading = read_dialect(line)
    names = [] if reading is None else [(as_host_name(name), count) for name, count in reading.hosts]
    if reading is None or any(name is None for name, _ in names):
        return "remove this line, or write `name slots=N` with the name by which ssh reaches the host"
    if all(count == 0 for _, count in names):
        return "remove this line: a host without slots runs no rank"
    usual = slots or 8
    written = [f"{name} slots={usual if count is None else min(count, MAX_SLOTS)}" for name, count in names]
    has_no_number = any(count is None for _, count in names)
    guess = ", or with its number of GPUs" if has_no_number and slots is None else ""
    if len(written) == 1:
        return f"write {written[0]}{reading.hint}{guess}"
    shown = "; ".join(written) if len(written) <= _SHOWN else f"{written[0]} … {written[-1]}"
    return f"write {len(written)} lines: {shown}{reading.hint}{guess}"
