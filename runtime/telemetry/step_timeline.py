"""Timeline of one step on all ranks, written as a Chrome trace and drawn as a picture.

The clocks of hosts differ, so every rank's times are relative to the end of the step's last collective over
the world, which all ranks leave within its latency of each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from planner import Plan, Stage
from planner.files import replace
from planner.report.timeline_style import LABELS, PASS_COLOURS, WAIT_COLOURS
from planner.run_files import TRACE_NAME
from runtime.parallel.bytes_exchange import gather_bytes
from runtime.profiling.phase_clock import TimeSpan
from runtime.training.train_step import StepResult

PICTURE_NAME = "timeline.png"
# From the third step of an attempt on, nothing happens for the first time.
_TRACED = 3
# A picture of more ranks shows no more; the first ranks of each stage are drawn.
MAX_RANKS = 128
# Waits for other ranks are drawn narrower, upon the pass in which they happen.
_NUMBERED_ROWS = 32  # micro-batches have their number in a picture of so many ranks


@dataclass(frozen=True, kw_only=True)
class RankTimes:
    """One rank's step: passes of micro-batches and the update, and the phases inside them; nanoseconds
    before the end of the step, so none is above 0."""

    rank: int
    passes: tuple[TimeSpan, ...]
    phases: tuple[TimeSpan, ...]


_TIMES: TypeAdapter[RankTimes | None] = TypeAdapter(RankTimes | None)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The traced step of an attempt that resumes from step `done`: its third, or the last one. Every rank has
    a Timeline; rank 0 writes."""

    plan: Plan
    rank: int
    folder: Path
    attempt: int
    done: int

    @property
    def step(self) -> int:
        return min(self.done + _TRACED, self.plan.strategy.training.steps)

    def write(self, result: StepResult, spans: Sequence[TimeSpan]) -> None:
        """Gathers the step of all ranks and writes timeline.json. Collective over the world.

        Args:
            spans: this rank's phases, recorded over the step.
        """
        times = None
        if self.rank in shown_ranks(self.plan):
            end = result.ended_ns
            times = RankTimes(
                rank=self.rank,
                passes=_before(result.passes, end),
                phases=_before(spans, end),
            )
        gathered = gather_bytes(_TIMES.dump_json(times))
        if gathered is not None:
            found = [times for times in map(_TIMES.validate_json, gathered) if times is not None]
            text = json.dumps(chrome_trace(self.plan, self.step, self.attempt, found))
            replace(self.folder / TRACE_NAME, text.encode())


def shown_ranks(plan: Plan) -> frozenset[int]:
    """All ranks of a small world; of a large one as many of each stage as fit into the picture."""
    each = MAX_RANKS if plan.world_size <= MAX_RANKS else max(1, MAX_RANKS // len(plan.stages))
    return frozenset(rank for stage in plan.stages for rank in stage.ranks[:each])


def chrome_trace(plan: Plan, step: int, attempt: int, ranks: Sequence[RankTimes]) -> dict[str, Any]:
    """The trace event format (microseconds, complete events) that chrome://tracing and Perfetto read: a
    process for each stage, a thread for each rank."""
    start = min((span.start_ns for times in ranks for span in times.passes), default=0)
    events: list[dict[str, Any]] = []
    for place, stage in enumerate(plan.stages):
        events.append(_name("process_name", f"{place} {stage.name}", pid=place))
        events += [_name("thread_name", f"rank {t.rank}", pid=place, tid=t.rank) for t in _of(stage, ranks)]
        for times in _of(stage, ranks):
            spans = [("pass", span) for span in times.passes] + [("phase", span) for span in times.phases]
            for category, span in sorted(spans, key=lambda item: (item[1].start_ns, -item[1].end_ns)):
                events.append(
                    {
                        "name": span.name,
                        "cat": category,
                        "ph": "X",
                        "ts": (span.start_ns - start) / 1e3,
                        "dur": (span.end_ns - span.start_ns) / 1e3,
                        "pid": place,
                        "tid": times.rank,
                    }
                )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "name": plan.strategy.name,
            "plan": plan.fingerprint,
            "attempt": attempt,
            "step": step,
        },
    }


def draw_timeline(folder: Path) -> Path | None:
    """Draws timeline.json beside it as timeline.png: one row per rank; None where no step was traced."""
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not (folder / TRACE_NAME).is_file():
        return None
    trace = json.loads((folder / TRACE_NAME).read_text(encoding="utf-8"))
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    stages = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    rows = {tid: row for row, (_, tid) in enumerate(sorted({(e["pid"], e["tid"]) for e in events}))}
    figure = Figure(figsize=(10, 1.4 + 0.24 * len(rows)), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (rank, kind), bars in _bars(events, end_us=max((e["ts"] + e["dur"] for e in events), default=0)):
        is_wait = kind in WAIT_COLOURS
        height = 0.4 if is_wait else 0.8
        colour = WAIT_COLOURS[kind] if is_wait else PASS_COLOURS[kind]
        axes.broken_barh(
            [(start / 1e3, duration / 1e3) for start, duration in bars],
            (rows[rank] - height / 2 + (0.12 if is_wait else 0), height),  # below the number
            facecolors=colour,
            linewidth=0,
            zorder=3 if is_wait else 2,
        )
    has_numbers = len(rows) <= _NUMBERED_ROWS
    for event in events:
        if has_numbers and event["name"].split()[0] in ("forward", "backward"):
            middle = (event["ts"] + event["dur"] / 2) / 1e3
            number = event["name"].split()[1]
            axes.text(
                middle,
                rows[event["tid"]] - 0.23,
                number,
                ha="center",
                va="center",
                fontsize=5.5,
                color="white",
                zorder=4,
            )
    axes.set_yticks(list(rows.values()), [f"rank {rank}" for rank in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("milliseconds")
    other = trace["otherData"]
    names = " → ".join(name.split(maxsplit=1)[1] for _, name in sorted(stages.items()))
    axes.set_title(f"{other['name']}, step {other['step']}: {names}", loc="left", fontsize=10)
    found = {event["name"].split()[0] for event in events}
    patches = [
        Patch(color=colour, label=LABELS.get(kind, kind))
        for kind, colour in (PASS_COLOURS | WAIT_COLOURS).items()
        if kind in found
    ]
    title = "a number in a bar is its micro-batch" if has_numbers else None
    figure.legend(
        handles=patches,
        frameon=False,
        ncols=4,
        fontsize=8,
        loc="outside lower left",
        title=title,
        title_fontsize=8,
        alignment="left",
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    replace(folder / PICTURE_NAME, picture.getvalue())
    return folder / PICTURE_NAME


def _bars(
    events: Sequence[dict[str, Any]], *, end_us: float
) -> Iterator[tuple[tuple[int, str], list[tuple[float, float]]]]:
    """Start and duration of each bar, by rank and kind. Waits closer than a fraction of a pixel are one bar:
    a step of a large model has thousands."""
    gap_us = end_us / 4000
    bars: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for event in sorted(events, key=lambda event: event["ts"]):
        kind = event["name"].split()[0]
        wanted = WAIT_COLOURS if event["cat"] == "phase" else PASS_COLOURS
        if kind not in wanted:
            continue
        own = bars.setdefault((event["tid"], kind), [])
        start, end = event["ts"], event["ts"] + event["dur"]
        if own and event["cat"] == "phase" and start - sum(own[-1]) < gap_us:
            own[-1] = (own[-1][0], end - own[-1][0])
        else:
            own.append((start, end - start))
    yield from bars.items()


def _before(spans: Sequence[TimeSpan], end_ns: int) -> tuple[TimeSpan, ...]:
    """Spans that ended before `end_ns`, relative to it."""
    return tuple(
        TimeSpan(name=s.name, start_ns=s.start_ns - end_ns, end_ns=s.end_ns - end_ns)
        for s in spans
        if s.end_ns <= end_ns
    )


def _of(stage: Stage, ranks: Sequence[RankTimes]) -> Iterator[RankTimes]:
    return (t for t in ranks if stage.dense.first_rank <= t.rank <= stage.dense.last_rank)


def _name(what: str, name: str, *, pid: int, tid: int = 0) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
