"""Network interfaces that the ranks are told to use, against those that this host has."""

import socket
from collections.abc import Iterator, Mapping, Sequence

import psutil

from planner.problems import Problem

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def interface_problems(
    environment: Mapping[str, str],
    *,
    is_gpu: bool,
    master_addr: str,
    addresses: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Problem]:
    """A Problem for a variable that names an interface which this host does not have, or has no address.

    Args:
        is_gpu: NCCL reads its variable as prefixes (its documentation, "NCCL_SOCKET_IFNAME"); gloo, on
            CPUs, reads names.
        master_addr: of rank 0, for the interface that the fix names.
        addresses: IP addresses by interface; None: this host's.
    """
    name = NCCL if is_gpu else GLOO
    value = environment.get(name)
    if not value:
        return
    here = _addresses() if addresses is None else addresses
    usable = [interface for interface, found in here.items() if found]
    missing = _missing_nccl(value, usable) if is_gpu else _missing_gloo(value, usable)
    if missing is None:
        return
    has_none = missing in here
    chosen = _interface_to(master_addr, here) or next(iter(usable), "lo")
    yield Problem(
        code="SW618",
        path="launch.network_interface",
        found=f"{name}={value}: "
        + (f"the interface {missing} has no address" if has_none else f"there is no interface {missing}"),
        expected=f"one of: {', '.join(sorted(usable))}",
        fix=f"set launch.network_interface to {chosen} (or export {name}={chosen}), or to null to let the "
        "library choose",
    )


def _missing_gloo(value: str, usable: Sequence[str]) -> str | None:
    """The first of the names, divided by commas, that is not usable."""
    return next((name for name in value.split(",") if name not in usable), None)


def _missing_nccl(value: str, usable: Sequence[str]) -> str | None:
    """The value without its signs, if it selects no interface: ^ excludes, = is the entire name."""
    is_excluded, text = value.startswith("^"), value.removeprefix("^")
    is_exact, text = text.startswith("="), text.removeprefix("=")
    names = text.split(",")

    def is_named(interface: str) -> bool:
        return interface in names if is_exact else interface.startswith(tuple(names))

    selected = [interface for interface in usable if is_named(interface) != is_excluded]
    return None if selected else text


def _addresses() -> dict[str, list[str]]:
    families = (socket.AF_INET, socket.AF_INET6)
    found = {
        name: [a.address for a in all_ if a.family in families]
        for name, all_ in psutil.net_if_addrs().items()
    }
    return {name: found.get(name, []) for name in (name for _, name in socket.if_nameindex())}


def _interface_to(address: str, here: Mapping[str, Sequence[str]]) -> str | None:
    """The interface from which this host reaches an address; None where it does not."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(place)  # of a datagram socket: nothing is sent
            own = probe.getsockname()[0]
    except OSError:
        return None
    return next((name for name, found in here.items() if own in found), None)
