"""Store at which the ranks of one job meet: rank 0 (or torchrun) serves it at MASTER_ADDR:MASTER_PORT.

Before the ranks have met, nobody is gone: a store that cannot be served or reached has a reason of its own.
"""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import psutil
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore

from planner import Problem
from runtime.startup.meeting import CannotMeet

RETRY_S = 0.2
# One attempt to connect: a firewall that drops packets answers nothing at all.
CONNECT_S = 5.0
# A name may appear late, when its container does.
RESOLVE_S = 30.0
# For the greeting of a server that was reached in the last moment.
MIN_S = 1.0
_JOB = "job"


def serve(address: str, port: int, *, job: str, scope: str, timeout_s: float) -> Store:
    """On rank 0: the store, which this process serves.

    Args:
        job: what all ranks of this job have in common, and no other job.
        scope: of the keys; a store that outlives an attempt has keys of each.
        timeout_s: of the store's operations.

    Raises:
        CannotMeet: if the port cannot be listened on.
    """
    try:
        store = _tcp_store(address, port, timeout_s, is_master=True)
    except dist.DistNetworkError as error:
        raise CannotMeet(_not_served(port, str(error))) from error
    store.set(_JOB, job)
    return PrefixStore(scope, store)


def join(address: str, port: int, *, job: str | None, scope: str, timeout_s: float) -> Store:
    """On the other ranks: the store that rank 0 serves.

    Args:
        job: this rank's own, for the comparison; None where a launcher serves the store.

    Raises:
        CannotMeet: if it is not reached within `timeout_s`, or is another job's.
    """
    deadline = time.monotonic() + timeout_s
    _wait_for_server(address, port, deadline)
    left_s = max(MIN_S, deadline - time.monotonic())
    stores: list[TCPStore] = []

    def greet() -> None:
        with contextlib.suppress(dist.DistError):
            store = _tcp_store(address, port, left_s, is_master=False)
            if job is None or _has_job(store, deadline):
                stores.append(store)

    # torch 2.13 waits for the answer of a server without any timeout (TCPStore.cpp, TCPStore::ping).
    greeting = threading.Thread(target=greet, name="greet-store", daemon=True)
    greeting.start()
    greeting.join(left_s)
    if not stores:
        found = f"something answers at {address}:{port}, but it is not rank 0 of a run"
        raise CannotMeet(_not_ours(found))
    store = stores[0]
    if job is not None and store.get(_JOB).decode(errors="replace") != job:
        raise CannotMeet(_not_ours(f"rank 0 of another job answers at {address}:{port}"))
    store.set_timeout(timedelta(seconds=timeout_s))
    return PrefixStore(scope, store)


def holder_of(port: int) -> str:
    """The process of this host that listens on a port, for a message; "" if it cannot be seen."""
    try:
        found = next(
            (
                connection.pid
                for connection in psutil.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr[1] == port
            ),
            None,
        )
        if found is None:
            return ""
        words = psutil.Process(found).cmdline()
    except (psutil.Error, OSError):
        return ""
    return f"pid {found}: {' '.join(words[:6]) or 'unknown program'}"


def _tcp_store(address: str, port: int, timeout_s: float, *, is_master: bool) -> TCPStore:
    return TCPStore(
        address,
        port,
        is_master=is_master,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )


def _has_job(store: Store, deadline: float) -> bool:
    """Whether the store says in time whose it is."""
    while not store.check([_JOB]):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _wait_for_server(address: str, port: int, deadline: float) -> None:
    resolve_by = min(deadline, time.monotonic() + RESOLVE_S)
    began = time.monotonic()
    while True:
        try:
            socket.create_connection((address, port), timeout=CONNECT_S).close()
            return
        except OSError as error:
            is_over = time.monotonic() > (resolve_by if isinstance(error, socket.gaierror) else deadline)
            if is_over:
                waited_s = time.monotonic() - began
                raise CannotMeet(_not_reached(address, port, error, waited_s)) from error
        time.sleep(RETRY_S)


def _not_served(port: int, text: str) -> Problem:
    if "EADDRINUSE" in text or "in use" in text:
        holder = holder_of(port)
        return Problem(
            code="SW632",
            found=f"rank 0 cannot listen on port {port} of {socket.gethostname()}: it is in use"
            + (f" ({holder})" if holder else ""),
            expected="a free port (MASTER_PORT) on the host of rank 0",
            fix=f"{PORT_FIX}, or end that process if it is left over",
        )
    return Problem(
        code="SW632",
        found=f"rank 0 cannot listen on port {port} of {socket.gethostname()}: {text.splitlines()[0]}",
        expected="a port (MASTER_PORT) that rank 0 may listen on, 1024 to 65535",
        fix=PORT_FIX,
    )


PORT_FIX = (
    "choose another port: --master_port N for deepspeed, --master-port N for torchrun, MASTER_PORT=N "
    "for srun and mpirun, `launch.sh N` for a generated launch"
)


def _not_reached(address: str, port: int, error: OSError, waited_s: float) -> Problem:
    here, place = socket.gethostname(), f"{address}:{port}"
    after = f"after {waited_s:.0f} s"
    for applies, found, fix in _REASONS:
        if applies(error):
            return Problem(
                code="SW633",
                found=found.format(here=here, place=place, address=address, after=after),
                expected="the address (MASTER_ADDR) and port of rank 0, reachable from every host",
                fix=fix.format(here=here, place=place, address=address, port=port),
            )
    raise AssertionError("the last reason applies to every error")


_REASONS: tuple[tuple[Callable[[OSError], bool], str, str], ...] = (
    (
        lambda error: isinstance(error, socket.gaierror),
        "{here} cannot resolve the name of rank 0's host, {address} ({after})",
        "correct MASTER_ADDR, or add the name to DNS or /etc/hosts on {here}; try: getent hosts {address}",
    ),
    (
        lambda error: isinstance(error, ConnectionRefusedError),
        "nothing listens at {place}, where rank 0 should be ({after})",
        "see the log of rank 0: it did not start, or runs on another host or port",
    ),
    (
        lambda error: isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT,
        "{place} does not answer {here} ({after}): a firewall drops the packets, the host is down, or the "
        "address belongs to an interface that other hosts do not reach",
        "open port {port} between the hosts, or set MASTER_ADDR to the address of the network they share",
    ),
    (
        lambda error: error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL),
        "{here} has no route to {place} ({after})",
        "set MASTER_ADDR to an address of the network that the hosts share; see `ip route get {address}`",
    ),
    (lambda error: True, "{here} cannot connect to {place} ({after})", "check MASTER_ADDR and MASTER_PORT"),
)


def _not_ours(found: str) -> Problem:
    return Problem(
        code="SW634",
        found=found,
        expected="rank 0 of this job at MASTER_ADDR:MASTER_PORT",
        fix=PORT_FIX,
    )
