"""Fork server of an attempt on one host: takes the starts of ranks over a socket, and forks the ranks.

Its process has imported what ranks import, and has one thread. runtime/process/handover.py has the protocol
and the other side. Linux only.
"""

import contextlib
import ctypes
import gc
import io
import json
import os
import random
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.process.handover import LENGTH, PASSED_ON
from runtime.process.launcher_watch import was_asked_to_stop
from runtime.process.started_by import stand_for

POLL_S = 1.0
SEND_S = 5.0
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: socket(7), SO_PEERCRED
# What libraries have read when they were loaded; a rank with another value would not be what it seems.
_READ_WHEN_LOADED = ("OMP_", "MKL_", "KMP_", "GOMP_", "LD_", "MALLOC_", "TORCH", "PYTORCH_", "THP_", "LC_")
_READ_WHEN_LOADED_EXACTLY = ("DS_ACCELERATOR", "LANG")


@dataclass(frozen=True, kw_only=True)
class RankStart:
    """What a forked process is to run: `main(argv[1:])` of the module `program`."""

    program: str
    argv: tuple[str, ...]


@dataclass
class _Rank:
    process: int
    connection: socket.socket
    descriptor: int = field(repr=False)  # of the process, readable once it has ended


class ForkServer:
    """
    Args:
        listener: a listening socket at `handover.socket_path()`.
        environment: with which this process was started, before it set any variable itself.
    """

    def __init__(self, listener: socket.socket, environment: Mapping[str, str]) -> None:
        self._listener, self._environment = listener, environment
        self._ranks: dict[int, _Rank] = {}
        self._is_closing = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        if _is_pipe(0):
            self._selector.register(0, selectors.EVENT_READ, self._read_stdin)

    def close(self, *_: object) -> None:
        """No more ranks are forked; `serve` ends with the last one. A signal handler."""
        self._is_closing = True

    def serve(self) -> RankStart | None:
        """In a forked process, what it is to run; None in this one, once nobody needs it any more.

        That is after a signal, when the attempt has ended or was asked to stop, or when whoever started this
        process is gone, which closes its standard input.
        """
        gc.freeze()  # the collector would write to every page that the ranks share
        while self._ranks or not self._is_closing:
            for key, _ in self._selector.select(POLL_S):
                start: RankStart | None = key.data()
                if start is not None:
                    return start
            self._is_closing |= was_asked_to_stop() or not os.path.lexists(sys.executable)
        return None

    def _read_stdin(self) -> None:
        if not os.read(0, 4096):
            self._selector.unregister(0)
            self.close()

    def _accept(self) -> RankStart | None:
        connection, _ = self._listener.accept()
        connection.settimeout(SEND_S)
        try:
            request, streams = _receive(connection)
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()
            return None
        refusal = self._refusal(request)
        if refusal is not None:
            with contextlib.suppress(OSError):
                connection.sendall(f"no {refusal}\n".encode())
            connection.close()
        else:
            start = self._fork(connection, request, streams)
            if start is not None:
                return start
        for stream in streams:
            os.close(stream)
        return None

    def _refusal(self, request: Mapping[str, Any]) -> str | None:
        if self._is_closing:
            return "it is ending"
        if (threads := len(list(Path("/proc/self/task").iterdir()))) != 1:
            return f"it has {threads} threads, and cannot fork"
        if _has_opened_gpu():
            return "a library has opened a GPU in it, which a forked process cannot use"
        # What this process was given, the rank must have; what the rank has, this process, which has set
        # some of it itself since.
        given, asked = self._environment, request["environment"]
        differing = {name for name in given if asked.get(name) != given[name]}
        differing |= {name for name in asked if os.environ.get(name) != asked[name]}
        named = ", ".join(sorted(name for name in differing if _is_read_when_loaded(name)))
        return f"it was started with another {named}" if named else None

    def _fork(
        self, connection: socket.socket, request: Mapping[str, Any], streams: tuple[int, ...]
    ) -> RankStart | None:
        starter, _, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            self._leave_behind()
            connection.close()
            _become(request, streams)
            stand_for(starter)
            return RankStart(program=request["program"], argv=tuple(request["argv"]))
        print(f"{process} is forked for {starter}", flush=True)  # in its log
        rank = _Rank(process, connection, os.pidfd_open(process))
        self._ranks[process] = rank
        self._selector.register(rank.descriptor, selectors.EVENT_READ, lambda: self._reap(rank))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._pass_on(rank))
        with contextlib.suppress(OSError):
            connection.sendall(f"rank {process}\n".encode())
        return None

    def _leave_behind(self) -> None:
        """In the forked process: what belongs to its parent."""
        for rank in self._ranks.values():
            rank.connection.close()
            os.close(rank.descriptor)
        self._selector.close()
        self._listener.close()

    def _pass_on(self, rank: _Rank) -> None:
        """Signals from the process that the launcher knows; its end is the rank's end."""
        try:
            numbers = rank.connection.recv(64)
        except OSError:
            numbers = b""
        for number in numbers or (signal.SIGKILL,):
            signal.pidfd_send_signal(rank.descriptor, number)
        if not numbers:
            self._selector.unregister(rank.connection)

    def _reap(self, rank: _Rank) -> None:
        _, status = os.waitpid(rank.process, 0)
        self._selector.unregister(rank.descriptor)
        os.close(rank.descriptor)
        with contextlib.suppress(KeyError):  # the start is gone
            self._selector.unregister(rank.connection)
        with contextlib.suppress(OSError):
            rank.connection.sendall(f"end {os.waitstatus_to_exitcode(status)}\n".encode())
        rank.connection.close()
        del self._ranks[rank.process]


def _receive(connection: socket.socket) -> tuple[dict[str, Any], tuple[int, ...]]:
    head, streams, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    if len(streams) != 3 or len(head) != LENGTH.size:
        for stream in streams:
            os.close(stream)
        raise ValueError("not a start")
    content = b"".join(_read(connection, LENGTH.unpack(head)[0]))
    return json.loads(content), tuple(streams)


def _read(connection: socket.socket, size: int) -> Iterator[bytes]:
    while size > 0:
        part = connection.recv(min(size, 65536))
        if not part:
            raise ValueError("cut off")
        size -= len(part)
        yield part


def _become(request: Mapping[str, Any], streams: tuple[int, ...]) -> None:
    """In the forked process: folder, environment and streams of the process that it stands for."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    for passed_on in PASSED_ON:
        signal.signal(passed_on, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a new interpreter has it
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = request["argv"]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, f"__{name}__")
        raw = io.BufferedWriter(io.FileIO(number, "wb", closefd=False))
        new = io.TextIOWrapper(raw, old.encoding, old.errors, line_buffering=True, write_through=True)
        setattr(sys, f"__{name}__", new)
        setattr(sys, name, new)
    random.seed()


def _is_read_when_loaded(name: str) -> bool:
    return name.startswith(_READ_WHEN_LOADED) or name in _READ_WHEN_LOADED_EXACTLY


def _has_opened_gpu() -> bool:
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if path.readlink().name.startswith("nvidia-uvm"):
                return True
    return False


def _is_pipe(number: int) -> bool:
    try:
        return not os.isatty(number) and not os.path.samestat(os.fstat(number), Path(os.devnull).stat())
    except OSError:
        return False
