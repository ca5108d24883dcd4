"""Data of a run for its report: every step, experts over time, attempts, and the traced step."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.monitor.snapshot import Snapshot
from launch.monitor.watch import RunWatch
from launch.run_folder.clock import RunClock
from launch.run_folder.description import Claim
from launch.run_folder.experts import ExpertHealth, add, expert_health
from launch.run_folder.lines import LineTail
from launch.run_folder.records import StepRecord, parse_experts, parse_step
from launch.supervisor.journal import Entry, read_journal
from planner.files import read_limited
from planner.report.ledger import LedgerEntry, read_ledger
from planner.run_files import EXPERTS_NAME, STEPS_NAME, TRACE_NAME

MAX_COLUMNS = 80  # of the heat map over time
_MAX_TRACE_BYTES = 1 << 28
# What experts do now: a tenth of the steps, but not so few that an expert lacks tokens by chance; of a long
# run not its last weeks.
_LATEST_SHARE, _FEWEST_LATEST, _MOST_LATEST = 0.1, 10, 500


@dataclass(frozen=True, kw_only=True)
class ExpertTime:
    """columns: first and last step, and tokens [MoE layers][num_experts] of those steps. latest: of the last
    steps, the first of which is latest_from."""

    columns: tuple[tuple[int, int, list[list[float]]], ...]
    latest: list[list[float]]
    latest_from: int
    health: ExpertHealth


@dataclass(frozen=True, kw_only=True)
class AttemptSpan:
    """What an attempt trained. pause_s: from the last step of the one before to its first; None: unknown.

    num_repeated: of its steps that an earlier attempt had trained, and not saved.
    """

    attempt: int
    host: str | None
    first_step: int | None
    last_step: int | None
    num_repeated: int
    pause_s: float | None


@dataclass(frozen=True, kw_only=True)
class RunData:
    """snapshot: its last steps, limits, alarms. steps: the last record of each, in their order."""

    label: str
    snapshot: Snapshot
    steps: tuple[StepRecord, ...]
    attempts: tuple[AttemptSpan, ...]
    experts: ExpertTime | None
    ledger: LedgerEntry | None
    trace: Mapping[str, Any] | None
    trace_fault: str | None
    journal: tuple[Entry, ...]


def read_run(folder: Path, label: str) -> RunData:
    """Everything that the folder of a run tells."""
    snapshot = RunWatch(folder).look()
    steps, attempts = _read_steps(folder, snapshot.run.claims)
    trace, fault = _read_trace(folder)
    real = folder.resolve()
    entries = read_ledger(real.parent, [real.name]) if steps else ()
    return RunData(
        label=label,
        snapshot=snapshot,
        steps=steps,
        attempts=attempts,
        experts=_read_experts(folder, steps),
        ledger=entries[0] if entries else None,
        trace=trace,
        trace_fault=fault,
        journal=tuple(read_journal(folder)),
    )


def _read_steps(
    folder: Path, claims: tuple[Claim, ...]
) -> tuple[tuple[StepRecord, ...], tuple[AttemptSpan, ...]]:
    kept: dict[int, StepRecord] = {}
    spans: dict[int, list[int]] = {}  # first, last, repeated
    clock = RunClock()
    begins: dict[int, float | None] = {}
    ends: dict[int, float | None] = {}
    for line in LineTail(folder / STEPS_NAME).read():
        record = parse_step(line)
        if record is None:
            continue
        span = spans.setdefault(record.attempt, [record.step, record.step, 0])
        span[1] = record.step
        span[2] += record.step in kept
        if record.attempt not in begins:
            known = record.time is not None and record.elapsed_s is not None
            begins[record.attempt] = record.time - record.elapsed_s if known else None  # type: ignore[operator]
        ends[record.attempt] = record.time
        kept[record.step] = record
        clock.observe(record)
    hosts = {claim.attempt: claim.host for claim in claims}
    attempts, end = [], None
    for attempt in sorted({*spans, *hosts}):
        first, last, repeated = spans.get(attempt, (None, None, 0))
        begin = begins.get(attempt)
        attempts.append(
            AttemptSpan(
                attempt=attempt,
                host=hosts.get(attempt),
                first_step=first,
                last_step=last,
                num_repeated=repeated,
                pause_s=None if begin is None or end is None else begin - end,
            )
        )
        end = ends.get(attempt, end)
    return tuple(kept[step] for step in sorted(kept)), tuple(attempts)


def _read_experts(folder: Path, steps: tuple[StepRecord, ...]) -> ExpertTime | None:
    """Of a step that was repeated, its last line counts: the lines are read backwards, in a sense."""
    if not steps:
        return None
    first, last = steps[0].step, steps[-1].step
    width = max(1, -(-(last - first + 1) // MAX_COLUMNS))
    num_latest = min(_MOST_LATEST, max(_FEWEST_LATEST, int((last - first + 1) * _LATEST_SHARE)))
    latest_from = max(first, last - num_latest + 1)
    found: dict[int, list[list[float]]] = {}
    columns: dict[int, list[list[float]] | None] = {}
    for line in LineTail(folder / EXPERTS_NAME).read():
        parsed = parse_experts(line)
        if parsed is None or not first <= parsed[0] <= last:
            continue
        step, tokens = parsed
        if step >= latest_from:
            found[step] = tokens
        column = (step - first) // width
        columns[column] = add(columns.get(column), tokens)
    latest: list[list[float]] | None = None
    for tokens in found.values():
        latest = add(latest, tokens)
    if latest is None:
        return None
    spans = []
    for column, total in sorted(columns.items()):
        begin = first + column * width
        if total is not None:
            spans.append((begin, min(last, begin + width - 1), total))
    return ExpertTime(
        columns=tuple(spans), latest=latest, latest_from=latest_from, health=expert_health(latest)
    )


def _read_trace(folder: Path) -> tuple[Mapping[str, Any] | None, str | None]:
    path = folder / TRACE_NAME
    try:
        content = json.loads(read_limited(path, _MAX_TRACE_BYTES))
    except FileNotFoundError:
        return None, f"{TRACE_NAME} is missing: no step was traced"
    except (OSError, ValueError, RecursionError) as error:
        return None, f"{TRACE_NAME} cannot be read: {type(error).__name__}"
    if not isinstance(content, dict) or not isinstance(content.get("traceEvents"), list):
        return None, f"{TRACE_NAME} is not a Chrome trace"
    return content, None
