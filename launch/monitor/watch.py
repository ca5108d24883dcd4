"""Watch over a run: looks at its files again and again, and makes a snapshot of each look."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from launch.monitor.alarms import find_alarms
from launch.monitor.liveness import Liveness
from launch.monitor.snapshot import RankView, Snapshot, State, Throughput
from launch.monitor.straggler import NUM_WINDOWS, WINDOW, Slowest, find_slowest
from launch.run_folder.clock import RunClock
from launch.run_folder.description import RunDescription, describe_run
from launch.run_folder.experts import ExpertHealth, add, expert_health
from launch.run_folder.limits import LimitReading, read_limits
from launch.run_folder.lines import LineTail
from launch.run_folder.ranks import RankTails
from launch.run_folder.records import StepRecord, parse_experts, parse_step
from launch.supervisor.journal import read_journal
from planner.exit_codes import ExitCode
from planner.heartbeats import Heartbeat, read_heartbeats
from planner.prediction.breakdown import PHASES
from planner.run_files import EXPERTS_NAME, STEPS_NAME
from planner.strategy.schema import Strategy
from planner.units import plural

_KEPT = NUM_WINDOWS * WINDOW  # steps
_JOURNAL_LINES = 5


class RunWatch:
    """One run.

    Args:
        now: seconds of a monotonic clock: what is stale is judged by the reader's own.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._now = folder, now
        self._lines = LineTail(folder / STEPS_NAME)
        self._expert_lines = LineTail(folder / EXPERTS_NAME, tail_bytes=1 << 22)
        self._ranks = RankTails(folder, num_steps=_KEPT)
        self._clock = RunClock()
        self._steps: deque[StepRecord] = deque(maxlen=_KEPT)
        self._experts: deque[list[list[float]]] = deque(maxlen=_KEPT)
        self._validation_loss: float | None = None
        self._num_foreign = 0  # lines that are no step's
        self._liveness = Liveness(folder, now=now)
        self._description: tuple[object, RunDescription] | None = None

    def look(self) -> Snapshot:
        """The run as its files are now."""
        run = self._describe()
        self._read()
        heartbeats = read_heartbeats(self._folder)
        self._liveness.look(heartbeats)
        last = self._steps[-1] if self._steps else None
        newest = max((claim.attempt for claim in run.claims), default=0)
        attempt = max(newest, last.attempt if last else 0)
        state, detail = self._state(run, last, heartbeats)
        ranks = tuple(self._rank_views(run, heartbeats, attempt))
        slowest = self._slowest(run)
        limits = self._limits(run)
        experts = self._expert_health()
        since_s = 0.0 if state.is_over else self._liveness.since_progress_s
        return Snapshot(
            run=run,
            state=state,
            state_detail=detail,
            last=last,
            validation_loss=self._validation_loss,
            num_steps=None if run.strategy is None else run.strategy.training.steps,
            attempt=attempt,
            throughput=self._throughput(run),
            goodput=self._clock.goodput(run.claims, since_s=since_s),
            ranks=ranks,
            slowest=slowest,
            limits=limits,
            experts=experts,
            dropped_share=self._dropped_share(run.strategy),
            alarms=tuple(find_alarms(run, state, detail, list(self._steps), ranks, slowest, limits, experts)),
            notes=tuple(self._notes(run, ranks, last)),
            journal=tuple(entry.text for entry in read_journal(self._folder))[-_JOURNAL_LINES:],
        )

    def _describe(self) -> RunDescription:
        """Reads the plan again only where its file has changed: it takes longer than all the rest."""
        path = self._folder / "strategy.yaml"
        try:
            stat = path.stat()
            signature: object = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:
            signature = None
        if self._description is None or self._description[0] != signature:
            self._description = (signature, describe_run(self._folder))
            return self._description[1]
        known = self._description[1]
        return describe_run(self._folder, known=known)

    def _read(self) -> None:
        for line in self._lines.read():
            record = parse_step(line)
            if record is None:
                self._num_foreign += 1
                continue
            if self._steps and record.step <= self._steps[-1].step:  # repeated after a resume
                kept = [step for step in self._steps if step.step < record.step]
                self._steps.clear()
                self._steps.extend(kept)
            self._steps.append(record)
            self._clock.observe(record)
            if record.validation_loss is not None:
                self._validation_loss = record.validation_loss
            self._liveness.progressed()
        for line in self._expert_lines.read():
            found = parse_experts(line)
            if found is not None:
                self._experts.append(found[1])
        self._ranks.look()

    def _state(
        self, run: RunDescription, last: StepRecord | None, heartbeats: dict[int, Heartbeat]
    ) -> tuple[State, str]:
        outcome = run.outcome
        if outcome is not None:
            if outcome.code == ExitCode.OK:
                return State.DONE, ""
            if outcome.code == ExitCode.STOPPED:
                kept = "" if outcome.checkpoint is None else f"checkpoint at step {outcome.checkpoint}"
                return State.STOPPED, kept
            return State.FAILED, outcome.text or f"exit code {outcome.code}"
        if not run.claims and last is None:
            return State.NOT_STARTED, "no attempt has claimed the run"
        if self._liveness.is_alive:
            phase = min((beat.step, beat.phase) for beat in heartbeats.values())[1] if heartbeats else ""
            return (State.TRAINING if last is not None else State.STARTING), phase
        return State.SILENT, self._liveness.describe()

    def _rank_views(
        self, run: RunDescription, heartbeats: dict[int, Heartbeat], attempt: int
    ) -> Iterator[RankView]:
        known = set(self._ranks.last) | set(heartbeats)
        if run.plan is not None:
            known |= set(range(run.plan.world_size))
        for rank in sorted(known):
            is_planned = run.plan is not None and rank < run.plan.world_size
            beat = heartbeats.get(rank)
            yield RankView(
                rank=rank,
                host=run.plan.host_of(rank).name if is_planned and run.plan is not None else None,
                stage=run.plan.stage_of(rank).name if is_planned and run.plan is not None else None,
                record=self._ranks.last.get(rank),
                heartbeat=beat if beat is not None and beat.attempt >= attempt else None,
                silent_s=self._liveness.silent_s(rank),
            )

    def _slowest(self, run: RunDescription) -> Slowest | None:
        stages = [tuple(self._ranks.last)] if run.plan is None else [s.ranks for s in run.plan.stages]
        return find_slowest(self._ranks.steps, stages)

    def _limits(self, run: RunDescription) -> tuple[LimitReading, ...]:
        if run.plan is None or not self._steps:
            return ()
        return read_limits(run.plan, list(self._steps)[-WINDOW:], self._ranks.newest(WINDOW))

    def _expert_health(self) -> ExpertHealth | None:
        total: list[list[float]] | None = None
        for tokens in self._experts:
            total = add(total, tokens)
        return None if total is None else expert_health(total)

    def _dropped_share(self, strategy: Strategy | None) -> float | None:
        """Of the routes of the last window."""
        steps = list(self._steps)[-WINDOW:]
        dropped = [step.dropped_tokens for step in steps if step.dropped_tokens is not None]
        if not dropped or strategy is None:
            return None
        model = strategy.model
        layers = model.num_hidden_layers - model.first_dense_layers
        routes = sum(step.tokens or 0.0 for step in steps) * layers * model.num_experts_per_tok
        return sum(dropped) / routes if routes > 0 else None

    def _throughput(self, run: RunDescription) -> Throughput | None:
        steps = list(self._steps)[-WINDOW:]
        if not steps:
            return None
        step_s = median(step.step_s for step in steps)
        rates = [rate for step in steps if (rate := step.tokens_per_s) is not None]
        mfus = [step.mfu for step in steps if step.mfu is not None]
        left = None if run.strategy is None else max(0, run.strategy.training.steps - steps[-1].step)
        return Throughput(
            step_s=step_s,
            tokens_per_s=median(rates) if rates else None,
            mfu=median(mfus) if mfus else None,
            phases_s={name: median(step.phases_s.get(name, 0.0) for step in steps) for name in PHASES},
            predicted_step_s=steps[-1].predicted.get("step_s"),
            eta_s=None if left is None else left * step_s,
        )

    def _notes(
        self, run: RunDescription, ranks: tuple[RankView, ...], last: StepRecord | None
    ) -> Iterator[str]:
        if run.plan_fault is not None:
            yield run.plan_fault
        if not self._lines.exists:
            yield f"{STEPS_NAME} is missing: no step was recorded"
        elif last is None:
            yield f"{STEPS_NAME} has no complete line of a step yet"
        torn = [*([STEPS_NAME] if self._lines.is_torn else []), *self._ranks.torn]
        if torn:
            rest = "" if len(torn) <= 4 else f" and {len(torn) - 4} more"
            yield (
                f"the last line of {', '.join(torn[:4])}{rest} is not complete: its writer was killed in "
                "it, or is writing it now"
            )
        damaged = self._lines.num_damaged + self._num_foreign + self._ranks.num_damaged
        if damaged:
            yield f"left out, because it cannot be read as a step: {plural(damaged, 'line')}"
        if last is not None and self._expert_lines.exists is False:
            yield f"{EXPERTS_NAME} is missing: nothing is known of single experts"
        if last is not None:
            missing = [view.rank for view in ranks if view.record is None]
            if missing and len(missing) == len(ranks):
                yield "no rank has a file in ranks/: nothing is known of single ranks"
        for jump in self._clock.jumps[-3:]:
            yield str(jump)
