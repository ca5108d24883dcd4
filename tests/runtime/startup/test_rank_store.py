"""Why ranks cannot meet: each cause has a line of its own, within the timeout; no job hears another."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from runtime.startup import rank_store
from runtime.startup.meeting import CannotMeet
from runtime.startup.rank_store import Attempt, Server, holder_of
from tests.support.launching import ROOT, free_port

HERE = "127.0.0.1"


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A program that listens and never answers; gives its port."""
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        taken.listen()
        yield taken.getsockname()[1]


def serve(port: int, job: str = "ours") -> dist.Store:
    attempt = Attempt(job=job, scope=f"{job}/0")
    return rank_store.serve(HERE, port, attempt, timeout_s=5, is_on_one_host=True)


def join(port: int, address: str = HERE, *, timeout_s: float = 5, job: str = "ours") -> dist.Store:
    attempt = Attempt(job=job, scope=f"{job}/0")
    return rank_store.join(address, port, attempt, timeout_s=timeout_s, server=Server.RANK_0)


def told(port: int, address: str = HERE, *, timeout_s: float = 1.0, job: str = "ours") -> str:
    """What a rank says that cannot join."""
    with pytest.raises(CannotMeet) as caught:
        join(port, address, job=job, timeout_s=timeout_s)
    return str(caught.value)


def test_ranks_of_one_job_meet() -> None:
    port = free_port()
    served = serve(port)
    joined = join(port)
    joined.set("key", "value")
    assert served.get("key") == b"value"


def test_ranks_wait_for_rank_0() -> None:
    port = free_port()
    threading.Timer(1.0, lambda: kept.append(serve(port))).start()
    kept: list[object] = []
    joined = join(port, timeout_s=20)
    joined.set("key", "value")
    assert kept


def test_a_taken_port_names_who_holds_it() -> None:
    with listener() as port, pytest.raises(CannotMeet) as caught:
        serve(port)
    problem = caught.value.problem
    assert problem.code == "SW632"
    assert f"port {port} of {socket.gethostname()}: it is in use (pid {os.getpid()}: " in problem.found
    assert "--master_port N for deepspeed" in str(problem.fix)


def test_a_privileged_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("runtime.startup.listening.socket.socket.bind", refuse)
    with pytest.raises(CannotMeet, match=r"SW632 .*cannot listen on port 80 .*permission denied"):
        serve(80)


def test_nobody_listens() -> None:
    port, began = free_port(), time.monotonic()
    assert f"SW633 nothing listens at {HERE}:{port}, where rank 0 should be" in told(port, timeout_s=1.5)
    assert time.monotonic() - began < 3, "it gives up after the timeout, not after twice that"


def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_store, "RESOLVE_S", 0.0)
    text = told(29500, "no-such-host.invalid", timeout_s=60)
    assert "SW633" in text
    assert "cannot resolve the name of rank 0's host, no-such-host.invalid" in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("timed out"), "does not answer"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "has no route to"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "has no route to"),
        (OSError(errno.EPERM, "Operation not permitted"), "cannot connect to"),
    ],
)
def test_a_network_that_lets_nothing_through(
    monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(rank_store.socket, "create_connection", fail)
    assert words in told(29500, "10.9.9.9", timeout_s=0.5)


# A cable whose other end takes packets and answers none, as a firewall does. Nobody is at .3.
_NETWORK = """
set -e
ip link set lo up
ip link add v0 type veth peer name v1
ip addr add 10.9.9.1/24 dev v0
ip link set v0 up
ip link set v1 up
ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:01 dev v0 nud permanent
exec "$@"
"""
_JOINS = """
import sys, time
from runtime.startup.meeting import CannotMeet
from runtime.startup.rank_store import Attempt, Server, join
for address in sys.argv[1:]:
    began = time.monotonic()
    try:
        join(address, 29500, Attempt(job="j", scope="s"), timeout_s=6, server=Server.RANK_0)
    except CannotMeet as error:
        print(round(time.monotonic() - began), error.problem.found)
"""


@pytest.mark.slow
def test_a_firewall_an_absent_host_and_a_missing_route_are_told_apart() -> None:
    """In a network of its own; each within the timeout of 6 s, not after twice that."""
    inside = ["unshare", "--net", "bash", "-c", _NETWORK, "network"]
    tried = subprocess.run([*inside, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no network namespaces here: {tried.stderr.strip()}")
    addresses = ("10.9.9.2", "10.9.9.3", "192.0.2.1")
    done = subprocess.run(
        [*inside, sys.executable, "-c", _JOINS, *addresses],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    seconds, found = zip(*(line.split(" ", 1) for line in done.stdout.splitlines()), strict=True)
    assert [text.partition(" (after")[0] for text in found] == [
        f"10.9.9.2:29500 does not answer {socket.gethostname()}",
        f"{socket.gethostname()} has no route to 10.9.9.3:29500",
        f"{socket.gethostname()} has no route to 192.0.2.1:29500",
    ]
    assert "a firewall drops the packets" in found[0]
    assert all(int(waited) < 11 for waited in seconds), seconds


def test_a_program_that_is_no_store() -> None:
    began = time.monotonic()
    with listener() as port:
        assert f"SW634 something answers at {HERE}:{port}, but it is not rank 0" in told(port, timeout_s=2)
    assert time.monotonic() - began < 6


def test_another_job_is_not_heard() -> None:
    port = free_port()
    theirs = serve(port, job="theirs")
    assert f"SW634 rank 0 of another job answers at {HERE}:{port}" in told(port, timeout_s=5)
    assert not theirs.check(["report/1"])


def test_the_holder_of_a_free_port_is_nobody() -> None:
    assert holder_of(free_port()) == ""
