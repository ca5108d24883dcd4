"""Store at which the ranks of one job meet: rank 0 (or torchrun) serves it at MASTER_ADDR:MASTER_PORT.

Before the ranks have met, nobody is gone: a store that cannot be served or reached has a reason of its own.
"""

import contextlib
import errno
import hmac
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

import psutil
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore

from planner import Problem
from runtime.process.attempt_secret import VARIABLE
from runtime.startup.listening import listen
from runtime.startup.meeting import AskedToStop, CannotMeet
from runtime.startup.sealed_store import SealedStore, seal_of

RETRY_S = 0.2
# One attempt to connect: a firewall that drops packets answers nothing at all.
CONNECT_S = 5.0
# A name may appear late, when its container does.
RESOLVE_S = 30.0
# For the greeting of a server that was reached in the last moment.
MIN_S = 1.0
_JOB = "job"


class Server(Enum):
    """Who serves a store that a rank joins."""

    RANK_0 = "rank 0"
    LAUNCHER = "the launcher"
    LAUNCHER_OF_RANK_0 = "the launcher, and this is rank 0"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Whose ranks meet.

    job: what all ranks of this job have in common, and no other job.
    scope: of the keys; a store that outlives an attempt has keys of each.
    secret: what no stranger knows; None: the ranks have none, and anybody may write into their store.
    """

    job: str
    scope: str
    secret: str | None = None

    def entries(self, store: Store) -> Store:
        """Its entries in a store."""
        if self.secret is None:
            return PrefixStore(self.scope, store)
        return SealedStore(self.scope, store, self.secret)

    @property
    def seal_key(self) -> str:
        return f"{self.scope}/seal"

    @property
    def seal(self) -> str:
        return seal_of(self.scope, self.secret)


def serve(address: str, port: int, attempt: Attempt, *, timeout_s: float, is_on_one_host: bool) -> Store:
    """On rank 0: the store, which this process serves.

    Args:
        timeout_s: of the store's operations.
        is_on_one_host: whether all ranks were started on this host.

    Raises:
        CannotMeet: if the port cannot be listened on.
    """
    try:
        listening, own_address = listen(
            address, port, is_on_one_host=is_on_one_host, resolve_s=min(RESOLVE_S, timeout_s)
        )
    except socket.gaierror as error:
        raise CannotMeet(_not_reached(address, port, error, min(RESOLVE_S, timeout_s))) from error
    except OSError as error:
        raise CannotMeet(_not_served(port, error)) from error
    store = TCPStore(
        own_address,
        port,
        is_master=True,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=listening.detach(),  # the store closes it
    )
    store.set(_JOB, attempt.job)
    store.set(attempt.seal_key, attempt.seal)
    return attempt.entries(store)


def join(
    address: str,
    port: int,
    attempt: Attempt,
    *,
    timeout_s: float,
    server: Server,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> Store:
    """On the other ranks: the store that rank 0 serves. On every rank: the one that a launcher serves.

    Raises:
        AskedToStop: if nobody serves it yet, or any more, and this rank was asked to stop.
        CannotMeet: if it is not reached within `timeout_s`, is another job's, or another secret's.
    """
    deadline = time.monotonic() + timeout_s
    _wait_for_server(address, port, deadline, is_asked_to_stop)
    left_s = max(MIN_S, deadline - time.monotonic())
    stores: list[TCPStore] = []

    def greet() -> None:
        with contextlib.suppress(dist.DistError):
            store = TCPStore(
                address,
                port,
                is_master=False,
                timeout=timedelta(seconds=left_s),
                wait_for_workers=False,
            )
            if server is not Server.RANK_0 or _appears(store, _JOB, deadline):
                stores.append(store)

    # torch 2.13 waits for the answer of a server without any timeout (TCPStore.cpp, TCPStore::ping).
    greeting = threading.Thread(target=greet, name="greet-store", daemon=True)
    greeting.start()
    greeting.join(left_s)
    if not stores:
        found = f"something answers at {address}:{port}, but it is not rank 0 of a run"
        raise CannotMeet(_not_ours(found))
    store = stores[0]
    if server is Server.RANK_0 and store.get(_JOB).decode(errors="replace") != attempt.job:
        raise CannotMeet(_not_ours(f"rank 0 of another job answers at {address}:{port}"))
    if server is Server.LAUNCHER_OF_RANK_0:
        store.set(attempt.seal_key, attempt.seal)
    elif not _appears(store, attempt.seal_key, deadline):
        raise CannotMeet(_rank_0_missing(address, port, timeout_s))
    elif not hmac.compare_digest(store.get(attempt.seal_key), attempt.seal.encode()):
        raise CannotMeet(_other_secret(address, port, has_own=attempt.secret is not None))
    store.set_timeout(timedelta(seconds=timeout_s))
    return attempt.entries(store)


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


def _appears(store: Store, key: str, deadline: float) -> bool:
    """Whether the store has an entry in time."""
    while not store.check([key]):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _wait_for_server(address: str, port: int, deadline: float, is_over: Callable[[], bool]) -> None:
    resolve_by = min(deadline, time.monotonic() + RESOLVE_S)
    began = time.monotonic()
    reason: OSError | None = None
    while True:
        # Not longer than what is left, so that the rank gives up in time.
        patience_s = max(RETRY_S, min(CONNECT_S, deadline - time.monotonic()))
        try:
            socket.create_connection((address, port), timeout=patience_s).close()
            return
        except OSError as error:
            # An attempt that was cut short says less than the one before: a missing host takes 3 s (ARP).
            if reason is None or patience_s == CONNECT_S or not isinstance(error, TimeoutError):
                reason = error
            if time.monotonic() > (resolve_by if isinstance(error, socket.gaierror) else deadline):
                waited_s = time.monotonic() - began
                raise CannotMeet(_not_reached(address, port, reason, waited_s)) from error
        if is_over():  # and so was rank 0, which may have ended without this rank
            raise AskedToStop
        time.sleep(RETRY_S)


def _not_served(port: int, error: OSError) -> Problem:
    what = f"rank 0 cannot listen on port {port} of {socket.gethostname()}"
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port)
        return Problem(
            code="SW632",
            found=f"{what}: it is in use" + (f" ({holder})" if holder else ""),
            expected="a free port (MASTER_PORT) on the host of rank 0",
            fix=f"{PORT_FIX}, or end that process if it is left over",
        )
    return Problem(
        code="SW632",
        found=f"{what}: {(error.strerror or str(error)).lower()}",
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


def _rank_0_missing(address: str, port: int, timeout_s: float) -> Problem:
    return Problem(
        code="SW633",
        found=f"the store at {address}:{port} answers, but rank 0 did not come to it "
        f"(after {timeout_s:.0f} s)",
        expected="rank 0, started with the other ranks",
        fix="see the log of rank 0: it did not start",
    )


def _other_secret(address: str, port: int, *, has_own: bool) -> Problem:
    found = "a secret that is not that of" if has_own else "no secret, unlike"
    return Problem(
        code="SW638",
        found=f"this rank has {found} rank 0 at {address}:{port}",
        expected=f"the same {VARIABLE} for all ranks, or for none",
        fix=f"export {VARIABLE} where the launcher is started and hand it on to all hosts (mpirun: "
        f"-x {VARIABLE}; deepspeed on several hosts: a line in .deepspeed_env), or unset it everywhere",
    )
