"""On which interface rank 0's store listens: that of MASTER_ADDR, and on all of them only with a warning."""

import socket
from collections.abc import Sequence

import psutil
import pytest

from runtime.startup import listening
from runtime.startup.listening import listen
from runtime.startup.rank_store import Attempt, serve
from tests.support.launching import free_port


def own_address() -> str:
    """An address of this host that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            if entry.family == socket.AF_INET and not entry.address.startswith("127."):
                return entry.address
    pytest.skip("this host has no address but loopback")


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name has these addresses."""

    def getaddrinfo(host: str, port: int, **_: object) -> Sequence[object]:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in addresses
        ]

    monkeypatch.setattr(listening.socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("is_on_one_host", [True, False])
def test_a_number_is_taken_as_it_is(is_on_one_host: bool, caplog: pytest.LogCaptureFixture) -> None:
    port, other = free_port(), own_address()
    found, address = listen("127.0.0.1", port, is_on_one_host=is_on_one_host, resolve_s=0)
    with found:
        assert address == "127.0.0.1"
        assert answers("127.0.0.1", port)
        assert not answers(other, port)
    assert not caplog.records


def test_the_address_of_an_interface_is_not_heard_on_the_others() -> None:
    port, own = free_port(), own_address()
    found, address = listen(own, port, is_on_one_host=False, resolve_s=0)
    with found:
        assert address == own
        assert answers(own, port)
        assert not answers("127.0.0.1", port)


def test_the_served_store_is_reached_there_only() -> None:
    port = free_port()
    attempt = Attempt(job="ours", scope="s", secret=None)
    store = serve("127.0.0.1", port, attempt, timeout_s=5, is_on_one_host=True)
    store.set("a", "b")
    heard = [
        c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port
    ]
    assert heard == ["127.0.0.1"]
    assert not answers(own_address(), port)


def test_debians_own_name_of_a_host_is_no_address_for_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolve_to(monkeypatch, "127.0.1.1")
    port = free_port()
    found, address = listen("node0", port, is_on_one_host=False, resolve_s=0)
    monkeypatch.undo()
    with found:
        assert answers(own_address(), port)
        assert answers(address, port)
    (record,) = caplog.records
    assert record.getMessage().startswith("SW635 node0 (127.0.1.1) is a loopback address here")


def test_but_it_is_for_ranks_of_this_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolve_to(monkeypatch, "127.0.1.1")
    found, address = listen("node0", free_port(), is_on_one_host=True, resolve_s=0)
    found.close()
    assert address == "127.0.1.1"
    assert not caplog.records


def test_of_several_addresses_the_first_that_others_reach_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_address()
    resolve_to(monkeypatch, "127.0.1.1", "2001:db8::7", "203.0.113.7", own)
    found, address = listen("node0", free_port(), is_on_one_host=False, resolve_s=0)
    found.close()
    assert address == own


def test_an_address_in_front_of_this_host_is_listened_for_on_all(caplog: pytest.LogCaptureFixture) -> None:
    """203.0.113.0/24 is nobody's (RFC 5737): as that of a gateway in front of a container."""
    port = free_port()
    found, address = listen("203.0.113.7", port, is_on_one_host=False, resolve_s=0)
    with found:
        assert answers(own_address(), port)
        assert answers(address, port)
    (record,) = caplog.records
    assert record.getMessage().startswith("SW635 203.0.113.7 (203.0.113.7) is not an address of this host")


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_an_address_of_every_interface_is_listened_on_with_a_warning(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    found, reached = listen(address, port, is_on_one_host=True, resolve_s=0)
    with found:
        assert answers(own_address(), port)
        assert answers(reached, port)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"SW635 {address} ({address}) stands for every interface")


def test_without_ipv6_it_listens_on_all_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening.socket, "has_dualstack_ipv6", lambda: False)
    port = free_port()
    found, _ = listen("203.0.113.7", port, is_on_one_host=False, resolve_s=0)
    with found:
        assert found.family == socket.AF_INET
        assert answers(own_address(), port)


def test_ipv6_is_listened_on() -> None:
    port = free_port()
    try:
        found, address = listen("::1", port, is_on_one_host=True, resolve_s=0)
    except OSError as error:
        pytest.skip(f"this host has no IPv6: {error}")
    with found:
        assert (address, answers("::1", port), answers("127.0.0.1", port)) == ("::1", True, False)


def test_a_port_that_is_taken_on_another_interface_is_free() -> None:
    with socket.socket() as taken:
        taken.bind((own_address(), 0))
        taken.listen()
        found, _ = listen("127.0.0.1", taken.getsockname()[1], is_on_one_host=True, resolve_s=0)
        found.close()


def test_of_two_that_listen_at_once_one_is_refused() -> None:
    port = free_port()
    found, _ = listen("127.0.0.1", port, is_on_one_host=True, resolve_s=0)
    with found, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", port, is_on_one_host=True, resolve_s=0)


def test_a_name_that_never_resolves_is_given_up() -> None:
    with pytest.raises(socket.gaierror):
        listen("no-such-host.invalid", 1, is_on_one_host=False, resolve_s=0)
