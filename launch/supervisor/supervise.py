"""Supervisor of a run: starts an attempt, watches it, judges its end, replaces what failed, and again."""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from launch.scripts.launch_files import build_launch_plan, launch_files, launch_paths, write_together
from launch.supervisor.attempt import Attempt, fence, unreachable
from launch.supervisor.cordon import read_cordoned
from launch.supervisor.decision import History, decide
from launch.supervisor.hang_watch import HangWatch, Stall, find_failed_ranks
from launch.supervisor.host_pool import HostPool, on_hosts, pool_of
from launch.supervisor.journal import Journal, read_journal
from launch.supervisor.verdict import Cause, Verdict, judge, read_outcome
from planner import Plan, Problem, StrategyError
from planner.exit_codes import ExitCode
from planner.heartbeats import Heartbeat, read_heartbeats
from planner.run_holder import newest_attempt
from planner.search.search import search
from planner.search.trainable import untrainable_keys
from planner.strategy.schema import Strategy

LOOK_S = 0.5
# A rank whose process is gone has so long to have left a reason: it may be at its end.
REASON_WAIT_S = 3.0
PROBE_TIMEOUT_S = 15.0
LOCK_NAME = "supervisor.lock"


@dataclass
class Supervisor:
    """One supervised run.

    Args:
        strategy: as the user wrote it; every attempt's is this one on the hosts that are left.
        stdout: where launcher and ranks print; None: where this program does.
    """

    strategy: Strategy
    journal: Journal
    stdout: int | None = None
    pool: HostPool = field(init=False)
    is_asked: bool = field(default=False, init=False)
    # Whether the attempt before this one was this supervisor's, or an earlier one's that was ended.
    _has_fenced: bool = field(default=False, init=False)
    _restarts: list[float] = field(default_factory=list, init=False)
    _errors: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        plan = build_launch_plan(self.strategy)
        self.pool = pool_of(plan)
        self._paths = launch_paths(plan)  # the same on whichever hosts

    def run(self) -> ExitCode:
        """Attempt after attempt until one is done, or another would be of no use.

        Raises:
            StrategyError: if there is no plan on the hosts that are left.
        """
        self._reap_earlier()
        self._take_out(self._cordoned(), "cordoned")
        while True:
            plan = build_launch_plan(on_hosts(self.strategy, self.pool))
            began = time.monotonic()
            verdict, unfenced = self._attempt(plan)
            lost = self._lost_hosts(verdict)
            unfenced = tuple(dict.fromkeys((*unfenced, *lost)))  # launch.sh may have ended, and told nobody
            failed = lost or self._hosts_of_failed_ranks(plan, verdict)
            decision = decide(
                verdict,
                history=History(errors=self._errors, restarts=self._restarts),
                is_asked=self.is_asked,
                lost=lost,
                restarts_per_hour=self.strategy.operate.restarts_per_hour,
                now=time.monotonic(),
            )
            if unfenced:
                self.journal.write(
                    "not fenced",
                    f"{', '.join(unfenced)} could not be reached: ranks of this attempt may still run there; "
                    "they save nothing once another attempt has begun",
                    hosts=unfenced,
                )
            if decision.code is not None:
                self.journal.write("end", decision.text, code=int(decision.code))
                return decision.code
            if verdict.cause is Cause.PROGRAM:
                self._errors.append(verdict.signature)
            self._restarts.append(time.monotonic())
            cause = (Cause.HOST_LOST if lost else verdict.cause).value
            self.journal.write(
                "restart", f"{cause}: {decision.text}", seconds=round(time.monotonic() - began, 1)
            )
            self._take_out((*failed, *self._cordoned()), cause)

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self.is_asked = True

    def _attempt(self, plan: Plan) -> tuple[Verdict, tuple[str, ...]]:
        """Runs one; returns its verdict, and the hosts on which its end was not confirmed."""
        paths = self._paths
        before = newest_attempt(paths.run)
        write_together(paths.run, launch_files(plan, paths, os.environ))
        hosts = tuple(host.name for host in plan.hosts)
        attempt = Attempt(paths, hosts, takes_over=self._has_fenced, stdout=self.stdout)
        self.journal.write(
            "start",
            f"attempt {before + 1} of {plan.strategy.parallel.layout_name} on {', '.join(hosts)}",
            pid=attempt.pid,
            hosts=hosts,
            spares=[host.name for host in self.pool.spares],
            fingerprint=plan.fingerprint,
        )
        try:
            verdict = self._watch(plan, attempt, before)
        except BaseException:
            attempt.kill()
            raise
        self._has_fenced = True
        unfenced = attempt.kill() if verdict.cause is not Cause.DONE else ()
        return verdict, unfenced

    def _watch(self, plan: Plan, attempt: Attempt, before: int) -> Verdict:
        run = self._paths.run
        hangs = HangWatch(
            hang_timeout_s=plan.strategy.operate.hang_timeout, first_timeout_s=plan.strategy.launch.timeout
        )
        has_asked = False
        while (code := attempt.poll()) is None:
            time.sleep(LOOK_S)
            ranks = _of_attempts_after(before, read_heartbeats(run))
            if (self.is_asked or self._has_cordoned_in_use()) and not has_asked:
                attempt.ask()
                has_asked = True
            gone = _gone(ranks)
            if gone:
                return self._judge_gone(attempt, before, gone)
            stall = hangs.observe(ranks, time.monotonic())
            if stall is not None:
                return _describe_hang(stall, find_failed_ranks(ranks))
        gone = _gone(_of_attempts_after(before, read_heartbeats(run)))
        return judge(read_outcome(run, after=before), gone=gone, exit_code=code)

    def _judge_gone(self, attempt: Attempt, before: int, gone: Sequence[int]) -> Verdict:
        deadline = time.monotonic() + REASON_WAIT_S
        while time.monotonic() < deadline and attempt.poll() is None:
            time.sleep(LOOK_S / 5)
        return judge(read_outcome(self._paths.run, after=before), gone=gone, exit_code=attempt.poll())

    def _lost_hosts(self, verdict: Verdict) -> tuple[str, ...]:
        """Hosts that do not answer, where that can have ended the attempt."""
        if verdict.cause in (Cause.DONE, Cause.DIVERGED, Cause.WRONG_INPUT) or self.is_asked:
            return ()
        return unreachable(self._paths, self.pool.names, PROBE_TIMEOUT_S)

    def _hosts_of_failed_ranks(self, plan: Plan, verdict: Verdict) -> tuple[str, ...]:
        if verdict.cause in (Cause.RANK_LOST, Cause.HANG):
            return tuple({plan.host_of(rank).name for rank in verdict.ranks})
        return ()

    def _take_out(self, failed: Sequence[str], why: str) -> None:
        """Puts spares in the places of failed hosts; without enough of them, another plan on what is left."""
        failed = tuple(
            name for name in failed if name in {*self.pool.names, *(s.name for s in self.pool.spares)}
        )
        if not failed:
            return
        pool = self.pool.take_out(failed)
        if pool is not None:
            self.journal.write(
                "replace", f"{', '.join(failed)} left ({why}); now on {', '.join(pool.names)}", out=failed
            )
            self.pool = pool
            return
        dead = unreachable(self._paths, failed, PROBE_TIMEOUT_S)
        if not dead and why != "cordoned":
            self.journal.write(
                "keep", f"no spare is left; still in use, as ssh reaches it: {', '.join(failed)}"
            )
            return
        self._shrink(failed)

    def _shrink(self, failed: Sequence[str]) -> None:
        pool = self.pool.shrink(failed)
        if not pool.in_use:
            raise StrategyError([_no_plan(failed, "no host is left")])
        rows = search(on_hosts(self.strategy, pool)).rows
        best = next((row for row in rows if not untrainable_keys(row.strategy)), None)
        if best is None:
            raise StrategyError([_no_plan(failed, f"{len(pool.in_use)} hosts are left")])
        self.strategy = best.strategy
        self.pool = replace(pool_of(best.plan), out=pool.out)
        self.journal.write(
            "fallback",
            f"no spare is left for {', '.join(failed)}: continuing as "
            f"{self.strategy.parallel.layout_name} on {', '.join(self.pool.names)}, the same global batch",
            out=list(failed),
        )

    def _cordoned(self) -> tuple[str, ...]:
        return read_cordoned(self._paths.run.parent)

    def _has_cordoned_in_use(self) -> bool:
        return bool(set(self._cordoned()) & set(self.pool.names))

    def _reap_earlier(self) -> None:
        """Ends what an earlier supervisor of this run, which was killed, has left running."""
        paths = self._paths
        started = [entry for entry in read_journal(paths.run) if entry.event in ("start", "end", "restart")]
        if not started or started[-1].event != "start":
            return
        facts: Any = started[-1].facts
        hosts = [name for name in facts.get("hosts", ()) if isinstance(name, str)]
        for link in sorted(paths.run.glob(f"logs/job-*-{facts.get('pid')}/bin/python-*")):
            left = fence(paths, hosts, link)
            text = f"ended what an earlier supervisor left of its last attempt on {', '.join(hosts)}"
            if left:
                text += f"; {', '.join(left)} could not be reached, ranks may still run there"
            self.journal.write("reap", text, hosts=hosts, unfenced=left)
            self._has_fenced = True


@contextlib.contextmanager
def supervision(run_folder: Path) -> Iterator[None]:
    """Holds the run for this supervisor.

    Raises:
        StrategyError: if another one does.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / LOCK_NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            problem = Problem(
                code="SW451",
                file=str(run_folder),
                found=f"another supervisor has this run ({file.read().strip() or 'it has not said which'})",
                expected="one supervisor of a run",
                fix="wait for it, or stop it (TERM: it saves and ends); or set another name",
            )
            raise StrategyError([problem]) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


@contextlib.contextmanager
def stop_requests(supervisor: Supervisor) -> Iterator[None]:
    """INT and TERM ask the attempt to save and end."""
    before = {
        number: signal.signal(number, supervisor.ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _of_attempts_after(before: int, ranks: dict[int, Heartbeat]) -> dict[int, Heartbeat]:
    return {rank: beat for rank, beat in ranks.items() if beat.attempt > before}


def _gone(ranks: dict[int, Heartbeat]) -> tuple[int, ...]:
    return tuple(sorted(rank for rank, beat in ranks.items() if beat.state == "gone"))


def _describe_hang(stall: Stall, failed: Sequence[int]) -> Verdict:
    who = f"rank {', '.join(map(str, failed))}" if failed else "a rank that cannot be told from the others"
    reason = (
        f"{who} has begun nothing new for {stall.seconds:.0f} s, in {stall.phase} of step {stall.step} "
        f"(limit {stall.limit_s:.0f} s)"
    )
    return Verdict(cause=Cause.HANG, reason=reason, ranks=tuple(failed))


def _no_plan(failed: Sequence[str], left: str) -> Problem:
    return Problem(
        code="SW452",
        path="cluster.hosts",
        found=f"{', '.join(failed)} left, no spare is there, and {left}: no plan fits there and trains",
        expected="hosts on which a plan of this model fits",
        fix="add hosts, or start again with the strategy of the first row of `python -m launch fallback "
        "STRATEGY --lost-hosts N`",
    )
