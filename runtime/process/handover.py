"""Hand-over of a rank's start to a warm parent, which has imported what ranks import and forks the rank.

The process that the launcher has started sends its arguments, environment, folder and standard streams over
a socket of this host. Then it waits: it passes signals on, and ends as the rank ends. Only the standard
library, so that it takes no time. The other side is runtime/process/fork_server.py.

| who | sends | |
| --- | --- | --- |
| start | its length, JSON, three descriptors | program, arguments, environment, folder |
| parent | `rank PID`, or `no WHY` | the rank that was forked, or why it must start by itself |
| start | one byte for each signal | its number |
| parent | `end STATUS` | the exit code of the rank, or minus the signal that ended it |

When the connection closes before, the other side is gone: the parent then kills the rank, and the rank ends
with the parent.
"""

import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runtime.process.job import link_of
from runtime.process.started_by import is_forked

# The parent may still be importing; by itself a rank would not be faster.
WARM_UP_S = 60.0
LENGTH = struct.Struct("<I")
# SIGKILL and SIGSTOP cannot be passed on: a rank whose start was killed is killed by the parent.
PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGABRT,
)


def socket_path(link: str = sys.executable) -> Path:
    """Of the parent of an attempt on this host, in a folder that only this user can enter.

    Args:
        link: the attempt's own link to the interpreter (launch/job.py).
    """
    shared = Path("/dev/shm")
    folder = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    space = Path("/proc/self/ns/pid")  # containers and namespaces may share the folder, not their processes
    number = space.stat().st_ino if space.exists() else 0
    name = hashlib.sha256(link.encode()).hexdigest()[:16]  # a socket's path may have 107 characters
    return folder / f"switchyard-warm-{os.getuid()}-{number}-{name}" / "parent"


def hand_over(program: str, arguments: Sequence[str]) -> int | None:
    """The exit code of the rank, once it has ended; None where this process has to do the work itself.

    It ends by the signal that ended the rank.

    Args:
        program: a module with `main(arguments)`.
    """
    path = socket_path()
    if is_forked() or not link_of(sys.executable) or not _is_ours(path):
        return None
    asked: list[int] = []
    before = {name: signal.signal(name, lambda number, _: asked.append(number)) for name in PASSED_ON}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            status = _wait(connection, path, program, arguments, asked)
        except _Refused as refused:
            for name, handler in before.items():
                signal.signal(name, handler)
            print(
                f"SW610 this rank starts without its warm parent, which takes longer: {refused}",
                file=sys.stderr,
                flush=True,
            )
            for number in asked:
                os.kill(os.getpid(), number)
            return None
    return status if status >= 0 else _end_by(-status)


class _Refused(Exception):
    pass


def _wait(
    connection: socket.socket, path: Path, program: str, arguments: Sequence[str], asked: list[int]
) -> int:
    connection.settimeout(WARM_UP_S)
    try:
        connection.connect(str(path))
        _send_start(connection, program, arguments)
        replies = connection.makefile("r", encoding="utf-8")
        word, _, rest = replies.readline().rstrip("\n").partition(" ")
    except OSError as error:
        raise _Refused(str(error)) from None
    if word != "rank":
        raise _Refused(rest or "it has ended")
    connection.settimeout(None)

    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):  # the rank is ending
            connection.send(bytes([number]))

    for name in PASSED_ON:
        signal.signal(name, pass_on)
    for number in asked:
        pass_on(number, None)
    word, _, rest = replies.readline().rstrip("\n").partition(" ")
    return int(rest) if word == "end" else -signal.SIGKILL  # with the parent, its ranks are gone


def _send_start(connection: socket.socket, program: str, arguments: Sequence[str]) -> None:
    start = {
        "program": program,
        "argv": [sys.argv[0], *arguments],
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
    }
    content = json.dumps(start).encode()
    socket.send_fds(connection, [LENGTH.pack(len(content))], [0, 1, 2])
    connection.sendall(content)


def _is_ours(path: Path) -> bool:
    """Another user could have made a folder of this name, and would be handed the environment."""
    try:
        folder = path.parent.lstat()
        return folder.st_uid == os.getuid() and not folder.st_mode & 0o077 and path.is_socket()
    except OSError:
        return False


def _end_by(number: int) -> NoReturn:
    """Ends this process by a signal, without another core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)
