"""Alarms of a run: what somebody should look at, in words."""

from collections.abc import Iterator, Sequence

from launch.monitor.snapshot import RankView, State
from launch.monitor.straggler import NUM_WINDOWS, WINDOW, Slowest
from launch.run_folder.description import RunDescription
from launch.run_folder.experts import ExpertHealth
from launch.run_folder.limits import LimitReading
from launch.run_folder.records import StepRecord
from planner.units import plural

_NAMED = 8  # ranks or experts in one line


def find_alarms(
    run: RunDescription,
    state: State,
    detail: str,
    steps: Sequence[StepRecord],
    ranks: Sequence[RankView],
    slowest: Slowest | None,
    limits: Sequence[LimitReading],
    experts: ExpertHealth | None,
) -> Iterator[str]:
    """The gravest first.

    Args:
        steps: the last ones, oldest first.
    """
    if state in (State.FAILED, State.SILENT):
        yield f"{state.value}: {detail}"
    yield from _of_losses(steps)
    yield from _of_ranks(run, state, steps, ranks)
    for limit in limits:
        if limit.holds is False:
            where = f" (stage {limit.stage})" if limit.stage else ""
            yield (
                f"limit missed: {limit.name} {limit.text(limit.limit)}, measured "
                f"{limit.text(limit.measured)}{where}"
            )
    if slowest is not None and slowest.is_straggler:
        yield (
            f"straggler: rank {slowest.rank} took {slowest.ratio:.2f} times as long for its own work as its "
            f"stage's others, in {NUM_WINDOWS} windows of {WINDOW} steps in a row"
        )
    if experts is not None:
        if experts.dead:
            yield f"{plural(len(experts.dead), 'dead expert')}: {_listed([str(e) for e in experts.dead])}"
        if experts.overloaded:
            names = _listed([str(e) for e in experts.overloaded])
            yield f"{plural(len(experts.overloaded), 'overloaded expert')}: {names}"


def _of_losses(steps: Sequence[StepRecord]) -> Iterator[str]:
    if not steps:
        return
    last = steps[-1]
    if last.is_loss_not_finite:
        yield f"the loss of step {last.step} is not finite"
    skipped = [step.step for step in steps[-WINDOW:] if step.is_skipped]
    if skipped:
        yield (
            f"{plural(len(skipped), 'step')} of the last {len(steps[-WINDOW:])} skipped, as the gradient is "
            f"not finite: {_listed([str(step) for step in skipped])}"
        )


def _of_ranks(
    run: RunDescription, state: State, steps: Sequence[StepRecord], ranks: Sequence[RankView]
) -> Iterator[str]:
    newest = steps[-1].step if steps else None
    if newest is not None and any(view.record is not None for view in ranks):
        if missing := [view.rank for view in ranks if view.record is None]:
            yield f"{_ranks(missing)} never wrote a step, and rank 0 is at step {newest}"
        behind = [
            view for view in ranks if view.record is not None and view.record.step < newest - 1
        ]  # a step is a line of each, at about the same time
        if behind:
            at = min(view.record.step for view in behind if view.record is not None)
            whose = _ranks([view.rank for view in behind])
            yield f"{whose} stopped writing at step {at}, and rank 0 is at step {newest}"
    if state.is_over:
        return
    for kind in ("gone", "stopped"):
        found = [view.rank for view in ranks if view.heartbeat is not None and view.heartbeat.state == kind]
        if found:
            yield f"{_ranks(found)}: the process is {kind}"
    silent = [
        view
        for view in ranks
        if view.heartbeat is not None
        and view.silent_s is not None
        and view.silent_s > _silence_limit_s(run, steps, view.heartbeat.phase)
    ]
    if silent:
        least_s = min(view.silent_s for view in silent if view.silent_s is not None)
        waits = {
            str(view.heartbeat.waits_in) for view in silent if view.heartbeat and view.heartbeat.waits_in
        }
        where = f", in {_listed(sorted(waits))}" if waits else ""
        yield f"{_ranks([view.rank for view in silent])} began nothing new for {least_s:.0f} s{where}"


def _silence_limit_s(run: RunDescription, steps: Sequence[StepRecord], phase: str) -> float:
    """As a supervisor judges, but for the longest step: only those that are kept are known here."""
    if run.strategy is None:
        return 60.0
    if phase != "step":
        return run.strategy.launch.timeout
    longest_s = max((step.step_s for step in steps), default=0.0)
    return max(run.strategy.operate.hang_timeout, 5 * longest_s)


def _ranks(ranks: Sequence[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + _listed([str(rank) for rank in ranks])


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest
