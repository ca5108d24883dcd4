"""Agreement of all ranks on the start, before any process group exists.

Every rank checks for itself and reports to rank 0 through the rendezvous store, which is not a group: a
rank that found a mistake ends without leaving the others in a collective. Only rank 0 prints.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from torch.distributed import HashStore, Store

from planner import Plan, Problem, StrategyError
from planner.exit_codes import ExitCode
from planner.memory.fit import cap_problem
from planner.plan.operator_env import format_ranks, read_environment
from runtime.checkpoint.compatibility import Fingerprints
from runtime.parallel.deepspeed_groups import GroupMismatch
from runtime.parallel.device import device_problems, sum_over_world
from runtime.parallel.kernels import kernel_problems
from runtime.process.attempt_secret import secret_of_attempt
from runtime.process.identity import Identity
from runtime.process.interfaces import interface_problems
from runtime.process.job import job_of_rank
from runtime.process.rendezvous import LOOPBACK
from runtime.startup.context import RunContext
from runtime.startup.exit_reporter import ExitReporter
from runtime.startup.meeting import AskedToStop
from runtime.startup.rank_reports import RankReport, disagrees, find_problems, make_report, missing_ranks
from runtime.startup.rank_store import Attempt, Server, join, serve

# A rank that only reports an error waits at most this long for rank 0; so does one without a plan, which
# has no launch.timeout.
ERROR_TIMEOUT_S = 60.0
# Once one rank cannot start, the others have this long to report what they found.
HURRY_S = 10.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StartDecision:
    """What rank 0 decided for all. `exit_code` None: run; otherwise every rank ends with that code.

    data_entry: folder of the prepared data. checkpoint: the folder of the step to resume from; "" for a fresh
    start. horizon: the last step of the learning rate's cosine. recent_losses: of the last steps before
    that checkpoint's end, oldest first. fingerprints: what this run's checkpoints carry.
    """

    exit_code: ExitCode | None = None
    attempt: int = 0
    data_entry: str = ""
    checkpoint: str = ""
    horizon: int = 0
    recent_losses: tuple[float, ...] = ()
    fingerprints: Fingerprints | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> "StartDecision":
        content = json.loads(text)
        if content["exit_code"] is not None:  # perhaps of a rank 0 with other code, and other fields
            return StartDecision(exit_code=ExitCode(content["exit_code"]))
        prints = content.pop("fingerprints")
        losses = tuple(content.pop("recent_losses"))
        return StartDecision(
            **content,
            recent_losses=losses,
            fingerprints=None if prints is None else Fingerprints(**prints),
        )


def agree_on_start(
    context: RunContext, reporter: ExitReporter, decide: Callable[[RunContext], StartDecision]
) -> StartDecision:
    """The decision that all ranks follow. Rank 0 collects all reports, then decides.

    Args:
        decide: called on rank 0 once no rank has a Problem.

    Raises:
        RuntimeError: if the other ranks cannot be reached.
    """
    plan, problems, identity = context.start.plan, context.start.problems, context.identity
    if plan is not None:
        found = (
            *device_problems(plan, identity),
            *environment_problems(plan),
            *interface_problems(
                os.environ,
                is_gpu=not plan.strategy.cluster.gpu.is_cpu,
                master_addr=identity.master_addr,
            ),
        )
        if not problems and not found:  # compiling takes a while
            found = tuple(kernel_problems(plan, identity))
        if context.rank == 0 and found:
            reporter.print_problems(found)
        problems = (*problems, *found)
    own = make_report(plan, identity, problems)
    world_size = identity.world_size if plan is None else plan.world_size
    timeout_s = ERROR_TIMEOUT_S if plan is None or problems else plan.strategy.launch.timeout
    try:
        store = context.store = connect(
            identity, world_size, timeout_s, lambda: context.stop.asked is not None
        )
    except AskedToStop:
        return _stopped_before_training(context, reporter)
    if context.rank > 0:
        store.set(f"report/{own.rank}", own.to_json())
        return _await_decision(context, store)
    decision = _decide(context, reporter, own, decide)
    store.set("decision", decision.to_json())
    if decision.exit_code is not None:
        others = list(range(1, min(world_size, identity.world_size)))
        # It has waited for reports: a rank that did not come will not read either.
        if plan is not None and not own.problems:
            others = [rank for rank in others if store.check([f"report/{rank}"])]
        _wait_for_readers(store, len(others))
    return decision


def environment_problems(plan: Plan, environ: Mapping[str, str] = os.environ) -> tuple[Problem, ...]:
    """Where this rank's own EXPERT_GPUS and the like contradict the plan, or cap its memory too low."""
    try:
        operator = read_environment(plan, environ)
    except StrategyError as error:
        return error.problems
    problem = cap_problem(plan, operator)
    return () if problem is None else (problem,)


def connect(
    identity: Identity, world_size: int, timeout_s: float, is_asked_to_stop: Callable[[], bool]
) -> Store:
    """The store at MASTER_ADDR:MASTER_PORT; rank 0 serves it unless the launcher (torchrun) does already.

    Raises:
        AskedToStop: if this rank was asked to stop while it waited for the store.
        CannotMeet: if it cannot be served, not be reached within `timeout_s`, or is not this attempt's.
        StrategyError: if SWITCHYARD_SECRET is no secret.
    """
    if not identity.is_launched or world_size == 1:
        return HashStore()
    address, port = identity.master_addr, identity.master_port
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() in ("1", "true")
    job = job_of_rank()
    # torchrun keeps its store over restarts: each has its own keys.
    scope = f"switchyard/{job}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    secret = secret_of_attempt(is_on_one_host=identity.is_on_one_host or address == LOOPBACK)
    if secret is None and identity.rank == 0:
        logger.warning(
            "SW639 the ranks share no secret: whoever reaches port %d of %s can write into their store; to "
            "prevent that, export SWITCHYARD_SECRET=$(openssl rand -hex 32) for all of them",
            port,
            address,
        )
    attempt = Attempt(job=job, scope=scope, secret=secret)
    if identity.rank == 0 and not is_served:
        return serve(address, port, attempt, timeout_s=timeout_s, is_on_one_host=identity.is_on_one_host)
    server = Server.RANK_0
    if is_served:
        server = Server.LAUNCHER_OF_RANK_0 if identity.rank == 0 else Server.LAUNCHER
    return join(address, port, attempt, timeout_s=timeout_s, server=server, is_asked_to_stop=is_asked_to_stop)


def agree_on_groups(make: Callable[[], T], context: RunContext, device: torch.device) -> T:
    """What `make` makes, once no rank has found that DeepSpeed's groups differ from the plan's. Collective.

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
    raise StrategyError([_other_groups(context, found)])


def should_stop(context: RunContext, device: torch.device, *, is_failed: bool = False) -> bool:
    """Whether any rank was asked to stop, or has failed, decided by all alike. Collective over the world."""
    return context.stop.agree(lambda asked: sum_over_world(int(asked or is_failed), device) > 0)


def _other_groups(context: RunContext, found: str) -> Problem:
    """On every rank: which ranks have other groups, and the message of the first of them."""
    store, world_size = context.store, context.plan.world_size
    assert store is not None, "the ranks met at a store"
    store.set(f"groups/{context.rank}", found)
    deadline = time.monotonic() + ERROR_TIMEOUT_S
    texts = {
        rank: store.get(f"groups/{rank}").decode()
        for rank in range(world_size)
        if _appears(store, f"groups/{rank}", lambda: time.monotonic() > deadline)
    }
    store.add("groups/read", 1)
    if context.rank == 0:
        _wait_for_readers(store, world_size, "groups/read")
    wrong = tuple(rank for rank, text in texts.items() if text)
    return Problem(
        code="SW621",
        found=f"DeepSpeed's process groups differ from the plan's on rank{'s' if len(wrong) > 1 else ''} "
        f"{format_ranks(wrong)}: {texts[wrong[0]]}",
        expected="the groups of plan.json",
        fix="use the DeepSpeed version of constraints.txt; with that version, please report a bug",
    )


def _decide(
    context: RunContext,
    reporter: ExitReporter,
    own: RankReport,
    decide: Callable[[RunContext], StartDecision],
) -> StartDecision:
    """Rank 0's decision; an error in it becomes a decision too, so that no rank waits for one."""
    if context.start.plan is None or own.problems:
        return StartDecision(exit_code=reporter.invalid_input(own.problems, are_printed=True))
    try:
        problems = collect_reports(context, own)
        if context.stop.asked is not None:
            return _stopped_before_training(context, reporter)
        if problems:
            return StartDecision(exit_code=reporter.invalid_input(problems))
        return decide(context)
    except StrategyError as error:
        return StartDecision(exit_code=reporter.invalid_input(error.problems))
    except Exception as error:
        return StartDecision(exit_code=reporter.failed(error))


def collect_reports(context: RunContext, own: RankReport) -> tuple[Problem, ...]:
    """What keeps the ranks that report from training together; ranks that do not report are Problems too."""
    plan, store, stop = context.plan, context.store, context.stop
    assert store is not None, "the ranks meet at a store"
    began = time.monotonic()
    deadline = began + plan.strategy.launch.timeout
    reports = {own.rank: own}
    waiting = list(range(1, plan.world_size))
    while waiting and time.monotonic() < deadline and stop.asked is None:
        arrived = [rank for rank in waiting if store.check([f"report/{rank}"])]
        for rank in arrived:
            reports[rank] = RankReport.from_json(store.get(f"report/{rank}"))
            if disagrees(own, reports[rank]):
                deadline = min(deadline, time.monotonic() + HURRY_S)
        waiting = [rank for rank in waiting if rank not in reports]
        if not arrived:
            time.sleep(0.05)
    reports = dict(sorted(reports.items()))
    return (*find_problems(plan, reports), *missing_ranks(plan, reports, time.monotonic() - began))


def _await_decision(context: RunContext, store: Store) -> StartDecision:
    """On the other ranks: waits for rank 0, which may be busy with the data for as long as it lives."""
    if not _appears(store, "decision", lambda: context.stop.asked is not None):
        store.add("read", 1)  # rank 0, asked to stop like this one, does not wait for it to read
        return StartDecision(exit_code=ExitCode.STOPPED)
    decision = StartDecision.from_json(store.get("decision"))
    if decision.exit_code is not None:
        store.add("read", 1)
    return decision


def _stopped_before_training(context: RunContext, reporter: ExitReporter) -> StartDecision:
    return StartDecision(exit_code=reporter.stopped(f"by {context.stop.asked} before training started"))


def _wait_for_readers(store: Store, num_readers: int, key: str = "read") -> None:
    """Rank 0 may serve the store: it stays until the others have read the decision to end.

    Args:
        num_readers: the other ranks that were started and are here, which may be fewer than the plan has.
    """
    deadline = time.monotonic() + ERROR_TIMEOUT_S
    while store.add(key, 0) < num_readers and time.monotonic() < deadline:
        time.sleep(0.05)


def _appears(store: Store, key: str, is_over: Callable[[], bool]) -> bool:
    """Whether `key` was set before `is_over`. Polls: torch's own wait logs a stack trace for each timeout."""
    while not store.check([key]):
        if is_over():
            return False
        time.sleep(0.05)
    return True
