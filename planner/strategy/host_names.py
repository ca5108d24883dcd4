"""Names of hosts: DNS names, addresses, aliases of the ssh configuration, optionally with a user."""

import ipaddress
import re
import socket
from functools import lru_cache

MAX_HOSTS = 65_536
MAX_SLOTS = 1_024
LOCALHOST = "localhost"
_LOCAL = re.compile(r"localhost[46]?(\.localdomain[46]?)?|ip6-(localhost|loopback)")
_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_.-]*@)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
EXPECTED_NAME = "a host name or address in ASCII, or an alias of the ssh configuration"
# DeepSpeed 0.19.8, launcher/runner.py:229, accepts anything after the digits; here only a comment may follow.
LINE = re.compile(r"(\S+)\s+slots=(\d{1,9})(?:\s+#.*)?")


def host_of(name: str) -> str:
    """The host of a name, without the user."""
    return name.rpartition("@")[2].lower()


def machine_of(name: str) -> str:
    """What stands for the machine of a name, without the user: one text for all spellings of an address.

    The names of the machine where this runs (`localhost`, 127.0.0.1, ::1, its host name) are one machine.
    """
    host = host_of(name).rstrip(".")
    if _LOCAL.fullmatch(host) or host in own_names():
        return LOCALHOST
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return LOCALHOST if address.is_loopback else str(address)


def same_machine(name: str, other: str) -> str:
    """What is said of two names of one machine that differ."""
    return "" if host_of(name) == host_of(other) else f": {other} is the same machine"


def is_loopback(name: str) -> bool:
    """Whether a name is that of the machine where it is looked up: localhost, 127.0.0.1, ::1."""
    host = host_of(name).rstrip(".")
    try:
        return _LOCAL.fullmatch(host) is not None or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1)
def own_names() -> frozenset[str]:
    """The name of this machine, with and without its domain."""
    own = socket.gethostname().lower()
    return frozenset({own, own.partition(".")[0]} - {""})


def is_host_name(name: str) -> bool:
    """A DNS name, an ssh alias, an address, or one of them after `user@`."""
    return (len(name) <= 253 and _NAME.fullmatch(name) is not None) or is_ipv6(name)


def is_ipv6(text: str) -> bool:
    """An IPv6 address, without brackets."""
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def as_host_name(name: str) -> str | None:
    """The name, or the ASCII form of an international one; None if it is none."""
    if is_host_name(name):
        return name
    try:
        ascii_name = name.encode("idna").decode()
    except UnicodeError:
        return None
    return ascii_name if is_host_name(ascii_name) else None
