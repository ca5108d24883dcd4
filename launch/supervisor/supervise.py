"""Supervisor of a run: starts an attempt, watches it, judges its end, replaces what failed, and again."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from launch.scripts.launch_files import (
    build_launch_plan,
    cannot_write,
    launch_files,
    launch_paths,
    write_together,
)
from launch.supervisor.attempt import Attempt, unreachable
from launch.supervisor.cordon import read_cordoned
from launch.supervisor.decision import Decision, History, decide
from launch.supervisor.fallback import shrink
from launch.supervisor.host_pool import on_hosts, pool_of
from launch.supervisor.job_link import job_prefix, make_link
from launch.supervisor.journal import Journal
from launch.supervisor.lost_hosts import find_lost_hosts
from launch.supervisor.reaping import reap_earlier
from launch.supervisor.recovery import Recovery, RecoveryClock, newest_checkpoint
from launch.supervisor.training_time import describe_training_time
from launch.supervisor.verdict import Cause, Verdict
from launch.supervisor.warm_parents import WarmParents
from launch.supervisor.watch import AttemptWatch, are_training
from planner import Plan, StrategyError
from planner.exit_codes import ExitCode
from planner.heartbeats import Heartbeat, remove_unfinished
from planner.run_holder import find_live_holder, held_problem, newest_attempt
from planner.strategy.schema import Strategy

PROBE_TIMEOUT_S = 15.0


@dataclass
class Supervisor:
    """One supervised run.

    Args:
        strategy: as the user wrote it; every attempt's is this one on the hosts that are left.
        stdout: where launcher and ranks print; None: where this program does.
        program: what every rank runs, as the runner's arguments.
    """

    strategy: Strategy
    journal: Journal
    stdout: int | None = None
    program: tuple[str, ...] = ("train.py",)
    is_asked: bool = field(default=False, init=False)
    recoveries: list[Recovery] = field(default_factory=list, init=False)
    # Whether the attempt before this one was this supervisor's, or an earlier one's that was ended.
    _has_fenced: bool = field(default=False, init=False)
    _restarts: list[float] = field(default_factory=list, init=False)
    _errors: list[str] = field(default_factory=list, init=False)
    _num_jobs: int = field(default=0, init=False)
    _warm_failures: int = field(default=0, init=False)
    # Of the next attempt; of the recovery that goes on.
    _warm: WarmParents | None = field(default=None, init=False)
    _recovery: RecoveryClock | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        plan = build_launch_plan(self.strategy)
        self.pool = pool_of(plan)
        self._paths = replace(launch_paths(plan), program=self.program)  # the same on whichever hosts
        self._jobs = job_prefix()

    def run(self) -> ExitCode:
        """Attempt after attempt until one is done, or another would be of no use.

        Raises:
            StrategyError: if there is no plan on the hosts that are left, or another process trains the run.
        """
        self._has_fenced = reap_earlier(self._paths, self.journal)
        holder = None if self._has_fenced else find_live_holder(self._paths.run)
        if holder is not None:  # its ranks would find it too, after each of several starts
            raise StrategyError([held_problem(self._paths.run, holder)])
        self._take_out(self._cordoned(), "cordoned")
        try:
            while (code := self._run_once()) is None:
                pass
            return code
        finally:
            if self._warm is not None:
                self._warm.kill()

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self.is_asked = True

    def _run_once(self) -> ExitCode | None:
        """One attempt and what follows from it: the exit code, or None for another attempt."""
        plan = build_launch_plan(on_hosts(self.strategy, self.pool))
        verdict, unfenced = self._attempt(plan)
        lost = self._lost_hosts(verdict)
        unfenced = tuple(dict.fromkeys((*unfenced, *lost)))  # launch.sh may have ended, and told nobody
        decision = self._decide(verdict, lost)
        if unfenced:
            self.journal.write(
                "not fenced",
                f"{', '.join(unfenced)} could not be reached: ranks of this attempt may still run there; "
                "they save nothing once another attempt has begun",
                hosts=unfenced,
            )
        if decision.code is not None:
            self._tell_training_time(plan)
            self.journal.write("end", decision.text, code=int(decision.code))
            return decision.code
        if verdict.signature is not None:
            self._errors.append(verdict.signature)
        self._restarts.append(time.monotonic())
        cause = (Cause.HOST_LOST if lost else verdict.cause).value
        self.journal.write("restart", f"{cause}: {decision.text}")
        self._take_out((*(lost or self._failed_hosts(plan, verdict)), *self._cordoned()), cause)
        return None

    def _decide(self, verdict: Verdict, lost: Sequence[str]) -> Decision:
        return decide(
            verdict,
            history=History(errors=self._errors, restarts=self._restarts),
            is_asked=self.is_asked,
            lost=lost,
            restarts_per_hour=self.strategy.operate.restarts_per_hour,
            on_corruption=self.strategy.runtime.on_corruption,
            now=time.monotonic(),
        )

    def _attempt(self, plan: Plan) -> tuple[Verdict, tuple[str, ...]]:
        """Runs one; returns its verdict, and the hosts on which its end was not confirmed."""
        paths = self._paths
        before = newest_attempt(paths.run)
        self._write_files(plan)
        hosts = tuple(host.name for host in plan.hosts)
        warm, self._warm = self._warm, None
        link = self._next_link() if warm is None else warm.link
        everywhere = hosts if warm is None else tuple(dict.fromkeys((*hosts, *warm.hosts)))
        attempt = Attempt(paths, link, everywhere, takes_over=self._has_fenced, stdout=self.stdout)
        if self._recovery is not None:
            self._recovery.start(time.monotonic())
        self.journal.write(
            "start",
            f"attempt {before + 1} of {plan.strategy.parallel.layout_name} on {', '.join(hosts)}",
            pid=attempt.pid,
            jobs=self._jobs,
            hosts=hosts,
            spares=[host.name for host in self.pool.spares],
            fingerprint=plan.fingerprint,
        )
        if warm is not None and (cold := {h: code for h, code in warm.missing().items() if h in hosts}):
            self.journal.write(
                "cold",
                f"no warm parent on {', '.join(cold)}: its ranks start by themselves (see logs/*_warm-*.log)",
                hosts=list(cold),
            )
        watch = AttemptWatch(
            plan=plan,
            run=paths.run,
            before=before,
            should_stop=lambda: self.is_asked or self._has_cordoned_in_use(),
            on_look=lambda ranks: self._look(plan, ranks),
        )
        try:
            verdict = watch.watch(attempt)
        except BaseException:
            attempt.kill()
            raise
        self._note_progress(watch, verdict)
        self._has_fenced = True
        unfenced = attempt.kill() if verdict.cause is not Cause.DONE else ()
        if warm is not None:
            warm.close()
        remove_unfinished(paths.run)
        return verdict, tuple(host for host in unfenced if host in hosts)

    def _write_files(self, plan: Plan) -> None:
        """
        Raises:
            StrategyError: if the run folder does not take them.
        """
        files = launch_files(plan, self._paths, os.environ)
        try:
            write_together(self._paths.run, files)
        except OSError as error:
            raise StrategyError([cannot_write(self._paths.run, error)]) from None

    def _look(self, plan: Plan, ranks: Mapping[int, Heartbeat]) -> None:
        """Warms up the next attempt's parents once the ranks train; tells of a recovery that is complete."""
        is_due = self._warm is None and not self._warm_failures and not self.is_asked
        if is_due and are_training(ranks, plan.world_size):
            self._warm_up()
        if self._recovery is not None:
            self._tell_recovery(self._recovery.observe(ranks, plan.world_size, time.monotonic()))

    def _warm_up(self) -> None:
        hosts = [host.name for host in (*self.pool.in_use, *self.pool.spares)]
        try:
            self._warm = WarmParents(self._paths, self._next_link(), hosts)
        except (OSError, StrategyError) as error:  # the run goes on, and its next attempt starts cold
            self._warm_failures += 1
            if self._warm_failures == 1:
                self.journal.write("cold", f"no warm parents for the next attempt: {error}")

    def _note_progress(self, watch: AttemptWatch, verdict: Verdict) -> None:
        """At an attempt's end, which begins a recovery, or completes one."""
        now = time.monotonic()
        if self._recovery is not None and verdict.cause is Cause.DONE:
            self._tell_recovery(self._recovery.complete(now))
        step = max(watch.step, 0 if self._recovery is None else self._recovery.step)
        progress = now if watch.last_progress is None else watch.last_progress
        self._recovery = RecoveryClock(
            progress=progress, verdict=now, step=step, saved=newest_checkpoint(self._paths.run)
        )

    def _tell_recovery(self, recovery: Recovery | None) -> None:
        if recovery is None:
            return
        self._recovery = None
        self.recoveries.append(recovery)
        facts = {name: round(getattr(recovery, name), 2) for name in _RECOVERY_FACTS}
        self.journal.write("recovered", str(recovery), **facts)

    def _tell_training_time(self, plan: Plan) -> None:
        told = describe_training_time(plan, self._paths.run, self.recoveries)
        if told is not None:
            self.journal.write("training time", told[0], by_mtbf=told[1])

    def _next_link(self) -> Path:
        self._num_jobs += 1
        return make_link(self._paths, f"{self._jobs}-{self._num_jobs}")

    def _lost_hosts(self, verdict: Verdict) -> tuple[str, ...]:
        """Hosts that do not answer, where that can have ended the attempt."""
        if verdict.cause in (Cause.DONE, Cause.DIVERGED, Cause.WRONG_INPUT) or self.is_asked:
            return ()
        return find_lost_hosts(
            lambda: unreachable(self._paths, self.pool.names, PROBE_TIMEOUT_S),
            len(self.pool.names),
            self.journal,
            lambda: self.is_asked,
        )

    def _failed_hosts(self, plan: Plan, verdict: Verdict) -> tuple[str, ...]:
        if verdict.cause not in (Cause.RANK_LOST, Cause.HANG, Cause.CORRUPTED):
            return ()
        return tuple(dict.fromkeys((*(plan.host_of(rank).name for rank in verdict.ranks), *verdict.hosts)))

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
        if not dead and why not in _NEVER_KEPT:
            self.journal.write(
                "keep", f"no spare is left; still in use, as ssh reaches it: {', '.join(failed)}"
            )
            return
        self._shrink(failed)

    def _shrink(self, failed: Sequence[str]) -> None:
        self.strategy, self.pool = shrink(self.strategy, self.pool, failed)
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


# A host that is out for one of these reasons gets no ranks again, whether ssh reaches it or not.
_NEVER_KEPT = ("cordoned", Cause.CORRUPTED.value)
_RECOVERY_FACTS = (
    "detect_s",
    "decide_s",
    "start_s",
    "load_s",
    "replay_s",
    "total_s",
    "restart_s",
    "replayed_steps",
)
