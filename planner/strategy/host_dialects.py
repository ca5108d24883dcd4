"""Dialects of host lists: Open MPI, MPICH, Slurm, PBS and Ansible lines, as hosts with their slots.

Only for fixes: what is read is DeepSpeed's `name slots=N`. Here its neighbours are understood, so that a fix
keeps the names and numbers that were found.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# ssh's port, or a number that no host has GPUs
_SSH_PORT = 22
_COUNT = r"(?:slots?|max[-_]slots|gpus?|ngpus|np|n|nproc|nproc_per_node|cpus?|ppn|processes|count)"
_SETTING = re.compile(rf"(?i)\b{_COUNT}\s*[=:]?\s*(\d[\d,-]*)")
_MAX_SLOTS = re.compile(r"(?i)\bmax[-_]slots\s*[=:]?\s*\d+")
_RANGE = re.compile(r"\[([\d,-]+)\]|\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_ONE_NAME = r"(?:[^\s,\[{]|\[[^\]]*\]|\{[^}]*\})+"
_LISTED = re.compile(rf"{_ONE_NAME}(?:\s*,\s*{_ONE_NAME})*")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_LONGEST = 1000  # characters of a line
_MOST = 65_536  # hosts of one expression


@dataclass(frozen=True)
class Reading:
    """Hosts with their slots, None where the line has no number; hint: what the fix has to add."""

    hosts: tuple[tuple[str, int | None], ...]
    hint: str = ""


def read_dialect(line: str) -> Reading | None:
    """What a line seems to mean; None where no host can be made out."""
    if len(line) > _LONGEST:
        return None
    text = re.sub(r"\s+#.*$", "", line.strip()).strip().lstrip("-").strip().rstrip(",;").strip()
    text = re.sub(r"^[a-z]+://", "", text)
    text = re.sub(rf"(?i)\s*,\s*(?={_COUNT}\s*[=:])", " ", text)
    if not text or re.fullmatch(r"\[[A-Za-z_][\w:-]*\]", text):
        return None
    names, rest = _split(text)
    words = rest.split()
    if words and all(_WORD.fullmatch(word) for word in words) and not re.match(rf"(?i){_COUNT}\b", words[0]):
        names, rest = [*names, *words], ""  # several hosts in one line
    slots, hint = _slots(rest)
    found: list[tuple[str, int | None]] = []
    for name in names:
        plain, count, more = _count_in_name(name)
        hint = hint or more
        expanded = list(expand(plain))
        if not expanded or len(expanded) > _MOST:
            return None
        found += ((each.rstrip("./"), slots if slots is not None else count) for each in expanded)
    return Reading(tuple(found), hint) if found else None


def _split(text: str) -> tuple[list[str], str]:
    """Names and what follows them; commas outside of brackets separate names."""
    first = _LISTED.match(text)
    if first is None:
        return [], text
    return re.findall(_ONE_NAME, first.group(0)), text[first.end() :]


def _slots(rest: str) -> tuple[int | None, str]:
    """The count of a line: `slots=4`, `slots=0,1,2,3`, `slots=4-7`, `gpus: 4`, or the only number."""
    without_maximum = _MAX_SLOTS.sub("", rest)
    match = _SETTING.search(without_maximum) or _SETTING.search(rest)
    number = match.group(1) if match else None
    if number is None:
        numbers = re.findall(r"\d+", rest)
        return (int(numbers[0]), "") if len(numbers) == 1 and len(numbers[0]) < 10 else (None, "")
    if number.isdigit():
        return (int(number), "") if len(number) < 10 else (None, "")
    devices = sorted(set(map(int, _numbers(number))))
    if not devices:
        return None, ""
    if devices != list(range(len(devices))):
        return len(devices), f" (its ranks use devices 0 to {len(devices) - 1}, not {number})"
    return len(devices), ""


def _count_in_name(name: str) -> tuple[str, int | None, str]:
    """`n0:4`, `n0*4`, `n0(x4)` and `4*n0` are counts; `n0:22` is a port."""
    match = re.fullmatch(r"([^:*()]+)(?::|\*|\(x?)(\d{1,5})\)?", name)
    if match is None:
        times = re.fullmatch(r"(\d{1,4})\*(.+)", name)
        return (times.group(2), int(times.group(1)), "") if times else (name, None, "")
    plain, number = match.group(1), int(match.group(2))
    if ":" in name and (number == _SSH_PORT or number > 1024):
        return plain, None, " and set the port in the ssh configuration"
    return plain, number, ""


def expand(name: str) -> Iterator[str]:
    """The names of Slurm's `node[01-04,07]` and a shell's `node{1..4}` and `node{1,2}`; at most 65,537."""
    match = _RANGE.search(name)
    if match is None:
        yield name
        return
    numbers, first, last, words = match.groups()
    if numbers is not None:
        items = list(_numbers(numbers))
    elif first is not None:
        items = list(_numbers(f"{first}-{last}"))
    else:
        items = words.split(",")
    count = 0
    for item in items:
        for each in expand(name[: match.start()] + item + name[match.end() :]):
            count += 1
            yield each
            if count > _MOST:
                return


def _numbers(text: str) -> Iterator[str]:
    """`01-04,07` as 01, 02, 03, 04, 07."""
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if match is None:
            continue
        first, last = match.group(1), match.group(2) or match.group(1)
        for number in range(int(first), min(int(last), int(first) + _MOST) + 1):
            yield f"{number:0{len(first)}d}"
