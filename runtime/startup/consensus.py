"""Before any group is joined: one verdict for all ranks.

Every rank checks for itself and reports to rank 0 through the rendezvous store, which is not a group: a
rank that found a mistake ends without leaving the others in a collective. Rank 0 alone speaks.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from planner import Plan, Problem, StrategyError
from planner.plan.operator_env import format_ranks, read_environment
from runtime.parallel.device import device_problems, sum_over_world
from runtime.parallel.groups import GroupMismatch
from runtime.process.identity import Identity
from runtime.process.stop_signals import StopRequest
from runtime.startup.outcome import STOPPED, Ending
from runtime.startup.rank_reports import Report, is_odd, problems_of, report, silent

# Without a plan there is no launch.timeout; and who brings only bad news does not wait long for a listener.
BAD_NEWS_TIMEOUT_S = 60.0
# Once one rank cannot start, the others are given this long to say what they found.
HURRY_S = 10.0

T = TypeVar("T")


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
        found = [*device_problems(plan, identity), *variable_problems(plan)]
        if identity.rank == 0 and found:
            ending.tell(found)
        problems = [*problems, *found]
    own = report(plan, identity, problems)
    world_size = identity.world_size if plan is None else plan.world_size
    timeout_s = BAD_NEWS_TIMEOUT_S if plan is None or problems else plan.strategy.launch.timeout
    store = ending.store = connect(identity, world_size, timeout_s)
    if identity.rank > 0:
        store.set(f"report/{own.rank}", own.to_json())
        return _await_verdict(store, stop)
    verdict = _decide(store, own, plan, timeout_s, ending, stop, open_run)
    store.set("verdict", json.dumps(asdict(verdict)))
    if verdict.exit_code is not None:
        _wait_for_readers(store, min(world_size, identity.world_size) - 1)
    return verdict


def variable_problems(plan: Plan, environ: Mapping[str, str] = os.environ) -> tuple[Problem, ...]:
    """Where this rank's own EXPERT_GPUS and the like contradict the plan."""
    try:
        read_environment(plan, environ)
    except StrategyError as error:
        return error.problems
    return ()


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


def agree_on_groups(
    make: Callable[[], T], plan: Plan, identity: Identity, ending: Ending, device: torch.device
) -> T:
    """What `make` makes, once no rank has found other groups in DeepSpeed than the plan's. Collective.

    Raises:
        StrategyError: on every rank, where some rank did.
    """
    made, found = None, ""
    try:
        made = make()
    except GroupMismatch as error:
        found = str(error)
    if sum_over_world(int(made is None), device) == 0:
        assert made is not None
        return made
    raise StrategyError([_other_groups(plan, identity, ending, found)])


def _other_groups(plan: Plan, identity: Identity, ending: Ending, found: str) -> Problem:
    """On every rank: which ranks hold other groups, and what the first of them says."""
    store = ending.store
    assert store is not None, "the ranks met at a store"
    store.set(f"groups/{identity.rank}", found)
    deadline = time.monotonic() + BAD_NEWS_TIMEOUT_S
    texts = {
        rank: store.get(f"groups/{rank}").decode()
        for rank in range(plan.world_size)
        if _appears(store, f"groups/{rank}", lambda: time.monotonic() > deadline)
    }
    store.add("groups/read", 1)
    if identity.rank == 0:
        _wait_for_readers(store, plan.world_size, "groups/read")
    wrong = tuple(rank for rank, text in texts.items() if text)
    return Problem(
        path=None,
        line=None,
        found=f"DeepSpeed holds other groups than the plan on rank{'s' if len(wrong) > 1 else ''} "
        f"{format_ranks(wrong)}: {texts[wrong[0]]}",
        expected="the groups of plan.json",
        fix="use the DeepSpeed of constraints.txt; with that one it is a bug: please report it",
    )


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
        problems = _hear(store, own, plan, timeout_s, stop)
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
    store: dist.Store, own: Report, plan: Plan, timeout_s: float, stop: StopRequest
) -> tuple[Problem, ...]:
    """What keeps the ranks that report from training together; those that do not are Problems too."""
    began = time.monotonic()
    deadline = began + timeout_s
    reports = {own.rank: own}
    waiting = list(range(1, plan.world_size))
    while waiting and time.monotonic() < deadline and stop.asked is None:
        heard = [rank for rank in waiting if store.check([f"report/{rank}"])]
        for rank in heard:
            reports[rank] = Report.from_json(store.get(f"report/{rank}"))
            if is_odd(own, reports[rank]):
                deadline = min(deadline, time.monotonic() + HURRY_S)
        waiting = [rank for rank in waiting if rank not in reports]
        if not heard:
            time.sleep(0.05)
    reports = dict(sorted(reports.items()))
    return (*problems_of(plan, reports), *silent(plan, reports, time.monotonic() - began))


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


def _wait_for_readers(store: dist.Store, num_readers: int, key: str = "read") -> None:
    """Rank 0 may serve the store: it stays until the others have read that the run is over.

    Args:
        num_readers: the other ranks that were started, which may be fewer than the plan has.
    """
    deadline = time.monotonic() + BAD_NEWS_TIMEOUT_S
    while store.add(key, 0) < num_readers and time.monotonic() < deadline:
        time.sleep(0.05)


def _appears(store: dist.Store, key: str, is_over: Callable[[], bool]) -> bool:
    """Whether `key` was set before `is_over`. Polls: torch's own wait logs a stack trace for each timeout."""
    while not store.check([key]):
        if is_over():
            return False
        time.sleep(0.05)
    return True
