"""Before any group is joined: one verdict for all ranks.

Every rank checks for itself and reports to rank 0 through the rendezvous store, which is not a group: a
rank that found a mistake ends without leaving the others in a collective. Rank 0 alone speaks.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import torch.distributed as dist

from planner import Plan, Problem, StrategyError
from runtime.devices import device_problems
from runtime.ending import STOPPED, Ending
from runtime.identity import Identity
from runtime.signals import StopRequest

PACKAGES = ("torch", "deepspeed", "transformers")
# Without a plan there is no launch.timeout; and who brings only bad news does not wait long for a listener.
BAD_NEWS_TIMEOUT_S = 60.0


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

    entry: the prepared data. checkpoint: the folder of the step to go on from; "" for a fresh start.
    horizon: the last step of the learning rate's cosine.
    """

    exit_code: int | None
    attempt: int = 0
    entry: str = ""
    checkpoint: str = ""
    horizon: int = 0


def agree(
    plan: Plan | None,
    problems: Sequence[Problem],
    identity: Identity,
    ending: Ending,
    stop: StopRequest,
    open_run: Callable[[Plan, Ending], Verdict],
) -> Verdict:
    """The verdict that all ranks follow. Rank 0 hears all ranks, opens the run, and decides.

    Args:
        plan: None if the strategy has Problems, which are `problems`; rank 0 has told its own.
        open_run: called on rank 0 once no rank has a Problem.

    Raises:
        RuntimeError: if the other ranks cannot be reached.
    """
    if plan is not None:
        found = device_problems(plan, identity)
        if identity.rank == 0 and found:
            ending.tell(found)
        problems = [*problems, *found]
    own = Report(
        rank=identity.rank,
        host=identity.host,
        fingerprint="" if plan is None else plan.fingerprint,
        versions=_versions(),
        problems=tuple(problems),
    )
    world_size = identity.world_size if plan is None else plan.world_size
    timeout_s = BAD_NEWS_TIMEOUT_S if plan is None or problems else plan.strategy.launch.timeout
    store = ending.store = connect(identity, world_size, timeout_s)
    if identity.rank > 0:
        store.set(f"report/{own.rank}", json.dumps(asdict(own)))
        return _await_verdict(store, stop)
    verdict = _decide(store, own, plan, timeout_s, ending, stop, open_run)
    store.set("verdict", json.dumps(asdict(verdict)))
    if verdict.exit_code is not None:
        _wait_for_readers(store, min(world_size, identity.world_size) - 1)
    return verdict


def connect(identity: Identity, world_size: int, timeout_s: float) -> dist.Store:
    """The store at MASTER_ADDR:MASTER_PORT; rank 0 serves it unless the launcher (torchrun) does already.

    Raises:
        RuntimeError: if it cannot be reached within `timeout_s`.
    """
    if not identity.is_launched or world_size == 1:
        return dist.HashStore()
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() in ("1", "true")
    store = dist.TCPStore(
        os.environ.get("MASTER_ADDR", "127.0.0.1"),
        int(os.environ.get("MASTER_PORT", "29500")),
        is_master=identity.rank == 0 and not is_served,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )
    # torchrun keeps its store over restarts: each has its own keys.
    return dist.PrefixStore(f"switchyard/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _decide(
    store: dist.Store,
    own: Report,
    plan: Plan | None,
    timeout_s: float,
    ending: Ending,
    stop: StopRequest,
    open_run: Callable[[Plan, Ending], Verdict],
) -> Verdict:
    """Rank 0's decision; whatever goes wrong in it becomes a verdict too, so that no rank waits for one."""
    if plan is None or own.problems:
        return Verdict(exit_code=ending.wrong(own.problems, told=True))
    try:
        problems = _hear(store, own, plan.world_size, timeout_s, stop)
        if stop.asked is not None:
            return Verdict(exit_code=ending.stopped(f"asked to by {stop.asked} before the start"))
        if problems:
            return Verdict(exit_code=ending.wrong(problems))
        return open_run(plan, ending)
    except StrategyError as error:
        return Verdict(exit_code=ending.wrong(error.problems))
    except Exception as error:
        return Verdict(exit_code=ending.failed(error))


def _hear(
    store: dist.Store, own: Report, world_size: int, timeout_s: float, stop: StopRequest
) -> tuple[Problem, ...]:
    """Every rank's Problems, each once, and where a rank differs from rank 0."""
    deadline = time.monotonic() + timeout_s
    problems: list[Problem] = []
    silent: list[int] = []
    for rank in range(1, world_size):
        key = f"report/{rank}"
        if not _appears(store, key, lambda: time.monotonic() > deadline or stop.asked is not None):
            silent.append(rank)
            continue
        peer = json.loads(store.get(key))
        theirs = [Problem(**problem) for problem in peer["problems"]]
        problems += theirs or _differences(own, peer)
    if silent:
        problems.append(
            Problem(
                path=None,
                line=None,
                found=f"ranks {', '.join(map(str, silent))} did not report within {timeout_s:.0f} s",
                expected=f"all {world_size} ranks of the plan",
                fix="look at those ranks' logs; launch.timeout sets how long to wait",
            )
        )
    return tuple(dict.fromkeys(problems))


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def _differences(own: Report, peer: dict[str, Any]) -> list[Problem]:
    """A rank with another plan or other packages would train something else."""
    who = f"rank {peer['rank']} on {peer['host']}"
    mine = {"plan": own.fingerprint} | own.versions
    theirs = {"plan": peer["fingerprint"]} | peer["versions"]
    return [
        Problem(
            path=None,
            line=None,
            found=f"{who} has {name} {theirs.get(name, 'none')}",
            expected=f"{name} {value}, as on rank 0 on {own.host}",
            fix=f"use the same {'strategy file and overrides' if name == 'plan' else name} on all hosts",
        )
        for name, value in mine.items()
        if theirs.get(name) != value
    ]


def _await_verdict(store: dist.Store, stop: StopRequest) -> Verdict:
    """On the other ranks: waits for rank 0, which may be busy with the data for as long as it lives."""
    if not _appears(store, "verdict", lambda: stop.asked is not None):
        store.add("read", 1)  # rank 0, asked to stop like this one, does not wait for it to read
        return Verdict(exit_code=STOPPED)
    told = json.loads(store.get("verdict"))
    verdict = Verdict(**{field.name: told[field.name] for field in fields(Verdict)})
    if verdict.exit_code is not None:
        store.add("read", 1)
    return verdict


def _wait_for_readers(store: dist.Store, num_readers: int) -> None:
    """Rank 0 may serve the store: it stays until the others have read that the run is over.

    Args:
        num_readers: the other ranks that were started, which may be fewer than the plan has.
    """
    deadline = time.monotonic() + BAD_NEWS_TIMEOUT_S
    while store.add("read", 0) < num_readers and time.monotonic() < deadline:
        time.sleep(0.05)


def _appears(store: dist.Store, key: str, is_over: Callable[[], bool]) -> bool:
    """Whether `key` was set before `is_over`. Polls: torch's own wait logs a stack trace for each timeout."""
    while not store.check([key]):
        if is_over():
            return False
        time.sleep(0.05)
    return True
