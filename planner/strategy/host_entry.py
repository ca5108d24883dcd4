"""One host, or several of one expression, with its number of slots, as other launchers write it.

Either every word of an entry is understood, or the entry is unclear: half a reading would be another meaning.
"""

import re
from dataclasses import dataclass

from planner.strategy.host_expressions import MOST_NAMES, as_braces, expand, split_outside_brackets
from planner.strategy.host_names import MAX_SLOTS, as_host_name, is_host_name, is_ipv6
from planner.units import shorten

_SSH_PORT = 22
_EITHER = (80, 222, 443, 2022)  # a port that sshd is moved to, or a number of cores
_COUNT = r"(?:num_gpus|slots?|gpus?|ngpus|nproc_per_node|nproc|np|n|cpus?|ppn|processes|count)"
_MAXIMUM = r"max[-_]slots"
_UNIT = re.compile(r"(?i)gpus?|slots?|cpus?|cores?|processes|ranks?")
_COUNT_KEY = re.compile(rf"(?i){_COUNT}")
_COLON = re.compile(rf"(?i)(?<![^\s,])({_COUNT}|{_MAXIMUM})\s*:\s*(?=\d)")
_EQUALS = re.compile(r"\s*=\s*")
_OPTIONS = {
    **dict.fromkeys(("user", "username", "login", "ansible_user", "ansible_ssh_user"), "user"),
    **dict.fromkeys(("ansible_host", "ansible_ssh_host", "hostname", "ip", "address"), "address"),
    **dict.fromkeys(("port", "ansible_port", "ansible_ssh_port"), "port"),
    "ifname": "interface",  # MPICH
}
_INTEGER = re.compile(r"\+?\d{1,9}|0[xX][0-9a-fA-F]{1,6}")
_FLOAT = re.compile(r"\+?\d{1,6}(?:\.\d{0,6})?(?:[eE]\+?\d)?")
_DEVICES = re.compile(r"\d{1,2}(?:-\d{1,2})?(?:,\d{1,2}(?:-\d{1,2})?)*")
_IN_BRACKETS = re.compile(r"(?P<user>[A-Za-z_][\w.-]*@)?\[(?P<name>[0-9A-Fa-f:.]*:[^\]]*)\](?P<rest>.*)")
_COUNT_AFTER = re.compile(r"(?P<name>[^:*()]+)(?P<mark>[:*]|\(x?)(?P<number>\d{1,5})(?P<end>\)?)")
_COUNT_BEFORE = re.compile(r"(\d{1,4})\*(.+)")


class UnclearError(Exception):
    """What cannot be understood, or means one thing or another."""


@dataclass(frozen=True)
class Entry:
    """Hosts with their slots, None where there is no number; `braces`: the names as bash expands them."""

    hosts: tuple[tuple[str, int | None], ...]
    braces: str
    hint: str = ""


def normalize(text: str) -> str:
    """`slots = 4` and `gpus: 4` as slots=4 and gpus=4."""
    return _COLON.sub(r"\1=", _EQUALS.sub("=", text))


def is_setting(word: str) -> bool:
    """Whether a word of an entry follows its name: a number, a unit, or key=value."""
    if re.fullmatch(r"[\w-]+=.*", word) or _UNIT.fullmatch(word) or _COUNT_KEY.fullmatch(word):
        return True
    return re.fullmatch(r"=?[\d.,+-]+|\(?x?\d+\)?|\d+\(x\d+\)", word) is not None and "." not in word[1:-1]


def read_entry(text: str) -> Entry:
    """`name`, `name 4`, `name slots=4 max_slots=8`, `name[1-4] gpus: 8`, `bob@name:2222`, `name:4`.

    Raises:
        UnclearError: with the reason.
    """
    first, _, rest = text.partition(" ")
    counts, options = _read_settings(rest.split())
    pair = re.fullmatch(r"([^=,\[{]+)=(.*)", first)
    if pair is not None and not _COUNT_KEY.fullmatch(pair.group(1)):
        first, counts = pair.group(1), [pair.group(2), *counts]  # n0=4
    number, hint = _one_count(counts)
    hosts: list[tuple[str, int | None]] = []
    tokens = split_outside_brackets(first, ",")
    if len(tokens) == 2 and tokens[1].isdigit() and not counts:
        return read_entry(f"{tokens[0]} {tokens[1]}")  # a row of a CSV file
    braces = []
    for token in tokens:
        names, own, more = _read_name(token)
        if own is not None and number not in (None, own):
            raise UnclearError(f"it has {own} and {number}")
        hint = hint or more
        hosts += ((name, own if number is None else number) for name in names)
        braces.append(_bash(token, names))
    if not hosts:
        raise UnclearError("it has no name")
    hosts, more = _with_options(hosts, options)
    return Entry(tuple(hosts), " ".join(braces), f"{hint}{more}")


def _bash(token: str, names: list[str]) -> str:
    """Names as bash expands them, short where the token is an expression."""
    if len(names) == 1:
        return names[0]
    return as_braces(re.sub(r"(?:[:*]\d+|\(x?\d+\))$|^\d+\*", "", token))


def _read_settings(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Values that count slots, and the other options by what they are."""
    counts: list[str] = []
    maximum: list[str] = []
    options: dict[str, str] = {}
    waits_for_value = False
    for word in words:
        key, is_pair, value = word.strip(",").partition("=")
        lowered = key.lower()
        if is_pair and not key:
            counts.append(value)  # `n0 = 4`
        elif is_pair and re.fullmatch(rf"(?i){_MAXIMUM}", key):
            maximum.append(value)
        elif is_pair and _COUNT_KEY.fullmatch(key):
            counts.append(value)
        elif is_pair and lowered in _OPTIONS:
            options[_OPTIONS[lowered]] = value
        elif is_pair:
            raise UnclearError(f"{shorten(word, 40)!r} is not known")
        elif _UNIT.fullmatch(key) or _COUNT_KEY.fullmatch(key):
            waits_for_value = not counts  # `slots 4`; in `8 GPUs` it is a unit
            continue
        elif match := re.fullmatch(r"\(?([\d,-]+)\)?", key):
            counts.append(match.group(1))
        elif re.fullmatch(r"\d+\(x\d+\)", key):
            raise UnclearError(f"{key} may be of other hosts too")
        else:
            raise UnclearError(f"{shorten(word, 40)!r} is not known")
        waits_for_value = False
    if waits_for_value:
        raise UnclearError("its number is missing")
    return counts or maximum, options


def _one_count(texts: list[str]) -> tuple[int | None, str]:
    if not texts:
        return None, ""
    found = {_read_count(text) for text in texts}
    if len(found) > 1:
        raise UnclearError(f"it has {' and '.join(texts)}")
    count, hint = found.pop()
    if count is not None and count > MAX_SLOTS:
        raise UnclearError(f"{shorten(texts[0], 20)} is more than {MAX_SLOTS} slots")
    return count, hint


def _read_count(text: str) -> tuple[int | None, str]:
    """A number of slots, and what of it is lost: `4`, `1e3`, `8.0`, `0,1,2,3`, `4-7`; None: no number.

    Raises:
        UnclearError: for anything else.
    """
    if text.lower() in ("", "auto"):
        return None, ""
    if _INTEGER.fullmatch(text):
        return int(text, 16 if text[:2] in ("0x", "0X") else 10), ""
    if _FLOAT.fullmatch(text) and float(text).is_integer():
        return int(float(text)), ""
    if not _DEVICES.fullmatch(text) or not re.search("[,-]", text):
        raise UnclearError(f"{shorten(text, 20)!r} is not a number")
    devices: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        devices |= set(range(int(first), int(last or first) + 1))
    firsts = [int(part.partition("-")[0]) for part in text.split(",")]
    if firsts != sorted(firsts):
        raise UnclearError(f"{text!r} may be a number or a list of devices")  # 8,0 is 8 in German
    if not devices or (len(devices) < text.count(",") + 1):
        raise UnclearError(f"{text!r} is not a list of devices")
    if sorted(devices) != list(range(len(devices))):
        used = (
            f"device 0, not {text}" if len(devices) == 1 else f"devices 0 to {len(devices) - 1}, not {text}"
        )
        return len(devices), f" (its ranks use {used})"
    return len(devices), ""


def _read_name(token: str) -> tuple[list[str], int | None, str]:
    """Names of a token, its own count, and a hint: `n0:4`, `n0*4`, `4*n0`, `n0:2222`, `[fe80::1]:4`."""
    bracketed = _IN_BRACKETS.fullmatch(token)
    if bracketed is not None:
        if not is_ipv6(bracketed["name"]):
            raise UnclearError(f"{shorten(token, 60)!r} is not an address")
        if bracketed["user"]:
            raise UnclearError("a user before an IPv6 address is not read; set User in the ssh configuration")
        count, hint = _after_colon(bracketed["rest"])
        return [bracketed["name"]], count, hint
    if is_ipv6(token):
        return [token], None, _count_or_address(token)
    before = _COUNT_BEFORE.fullmatch(token)
    if before is not None:
        return _expanded(before.group(2)), int(before.group(1)), ""
    after = _COUNT_AFTER.fullmatch(token)
    if after is None:
        return _expanded(token), None, ""
    if (after["mark"][0] == "(") != bool(after["end"]):
        raise UnclearError(f"{shorten(token, 60)!r} is not a host name")
    if after["mark"] != ":":
        return _expanded(after["name"]), int(after["number"]), ""
    count, hint = _after_colon(f":{after['number']}")
    return _expanded(after["name"]), count, hint


def _after_colon(text: str) -> tuple[int | None, str]:
    """What follows a name: a count, or a port."""
    if not text:
        return None, ""
    if re.fullmatch(r":\d{1,5}", text) is None:
        raise UnclearError(f"{shorten(text, 40)!r} is not known")
    number = int(text[1:])
    if number in _EITHER:
        raise UnclearError(f"{number} may be a port or a number of slots")
    if number == _SSH_PORT:
        return None, ""
    if number > MAX_SLOTS:
        return None, _port_hint(text[1:])
    return number, ""


def _port_hint(port: str) -> str:
    return f" and set Port {port} in the ssh configuration"


def _count_or_address(address: str) -> str:
    """In another syntax the last group of an address would be a count."""
    head, _, last = address.rpartition(":")
    if last.isdigit() and 1 <= int(last) <= MAX_SLOTS and is_ipv6(head):
        return f" (or {head} slots={last}, if :{last} is its number)"
    return ""


def _expanded(expression: str) -> list[str]:
    try:
        names = [name.rstrip("./") for name in expand(expression)]
    except ValueError as error:
        raise UnclearError(str(error)) from error
    if len(names) > MOST_NAMES:
        raise UnclearError(f"{shorten(expression, 60)!r} is more than {MOST_NAMES} hosts")
    found = []
    for name in names:
        ascii_name = as_host_name(name)
        if ascii_name is None or name.isdigit():
            raise UnclearError(f"{shorten(name, 60)!r} is not a host name")
        found.append(ascii_name)
    return found


def _with_options(
    hosts: list[tuple[str, int | None]], options: dict[str, str]
) -> tuple[list[tuple[str, int | None]], str]:
    """Hosts under the address and user by which ssh reaches them; what is lost is said."""
    hint = ""
    if "port" in options:
        hint += "" if options["port"] == str(_SSH_PORT) else _port_hint(options["port"])
    if "interface" in options:
        hint += f" (its interface belongs in launch.env: NCCL_SOCKET_IFNAME: {options['interface']})"
    if not {"user", "address"} & set(options):
        return hosts, hint
    if len(hosts) != 1:
        raise UnclearError("several hosts have one address or user")
    (name, count), user = hosts[0], options.get("user")
    name = options.get("address", name)
    if user is not None and "@" not in name:
        name = f"{user}@{name}"
    if not is_host_name(name):
        raise UnclearError(f"{shorten(name, 60)!r} is not a host name")
    return [(name, count)], hint
