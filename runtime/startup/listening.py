"""Socket of rank 0's store: it listens on one interface, that of the address which the other ranks are given.

torch's own listens on all of them (TCPStore, torch 2.13).
"""

import errno
import ipaddress
import logging
import socket
import time

RETRY_S = 0.2
_BACKLOG = 4096
_ELSEWHERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV, errno.EINVAL)

logger = logging.getLogger(__name__)


def listen(address: str, port: int, *, is_on_one_host: bool, resolve_s: float) -> tuple[socket.socket, str]:
    """A listening socket, and the address at which this process reaches it.

    It listens on all interfaces, with a warning, where no address of rank 0's name is one that other hosts
    could reach here: Debian gives a host's own name 127.0.1.1, and in front of a container the address may
    be another machine's. 0.0.0.0 and :: are not of one interface.

    Args:
        address: MASTER_ADDR, a name or an address.
        is_on_one_host: whether all ranks were started on this host.
        resolve_s: for so long a name may be unknown.

    Raises:
        OSError: if the port cannot be listened on.
        socket.gaierror: if the name is not known.
    """
    found = _resolve(address, port, resolve_s)
    # A name may mean another address on other hosts; a number means the same everywhere.
    is_loopback_fine = is_on_one_host or _is_number(address)
    reachable = [entry for entry in found if is_loopback_fine or not _ip_of(entry[1]).is_loopback]
    is_any = any(_ip_of(place).is_unspecified for _, place in found)
    for family, place in () if is_any else reachable:
        try:
            return _listening(family, place), str(place[0])
        except OSError as error:
            if error.errno not in _ELSEWHERE:
                raise
    why = "is a loopback address here, unlike on other hosts"
    if reachable:
        why = "stands for every interface" if is_any else "is not an address of this host"
    logger.warning(
        "SW635 %s (%s) %s: rank 0 listens on port %d of all interfaces; set MASTER_ADDR to this host's "
        "address in the network of the ranks to listen on that one only",
        address,
        ", ".join(dict.fromkeys(str(place[0]) for _, place in found)),
        why,
        port,
    )
    if socket.has_dualstack_ipv6():
        place = ("::", port)
        everywhere = socket.create_server(
            place, family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
        )
    else:
        everywhere = socket.create_server(("", port), backlog=_BACKLOG)
    return everywhere, "127.0.0.1"


_Place = tuple[str, int] | tuple[str, int, int, int]


def _resolve(address: str, port: int, resolve_s: float) -> list[tuple[socket.AddressFamily, _Place]]:
    deadline = time.monotonic() + resolve_s
    while True:
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
            return [(family, place) for family, _, _, _, place in found]  # type: ignore[misc]
        except socket.gaierror:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)


def _listening(family: socket.AddressFamily, place: _Place) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        # The last attempt's connections may still be closing.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind(place)
        found.listen(_BACKLOG)  # now: of two that have bound, one gets the port
    except BaseException:
        found.close()
        raise
    return found


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return True


def _ip_of(place: _Place) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(str(place[0]).partition("%")[0])
