"""Conversations over ssh: one program on each host that answers JSON lines with JSON lines.

The program ends when its stdin does, so that a stopped command leaves no process on any host.
"""

import asyncio
import contextlib
import json
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from launch.ssh.failures import NO_FOLDER, NO_PYTHON, HostFailed, HostFailure, explain
from launch.ssh.options import ssh_arguments

T = TypeVar("T")

MAX_AT_ONCE = 128
HOST_TIMEOUT_S = 60.0
MAX_LINE_BYTES = 1 << 20
MAX_NOISE_LINES = 200
_STDERR_BYTES = 16 << 10
_END_S = 2.0
_WRAPPER = (
    f'cd -- "$1" || exit {NO_FOLDER}; command -v -- "$2" >/dev/null || exit {NO_PYTHON}; shift; exec "$@"'
)


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is started on a host: `python -m module` in the project folder; paths that all hosts share."""

    project: Path
    python: str
    module: str

    @property
    def command(self) -> tuple[str, ...]:
        """The command line on the host; its exit code says what was missing."""
        return ("/bin/sh", "-c", _WRAPPER, "sh", str(self.project), self.python, "-m", self.module)


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """How hosts are reached. `localhost` as the only host of a plan is this machine and needs no ssh."""

    ssh_config: Path | None
    is_local: bool
    timeout_s: float = HOST_TIMEOUT_S

    def command(self, host: str, program: Program, environ: Mapping[str, str] = os.environ) -> list[str]:
        """The argument list that starts a program on a host."""
        if self.is_local and host == "localhost":
            return list(program.command)
        options = ssh_arguments(self.ssh_config, environ)
        # ssh joins the arguments after the host with spaces and passes them to the login shell there.
        return ["ssh", "-T", *options, "--", host, shlex.join(program.command)]


class Conversation:
    """One running program; made by `talk`."""

    def __init__(self, process: asyncio.subprocess.Process, host: str) -> None:
        self._process = process
        self._host = host
        self._said = bytearray()
        self.listening = asyncio.create_task(_listen(process, self._said))

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends one request and returns its answer; skips lines that a login shell prints.

        Raises:
            HostFailed: if the program ended, or sends no valid answer.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(ConnectionError):  # it has ended; its exit code says why
            stdin.write(json.dumps(request).encode() + b"\n")
            await stdin.drain()
        for _ in range(MAX_NOISE_LINES):
            try:
                line = await stdout.readline()
            except ValueError:
                raise self.broken(f"a line of more than {MAX_LINE_BYTES} bytes") from None
            if not line:
                raise await self._ended()
            answer = _json_object(line)
            if answer is not None and answer.get("answer") == request["do"]:
                return answer
        raise self.broken(f"{MAX_NOISE_LINES} lines without an answer")

    async def _ended(self) -> HostFailed:
        code = await self._process.wait()
        await asyncio.wait({self.listening}, timeout=_END_S)  # its last output may still be in transit
        return HostFailed(explain(self._host, code, self._said.decode(errors="replace")))

    def broken(self, what: str) -> HostFailed:
        return HostFailed(
            HostFailure(
                kind="broken answer",
                found=f"{self._host} answered with {what}",
                expected="one JSON object per line from launch.remote.host_inspector",
                fix="install the same project version there; check what the login shell prints (.bashrc)",
            )
        )


@contextlib.asynccontextmanager
async def talk(ssh: Ssh, host: str, program: Program) -> AsyncIterator[Conversation]:
    """Starts a program on a host and ends it in any case: no process of it is left.

    Raises:
        HostFailed: if ssh is not installed.
    """
    # LC_ALL=C: ssh's messages are parsed in English. A session of its own keeps a terminal's Ctrl-C away.
    try:
        process = await asyncio.create_subprocess_exec(
            *ssh.command(host, program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except FileNotFoundError:
        failure = HostFailure(
            kind="unreachable",
            found="ssh is not installed here",
            expected="OpenSSH's ssh on PATH, which launch.sh uses too",
            fix="install it (openssh-client)",
        )
        raise HostFailed(failure) from None
    conversation = Conversation(process, host)
    try:
        yield conversation
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _END_S)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        conversation.listening.cancel()


async def on_all(
    ssh: Ssh,
    hosts: Sequence[str],
    ask: Callable[[str], Awaitable[T]],
    on_answer: Callable[[str, HostFailure | None], object],
) -> dict[str, T | HostFailure]:
    """`ask(host)` for all hosts concurrently, a bounded number at a time, each within the time limit.

    Args:
        on_answer: called with each host when it is done, and its failure if it failed.
    """
    places = asyncio.Semaphore(MAX_AT_ONCE)

    async def one(host: str) -> T | HostFailure:
        async with places:
            try:
                return await asyncio.wait_for(ask(host), ssh.timeout_s)
            except asyncio.TimeoutError:
                return HostFailure(
                    kind="time-out",
                    found=f"{host} did not answer within {ssh.timeout_s:.0f} s",
                    expected="an answer within seconds",
                    fix=f"try `ssh {host} true`; look for a hanging file system or login shell on the host",
                )
            except HostFailed as failed:
                return failed.failure

    async def one_reported(host: str) -> T | HostFailure:
        answer = await one(host)
        on_answer(host, answer if isinstance(answer, HostFailure) else None)
        return answer

    answers = await asyncio.gather(*(one_reported(host) for host in hosts))
    return dict(zip(hosts, answers, strict=True))


async def _listen(process: asyncio.subprocess.Process, kept: bytearray) -> None:
    """Keeps the end of its stderr, which must be read or the program blocks."""
    assert process.stderr is not None
    while chunk := await process.stderr.read(4096):
        kept += chunk
        del kept[:-_STDERR_BYTES]


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
