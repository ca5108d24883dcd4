"""Host facts for preflight: every host asked for its facts, its clock and its view of the shared folder."""

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.remote.host_inspector import NONCE, appears, write_durably
from launch.scripts.made_folders import missing, remove_empty
from launch.ssh.client import Program, Ssh, on_all, talk
from launch.ssh.failures import HostFailure

INSPECT = "launch.remote.host_inspector"
# Keys in the answer of launch.remote.host_inspector; an older version on a host lacks some.
_FACTS = frozenset(
    {
        "hostname",
        "python",
        "packages",
        "missing_modules",
        "cuda",
        "nccl",
        "code",
        "gpus",
        "xid",
        "disk",
        "shm",
        "open_files",
        "interfaces",
        "shared",
    }
)
_PINGS = 7
_FOLDERS = ".preflight-"
# Longer than any preflight takes: older folders were left by killed ones.
_LEFT_AFTER_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class ClockOffset:
    """A host's clock relative to this machine's: ahead by `offset_s`, ± `uncertainty_s`."""

    offset_s: float
    uncertainty_s: float


@dataclass(frozen=True, kw_only=True)
class HostAnswer:
    """What a host answered.

    facts: as remote.host_inspector returns them. seen: whether the host's answer file appeared here in time.
    """

    facts: dict[str, Any]
    clock: ClockOffset
    seen: bool


@dataclass(frozen=True, kw_only=True)
class SharedFolder:
    """A folder created for one preflight under output.folder, with a nonce in it."""

    folder: Path
    nonce: str


@contextlib.contextmanager
def shared_folder(output: Path) -> Iterator[SharedFolder]:
    """Creates the folder, then removes it with the parents created for it, and folders of killed preflights.

    Raises:
        OSError: if it cannot be created or written.
    """
    made = missing(output)
    shared = SharedFolder(folder=output / f"{_FOLDERS}{secrets.token_hex(6)}", nonce=secrets.token_hex(16))
    try:
        shared.folder.mkdir(parents=True)
        write_durably(shared.folder / NONCE, shared.nonce)
        _sweep(output, now=shared.folder.stat().st_mtime)
        yield shared
    finally:
        shutil.rmtree(shared.folder, ignore_errors=True)
        remove_empty(made)


def _sweep(output: Path, now: float) -> None:
    """Removes folders left by killed preflights. `now` is the file system's time, not this host's."""
    for folder in output.glob(f"{_FOLDERS}*"):
        with contextlib.suppress(OSError):
            if now - folder.stat().st_mtime > _LEFT_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)


async def ask_hosts(
    ssh: Ssh,
    program: Program,
    hosts: Sequence[str],
    output: Path,
    shared: SharedFolder,
    *,
    wants_gpus: bool,
    modules: Sequence[str],
    on_answer: Callable[[str, HostFailure | None], object],
) -> dict[str, HostAnswer | HostFailure]:
    """Every host's answer or failure.

    Args:
        output: the folder of runs.
        modules: names of modules that ranks import.
        on_answer: called when a host has answered or failed.
    """

    async def ask(host: str) -> HostAnswer:
        request = {
            "do": "facts",
            "output": str(output),
            "shared": str(shared.folder),
            "me": host,
            "wants_gpus": wants_gpus,
            "modules": list(modules),
        }
        return await _ask(ssh, program, host, request, shared)

    return await on_all(ssh, hosts, ask, on_answer)


async def _ask(
    ssh: Ssh, program: Program, host: str, request: Mapping[str, Any], shared: SharedFolder
) -> HostAnswer:
    async with talk(ssh, host, program) as conversation:
        pings = []
        for _ in range(_PINGS):
            sent = time.time()
            theirs = await conversation.ask({"do": "time"})
            try:
                pings.append((sent, float(theirs["time"]), time.time()))
            except (KeyError, TypeError, ValueError):
                raise conversation.broken(f"{theirs} to a request for the time") from None
        facts = await conversation.ask(request)
        if missing := sorted(_FACTS - facts.keys()):
            raise conversation.broken(f"facts without {', '.join(missing)}")
    within_s = 0.0 if facts["shared"]["nonce"] is None else 1.0
    seen = await asyncio.to_thread(appears, shared.folder / f"{host}.answer", within_s) == shared.nonce
    return HostAnswer(facts=facts, clock=clock_of(pings), seen=seen)


def clock_of(pings: Sequence[tuple[float, float, float]]) -> ClockOffset:
    """The offset from (sent, their time, received) of the ping with the shortest round trip.

    Their time was read between the two others: the uncertainty is half the round trip (RFC 5905, section 8,
    with equal transmit and receive times).
    """
    sent, theirs, received = min(pings, key=lambda ping: ping[2] - ping[0])
    return ClockOffset(offset_s=theirs - (sent + received) / 2, uncertainty_s=(received - sent) / 2)
