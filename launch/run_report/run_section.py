"""Section of one run: its figures, plan, phases, curves, experts, traced step, failures and recoveries."""

from collections.abc import Iterator
from datetime import datetime, timezone

from launch.run_report import heat_map
from launch.run_report.html import bullets, facts, heading, paragraph, table
from launch.run_report.key_values import key_values
from launch.run_report.line_chart import Line, line_chart
from launch.run_report.phase_bars import phase_bars
from launch.run_report.run_data import RunData
from launch.run_report.step_timeline import MAX_ROWS, step_timeline
from planner.report.ledger import WARMUP_STEPS
from planner.report.plan_svg import STYLE as PLAN_STYLE
from planner.report.plan_svg import plan_svg
from planner.units import format_seconds, plural

_NAMED = 12  # experts in a list


def run_section(run: RunData) -> str:
    """HTML from the run's heading on."""
    return "\n".join(_parts(run))


def _parts(run: RunData) -> Iterator[str]:
    snapshot = run.snapshot
    yield heading(2, run.label)
    detail = f": {snapshot.state_detail}" if snapshot.state_detail else ""
    yield paragraph(f"{snapshot.state.value}{detail}", "good" if snapshot.run.is_done else "bad")
    yield facts([(name, value) for name, value in key_values(run).items() if value != "-"])
    if snapshot.alarms:
        yield heading(3, "What needs a look")
        yield bullets(snapshot.alarms, "bad")
    if snapshot.notes:
        yield heading(3, "What the files do not tell")
        yield bullets(snapshot.notes)
    yield from _plan(run)
    yield from _curves(run)
    yield from _phases(run)
    yield from _limits(run)
    yield from _experts(run)
    yield from _timeline(run)
    yield from _failures(run)


def _plan(run: RunData) -> Iterator[str]:
    plan = run.snapshot.run.plan
    yield heading(3, "Plan: hosts and their ranks, coloured by stage")
    if plan is None:
        yield paragraph(run.snapshot.run.plan_fault or "The plan is not known.", "empty")
        return
    # Its style is in the page's, for this picture alone.
    yield f'<div class="plan">{plan_svg(plan).replace(f"<style>{PLAN_STYLE}</style>", "")}</div>'


def _curves(run: RunData) -> Iterator[str]:
    yield heading(3, "Loss")
    if not run.steps:
        yield paragraph("No step was recorded.", "empty")
        return
    marks = [float(a.first_step) for a in run.attempts[1:] if a.first_step is not None]
    train = Line(label="training", points=tuple((s.step, s.loss) for s in run.steps), colour=0)
    found = tuple((s.step, s.validation_loss) for s in run.steps if s.validation_loss is not None)
    lines = [train]
    if found:
        lines.append(Line(label="validation", points=found, colour=1, has_markers=True))
    yield line_chart(lines, "Cross-entropy, nats per token, over steps", "step", marks=marks)
    yield heading(3, "Throughput, tokens/s")
    rates = tuple((s.step, s.tokens_per_s) for s in run.steps)
    lines = [Line(label="measured", points=rates, colour=0)]
    tokens, predicted = run.steps[-1].tokens, run.steps[-1].predicted.get("step_s")
    if tokens and predicted:
        ends = (run.steps[0].step, run.steps[-1].step)
        points = tuple((float(step), tokens / predicted) for step in ends)
        lines.append(Line(label="predicted", points=points, colour=1))
    yield line_chart(lines, "Tokens per second over steps", "step", marks=marks, from_zero=True)


def _phases(run: RunData) -> Iterator[str]:
    yield heading(3, "Step by phase, rank 0: predicted beside measured")
    if run.ledger is None:
        yield paragraph(
            f"Nothing to compare: no step after the first {WARMUP_STEPS} of an attempt has a prediction.",
            "empty",
        )
        return
    yield phase_bars(run.ledger.predicted, run.ledger.measured)
    yield paragraph(
        f"Medians of {plural(run.ledger.num_steps, 'step')}, without the first {WARMUP_STEPS} of each "
        "attempt. Waits for other ranks are all_to_all, tensor_parallel, stage_wait and gradient_reduce.",
        "quiet",
    )


def _limits(run: RunData) -> Iterator[str]:
    limits = run.snapshot.limits
    if not limits:
        return
    yield heading(3, "Limits of the strategy, over the last steps")
    rows = [
        (
            limit.name + (f" (stage {limit.stage})" if limit.stage else ""),
            limit.text(limit.limit),
            limit.text(limit.measured),
            "-" if limit.holds is None else "met" if limit.holds else "MISSED",
        )
        for limit in limits
    ]
    yield table(("limit", "asked", "measured", ""), rows, ("asked", "measured"))


def _experts(run: RunData) -> Iterator[str]:
    yield heading(3, "Expert load")
    experts = run.experts
    if experts is None:
        yield paragraph("No load of single experts was recorded.", "empty")
        return
    yield paragraph(
        "Over time: the busiest expert of each layer, times the layer's mean. 1× is even.", "quiet"
    )
    yield heat_map.over_time(experts)
    yield paragraph(f"From step {experts.latest_from} on: every expert.", "quiet")
    yield heat_map.by_expert(experts)
    for name, found in (("Dead", experts.health.dead), ("Overloaded", experts.health.overloaded)):
        rest = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        listed = ", ".join(map(str, found[:_NAMED])) + rest if found else "none"
        yield paragraph(f"{name} experts from step {experts.latest_from} on: {listed}")


def _timeline(run: RunData) -> Iterator[str]:
    trace = run.trace
    if trace is None:
        yield heading(3, "Timeline of one step")
        yield paragraph(run.trace_fault or "", "empty")
        return
    other = trace.get("otherData")
    step = other.get("step") if isinstance(other, dict) else None
    yield heading(3, f"Timeline of step {step}" if step is not None else "Timeline of one step")
    yield step_timeline(trace)
    yield paragraph(
        f"At most {MAX_ROWS} ranks are drawn; timeline.json in the run's folder has more, for "
        "https://ui.perfetto.dev.",
        "quiet",
    )


def _failures(run: RunData) -> Iterator[str]:
    yield heading(3, "Attempts, failures and recoveries")
    rows = [
        (
            a.attempt,
            a.host or "-",
            "-" if a.first_step is None else f"{a.first_step}-{a.last_step}",
            a.num_repeated or "-",
            "-" if a.pause_s is None else _pause(a.pause_s),
        )
        for a in run.attempts
    ]
    if not rows:
        yield paragraph("No attempt was recorded.", "empty")
    else:
        columns = ("attempt", "host of rank 0", "steps", "steps repeated", "time before it")
        yield table(columns, rows, ("attempt", "steps", "steps repeated", "time before it"))
    if run.journal:
        entries = [(_clock(entry.time), entry.event, entry.text) for entry in run.journal]
        yield paragraph("Decisions of the supervisor, times in UTC by its host's clock:", "quiet")
        yield table(("time", "event", "what"), entries)
    elif len(run.attempts) > 1:
        yield paragraph("No supervisor: the attempts were started by hand or by a batch system.", "quiet")


def _pause(seconds: float) -> str:
    return format_seconds(seconds) if seconds >= 0 else "unknown: a clock was set back"


def _clock(time: float) -> str:
    try:
        return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "?"
