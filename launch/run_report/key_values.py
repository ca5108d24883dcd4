"""Key values of a run, by which runs are compared."""

from collections.abc import Iterator
from statistics import median

from launch.run_report.run_data import RunData
from planner.units import format_bytes, format_count, milliseconds


def key_values(run: RunData) -> dict[str, str]:
    """Name and text; "-" where a value is not known."""
    return dict(_values(run))


def _values(run: RunData) -> Iterator[tuple[str, str]]:
    snapshot, plan = run.snapshot, run.snapshot.run.plan
    last, speed = snapshot.last, snapshot.throughput
    total = "" if snapshot.num_steps is None else f" of {snapshot.num_steps}"
    yield "steps", "-" if last is None else f"{last.step}{total}"
    yield "loss", _number(None if last is None else last.loss)
    yield "validation loss", _number(snapshot.validation_loss)
    rates = [rate for step in run.steps if (rate := step.tokens_per_s) is not None]
    yield "tokens/s, median", f"{median(rates):,.0f}" if rates else "-"
    yield "step, median", f"{milliseconds(median(s.step_s for s in run.steps))} ms" if run.steps else "-"
    error = None if run.ledger is None else run.ledger.error("step_s")
    yield "predicted step", "-" if error is None else f"{error:+.0%}"
    yield "MFU", "-" if speed is None or speed.mfu is None else f"{speed.mfu:.1%}"
    yield "goodput", "-" if snapshot.goodput is None else f"{snapshot.goodput:.1%}"
    shares = [
        share
        for view in snapshot.ranks
        if view.record is not None and (share := view.record.communication_share) is not None
    ]
    yield "waits, mean of ranks", f"{sum(shares) / len(shares):.1%}" if shares else "-"
    used = [v.record.memory_bytes for v in snapshot.ranks if v.record is not None and v.record.memory_bytes]
    yield "memory, fullest rank", format_bytes(max(used)) if used else "-"
    yield "expert balance", _number(None if last is None else last.balance, 2)
    yield "attempts", str(max(snapshot.attempt, len(run.attempts))) if run.attempts else "-"
    tokens = [step.tokens for step in run.steps if step.tokens is not None]
    yield "tokens trained", format_count(sum(tokens)) if tokens else "-"
    yield "layout", "-" if plan is None else plan.strategy.parallel.layout_name
    yield "ranks", "-" if plan is None else str(plan.world_size)
    yield "device", "-" if plan is None else plan.strategy.cluster.gpu.name or "described in the strategy"
    yield "precision", "-" if plan is None else plan.strategy.training.precision


def _number(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
