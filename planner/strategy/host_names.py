"""Names of hosts: DNS names, addresses, aliases of the ssh configuration, optionally with a user."""

import ipaddress
import re

MAX_HOSTS = 65_536
MAX_SLOTS = 1_024
_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_.-]*@)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
EXPECTED_NAME = "a host name or address in ASCII, or an alias of the ssh configuration"
# DeepSpeed 0.19.8, launcher/runner.py:229, accepts anything after the digits; here only a comment may follow.
LINE = re.compile(r"(\S+)\s+slots=(\d{1,9})(?:\s+#.*)?")


def machine_of(name: str) -> str:
    """The host of a name, without the user."""
    return name.rpartition("@")[2].lower()


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
