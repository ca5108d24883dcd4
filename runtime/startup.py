"""Before any group is joined: who this rank is, and one verdict for all ranks.

Every rank checks for itself and reports to rank 0 through the rendezvous store, which is not a group: a
rank that found a mistake ends without leaving the others in a collective. Rank 0 alone speaks.
"""

import json
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import torch.distributed as dist

from planner import Problem

PACKAGES = ("torch", "deepspeed", "transformers")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """This process as its launcher numbered it. `is_launched` is False for a bare `python train.py`."""

    rank: int
    local_rank: int
    world_size: int
    host: str
    is_launched: bool

    def __str__(self) -> str:
        return f"rank {self.rank}/{self.world_size} {self.host}"


def identify(environment: Mapping[str, str] = os.environ) -> Identity:
    """Reads RANK, LOCAL_RANK and WORLD_SIZE as deepspeed, torchrun and mpirun wrappers set them.

    Raises:
        ValueError: if they are not whole numbers or do not fit each other.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    values = {name: environment[name] for name in names if environment.get(name)}
    host = socket.gethostname()
    if "RANK" not in values and "WORLD_SIZE" not in values:
        return Identity(rank=0, local_rank=0, world_size=1, host=host, is_launched=False)
    bad = [f"{name}={value}" for name, value in values.items() if not value.isdecimal()]
    missing = [name for name in ("RANK", "WORLD_SIZE") if name not in values]
    if bad or missing:
        raise ValueError("the launcher's environment is incomplete: " + ", ".join(bad + missing))
    rank, world_size = int(values["RANK"]), int(values["WORLD_SIZE"])
    if rank >= world_size:
        raise ValueError(
            f"the launcher's environment contradicts itself: RANK={rank}, WORLD_SIZE={world_size}"
        )
    local_rank = int(values.get("LOCAL_RANK", rank))
    return Identity(rank=rank, local_rank=local_rank, world_size=world_size, host=host, is_launched=True)


def connect(identity: Identity, world_size: int, timeout_s: float) -> dist.Store:
    """The store at MASTER_ADDR:MASTER_PORT; rank 0 serves it unless the launcher (torchrun) does already.

    Raises:
        RuntimeError: if it cannot be reached within `timeout_s`.
    """
    if not identity.is_launched or world_size == 1:
        return dist.HashStore()
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() in ("1", "true")
    store = dist.TCPStore(
        os.environ.get("MASTER_ADDR", "127.0.0.1"),
        int(os.environ.get("MASTER_PORT", "29500")),
        is_master=identity.rank == 0 and not served,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )
    # torchrun keeps its store over restarts: each has its own keys.
    return dist.PrefixStore(f"switchyard/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a rank found before the start."""

    rank: int
    host: str
    fingerprint: str
    versions: dict[str, str]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What rank 0 decided for all. `exit_code` None: train; otherwise every rank ends with that code.

    checkpoint: name of the step folder to go on from, None for a fresh start.
    details: whatever else rank 0 has to tell its peers.
    """

    exit_code: int | None
    attempt: int = 0
    checkpoint: str | None = None
    details: dict[str, Any] | None = None


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def report(store: dist.Store, own: Report) -> None:
    store.set(f"report/{own.rank}", json.dumps(asdict(own)))


def collect(store: dist.Store, own: Report, world_size: int, timeout_s: float) -> tuple[Problem, ...]:
    """On rank 0: every rank's report; returns all Problems, each once, and those of ranks that differ."""
    problems: dict[Problem, None] = dict.fromkeys(own.problems)
    silent: list[int] = []
    deadline = time.monotonic() + timeout_s
    for rank in range(1, world_size):
        key = f"report/{rank}"
        if not _appears(store, key, lambda: time.monotonic() > deadline):
            silent.append(rank)
            continue
        peer = json.loads(store.get(key))
        for fault in peer["problems"]:
            problems[Problem(**fault)] = None
        for problem in _differences(own, peer):
            problems[problem] = None
    if silent:
        problems[
            Problem(
                path=None,
                line=None,
                found=f"ranks {', '.join(map(str, silent))} did not report within {timeout_s:.0f} s",
                expected=f"all {world_size} ranks of the plan",
                fix="look at those ranks' logs; launch.timeout sets how long to wait",
            )
        ] = None
    return tuple(problems)


def _differences(own: Report, peer: dict[str, Any]) -> list[Problem]:
    """A rank with another plan or other packages would train something else: named before step 1."""
    who = f"rank {peer['rank']} on {peer['host']}"
    found = []
    if peer["fingerprint"] != own.fingerprint and not peer["problems"] and not own.problems:
        found.append(
            ("another plan: " + peer["fingerprint"], own.fingerprint, "the same strategy file on all hosts")
        )
    for name, mine in own.versions.items():
        theirs = peer["versions"].get(name, "none")
        if theirs != mine:
            found.append((f"{name} {theirs}", f"{name} {mine}", f"the same {name} on all hosts"))
    return [
        Problem(
            path=None, line=None, found=f"{who} has {what}", expected=expected, fix=f"install or use {fix}"
        )
        for what, expected, fix in found
    ]


def announce(store: dist.Store, verdict: Verdict) -> None:
    store.set("verdict", json.dumps(asdict(verdict)))


def await_verdict(store: dist.Store, is_over: Callable[[], bool]) -> Verdict:
    """On the other ranks: waits for rank 0, which may be busy with the data for as long as it lives.

    Args:
        is_over: asked every few seconds; True ends the wait (the rank was told to stop).

    Raises:
        RuntimeError: if the store, and so rank 0, is gone.
    """
    if not _appears(store, "verdict", is_over):
        return Verdict(exit_code=130)
    told = json.loads(store.get("verdict"))
    return Verdict(**{field.name: told[field.name] for field in fields(Verdict)})


def _appears(store: dist.Store, key: str, is_over: Callable[[], bool]) -> bool:
    """Whether `key` was set before `is_over`. Polls: torch's own wait logs a stack trace for each timeout."""
    while not store.check([key]):
        if is_over():
            return False
        time.sleep(0.05)
    return True
