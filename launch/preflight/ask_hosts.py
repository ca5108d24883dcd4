"""What preflight asks every host, all at once: facts, the clock, and whether the shared path is shared."""

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.remote.host_inspector import NONCE, appears, write_durably
from launch.scripts.made_folders import missing, remove_empty
from launch.ssh.client import Program, Ssh, on_all, talk
from launch.ssh.failures import Failure

INSPECT = "launch.remote.host_inspector"
# What launch.remote.host_inspector answers with; a host with an older one is told so.
_FACTS = frozenset(
    {
        "hostname",
        "python",
        "packages",
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
# Longer than a preflight can take: what is older was left by one that was killed.
_LEFT_AFTER_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A host's clock against this machine's: ahead by `offset_s`, known to ± `uncertainty_s`."""

    offset_s: float
    uncertainty_s: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a host said, and what this machine saw of it.

    facts: as remote.host_inspector gives them. seen: whether the host's answer file was seen here in time.
    """

    facts: dict[str, Any]
    clock: Clock
    seen: bool


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A folder made for one preflight under output.folder, with a nonce in it."""

    folder: Path
    nonce: str


@contextlib.contextmanager
def shared_folder(output: Path) -> Iterator[Shared]:
    """Makes the folder and removes it, with the parents that were made for it and what killed ones left.

    Raises:
        OSError: if it cannot be made or written.
    """
    made = missing(output)
    shared = Shared(folder=output / f"{_FOLDERS}{secrets.token_hex(6)}", nonce=secrets.token_hex(16))
    try:
        shared.folder.mkdir(parents=True)
        write_durably(shared.folder / NONCE, shared.nonce)
        _sweep(output, now=shared.folder.stat().st_mtime)
        yield shared
    finally:
        shutil.rmtree(shared.folder, ignore_errors=True)
        remove_empty(made)


def _sweep(output: Path, now: float) -> None:
    """Removes the folders that killed preflights left. `now` is the file system's time, not this host's."""
    for folder in output.glob(f"{_FOLDERS}*"):
        with contextlib.suppress(OSError):
            if now - folder.stat().st_mtime > _LEFT_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)


async def ask_hosts(
    ssh: Ssh,
    program: Program,
    hosts: Sequence[str],
    output: Path,
    shared: Shared,
    *,
    wants_gpus: bool,
    told: Callable[[str, Failure | None], object],
) -> dict[str, Answer | Failure]:
    """Every host's answer, or why there is none.

    Args:
        output: the folder of runs.
        told: called as each host has answered, or failed to.
    """

    async def ask(host: str) -> Answer:
        return await _ask(ssh, program, host, output, shared, wants_gpus=wants_gpus)

    return await on_all(ssh, hosts, ask, told)


async def _ask(
    ssh: Ssh, program: Program, host: str, output: Path, shared: Shared, *, wants_gpus: bool
) -> Answer:
    async with talk(ssh, host, program) as conversation:
        pings = []
        for _ in range(_PINGS):
            sent = time.time()
            theirs = await conversation.ask({"do": "time"})
            try:
                pings.append((sent, float(theirs["time"]), time.time()))
            except (KeyError, TypeError, ValueError):
                raise conversation.broken(f"{theirs} to a question for the time") from None
        request = {
            "do": "facts",
            "output": str(output),
            "shared": str(shared.folder),
            "me": host,
            "wants_gpus": wants_gpus,
        }
        facts = await conversation.ask(request)
        if missing := sorted(_FACTS - facts.keys()):
            raise conversation.broken(f"facts without {', '.join(missing)}")
    within_s = 0.0 if facts["shared"]["nonce"] is None else 1.0
    seen = await asyncio.to_thread(appears, shared.folder / f"{host}.answer", within_s) == shared.nonce
    return Answer(facts=facts, clock=clock_of(pings), seen=seen)


def clock_of(pings: Sequence[tuple[float, float, float]]) -> Clock:
    """The offset from (sent, their time, received), of the ping with the shortest round trip.

    Their time was read somewhere between the two others: half of the round trip is the uncertainty
    (RFC 5905, section 8, with equal times of transmit and receive).
    """
    sent, theirs, received = min(pings, key=lambda ping: ping[2] - ping[0])
    return Clock(offset_s=theirs - (sent + received) / 2, uncertainty_s=(received - sent) / 2)
