"""Lines of other host lists (Open MPI, MPICH, Slurm, LSF, SGE, PBS, Ansible, /etc/hosts) as hosts with slots.

Only for fixes: what is read is DeepSpeed's `name slots=N`. Here its neighbours are understood, so that a fix
keeps the names and numbers that were found. A line that may mean two things is unclear, and no fix guesses.
"""

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.strategy.host_entry import Entry, UnclearError, is_setting, normalize, read_entry
from planner.strategy.host_expressions import split_outside_brackets
from planner.strategy.host_names import machine_of
from planner.units import shorten

_LONGEST = 16_384  # characters of a line
_VARIABLE = re.compile(
    r"(?:export\s+)?(?:SLURM_(?:JOB_)?NODELIST|LSB_(?:MCPU_)?HOSTS|HOSTS|HOSTLIST|NODES|NODELIST)=(.*)"
)
_HEADING = re.compile(r"(?i)hosts?|host_?names?|names?|nodes?|machines?|slots?|n?gpus?|num_gpus|cpus?|count")
_HEADING_ALONE = re.compile(r"(?i)(?:hosts|hostnames?|nodes|workers|machines):?|[\w-]+:")
_SSH_OPTION = re.compile(
    r"(?i)(?:HostName|User|Port|IdentityFile|IdentitiesOnly|ProxyJump|ProxyCommand|ForwardAgent|Match"
    r"|StrictHostKeyChecking|UserKnownHostsFile|LogLevel|ServerAlive\w+|Control\w+)[\s=]+\S.*"
)
_LOCAL_NAME = re.compile(r"(?i)localhost(?:\d|\..*)?|ip6-.*|broadcasthost")
_RANK = re.compile(r"rank\s+(\d{1,9})\s*=\s*(\S+)\s+slots?\s*=\s*\S+")


@dataclass(frozen=True)
class Reading:
    """What a line means: hosts with their slots (None: no number), or why it cannot be said.

    hint: what a fix has to add. braces: the names as bash expands them. unclear: why no line can be written
    in its place. no_host: what the line is, if it names none.
    """

    hosts: tuple[tuple[str, int | None], ...] = ()
    hint: str = ""
    braces: str = ""
    unclear: str = ""
    no_host: str = ""


def read_dialect(line: str) -> Reading:
    """What a line alone means."""
    if len(line) > _LONGEST:
        return Reading(unclear=f"it has {len(line):,} characters")
    text = re.sub(r"#.*$|\s//.*$", "", line.strip()).strip()
    if text[:1] == ";":
        return Reading(no_host="a comment begins with #")
    if text and all(letter in "[]{}(), " for letter in text):
        return Reading(no_host="a bracket")
    text = re.sub(r"^[-*•]\s+", "", text).rstrip(",;\\ ")
    if not _is_json(text):
        text = _QUOTED.sub(r"\1", text)
    text = re.sub(r"^([^\s:]+):\s+(\d+)$", r"\1 \2", text)  # of a YAML mapping
    no_host = _what_it_is(text)
    if no_host:
        return Reading(no_host=no_host)
    try:
        found = _read_json(text) or _read(text)
    except UnclearError as error:
        return Reading(unclear=str(error))
    names = Counter(machine_of(name) for name, _ in found.hosts)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        return Reading(unclear=f"{shorten(twice[0], 60)} is in it twice")
    return Reading(found.hosts, found.hint, found.braces)


# A word in quotes, also in those of a word processor.
_QUOTED = re.compile(r"[\"'`“”‘’„«»]([^\s\"'`“”‘’„«»]+)[\"'`“”‘’„«»]")


def _is_json(text: str) -> bool:
    """Whether a line is JSON as a whole, whose quotes belong to it."""
    return text[:1] in ("[", "{") and text[-1:] in ("]", "}")


def read_rankfile(lines: Sequence[str]) -> Mapping[int, Reading]:
    """The lines `rank 0=node1 slot=0` of an Open MPI rankfile, by their number from 1.

    The first line of a host has its number of ranks.
    """
    found = {n: m for n, line in enumerate(lines, 1) if (m := _RANK.match(line)) is not None}
    places = {int(match[1]): match[2] for match in found.values()}
    if len(places) < len(found) or any(name.startswith("+") for name in places.values()):
        why = "a rank is in it twice" if len(places) < len(found) else "+n0 is a host of a scheduler's list"
        return dict.fromkeys(found, Reading(unclear=why))
    count = Counter(map(machine_of, places.values()))
    firsts: dict[str, int] = {}
    in_order = [machine_of(places[rank]) for rank in sorted(places)]
    in_file = list(dict.fromkeys(machine_of(match[2]) for match in found.values()))
    is_grouped = in_order == [name for name in in_file for _ in range(count[name])]
    hint = "" if is_grouped else " (ranks are numbered host by host then, not as here)"
    readings = {}
    for number, match in found.items():
        host = machine_of(match[2])
        first = firsts.setdefault(host, number)
        if first != number:
            readings[number] = Reading(no_host=f"rank {match[1]} is counted in line {first}")
            continue
        one = read_dialect(match[2])
        is_one = len(one.hosts) == 1 and one.hosts[0][1] is None
        readings[number] = (
            replace(one, hosts=((one.hosts[0][0], count[host]),), hint=one.hint + hint)
            if is_one
            else Reading(unclear=one.unclear or f"{shorten(match[2], 60)!r} is not a host name")
        )
    return readings


def _what_it_is(text: str) -> str:
    """What a line is that names no host."""
    if not text:
        return "it names no host"
    if re.fullmatch(r"\[[A-Za-z_][\w:.-]*\]", text):
        return "a heading"
    words = re.split(r"[\s,;]+", text)
    if _HEADING_ALONE.fullmatch(text) or (len(words) > 1 and all(map(_HEADING.fullmatch, words))):
        return "a heading"
    if len(words) > 1 and _is_address(words[0]) and all(map(_LOCAL_NAME.fullmatch, words[1:])):
        return "it names this machine, or a group"
    if _SSH_OPTION.fullmatch(text):
        return "it belongs in the ssh configuration"
    return "a setting of Ansible" if re.match(r"ansible_\w+\s*[=:]", text) else ""


def _read(text: str) -> Entry:
    """A line that is not JSON."""
    text = normalize(text)
    variable = _VARIABLE.fullmatch(text)
    if variable is not None:
        text = variable.group(1).strip().strip("'\"")
    text = re.sub(r"^[a-z]+://", "", text)
    words = text.split()
    if len(words) == 4 and words[1].isdigit() and re.fullmatch(r"\S+@\S+|UNDEFINED|<NULL>", words[2]):
        return read_entry(f"{words[0]} {words[1]}")  # SGE: name, slots, queue, processors
    if len(words) > 1 and words[0].lower() == "host" and not is_setting(words[1]):
        return _joined([read_entry(word) for word in words[1:]])  # of an ssh configuration
    if len(words) > 1 and _is_address(words[0]) and not any(map(_is_no_name, words[1:])):
        return _of_etc_hosts(words)
    parts = split_outside_brackets(text, ";")
    if len(parts) > 1:
        return _joined([_read(part) for part in parts])
    parts = split_outside_brackets(text, ",")
    if len(parts) > 1 and sum("=" in part for part in parts) == len(parts):
        with_names = [part for part in parts if not is_setting(part.split()[0]) or " " in part]
        if len(with_names) == len(parts):
            return _joined([read_entry(part) for part in parts])
    return _read_words(re.sub(r"\s*,\s*", ",", text))


def _read_words(text: str) -> Entry:
    """Words separated by spaces: an entry, several names, or names each with its number (LSF)."""
    groups: list[list[str]] = []
    for word in re.sub(r",(?=[a-z-_]+=)", " ", text, flags=re.IGNORECASE).split():
        if groups and (is_setting(word) or word in ("=", ":")):
            groups[-1].append(word)
        else:
            groups.append([word])
    if len(groups) <= 1:
        return read_entry(text if not groups else " ".join(groups[0]))
    if all(len(group) == 1 for group in groups):
        names = [group[0] for group in groups]
        times = Counter(names)
        if max(times.values()) > 1:  # LSF's LSB_HOSTS has a host once for each of its slots
            return _joined([read_entry(f"{name} {count}") for name, count in times.items()])
        entries = [read_entry(name) for name in names]
        if not all(re.search(r"[\d.-]", name) for entry in entries for name, _ in entry.hosts):
            raise UnclearError("its words may be something else than names of hosts")
        return _joined(entries)
    return _joined([read_entry(" ".join(group)) for group in groups])


def _joined(entries: Sequence[Entry]) -> Entry:
    hosts = tuple(host for entry in entries for host in entry.hosts)
    if len({count is None for _, count in hosts}) > 1:
        raise UnclearError("not every host in it has a number")
    hints = dict.fromkeys(entry.hint for entry in entries if entry.hint)
    if len(entries) > 1 and hints:
        raise UnclearError("write each host in a line of its own")
    return Entry(hosts, " ".join(entry.braces for entry in entries), "".join(hints))


def _of_etc_hosts(words: Sequence[str]) -> Entry:
    """`10.0.0.1 node01 node01.local`: one host, by its first name."""
    return read_entry(next(word for word in words[1:] if not _LOCAL_NAME.fullmatch(word)))


def _read_json(text: str) -> Entry | None:
    """["n0", "n1"] and {"n0": 8, "n1": 8}; None if it is neither."""
    if text[:1] not in '["{' or '"' not in text:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _joined([read_entry(item) for item in _json_entries(value)])


def _json_entries(value: object) -> Iterator[str]:
    items = list(value.items()) if isinstance(value, dict) else value
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, tuple):
            if not isinstance(item[1], int):
                raise UnclearError("it is not a mapping of hosts to numbers")
            item = f"{item[0]} slots={item[1]}"
        if not isinstance(item, str) or not item.strip():
            raise UnclearError("it is not a list of names")
        yield normalize(item.strip())


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _is_no_name(word: str) -> bool:
    return _is_address(word) or is_setting(word)
