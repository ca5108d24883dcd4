"""Terminal view of a snapshot: heading, tables, notes; the same as an object for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from launch.monitor.snapshot import RankView, Snapshot, State
from planner.prediction.breakdown import PHASES
from planner.report.tables import Table
from planner.units import format_bytes, format_number, milliseconds, plural

# More ranks than this are shown by host.
MAX_RANKS = 32
MAX_HOSTS = 40
_BAR = 24


def heading(snapshot: Snapshot) -> tuple[str, ...]:
    """Name and state, then where it is and how fast."""
    return tuple(_heading(snapshot))


def _heading(snapshot: Snapshot) -> Iterator[str]:
    run, last, speed = snapshot.run, snapshot.last, snapshot.throughput
    layout = ""
    if run.plan is not None:
        layout = f", {run.plan.strategy.parallel.layout_name}, {plural(run.plan.world_size, 'rank')}"
    attempt = f", attempt {snapshot.attempt}" if snapshot.attempt > 1 else ""
    detail = f": {snapshot.state_detail}" if snapshot.state_detail else ""
    yield f"{run.name}{layout}{attempt}: {snapshot.state.value}{detail}"
    if last is None:
        return
    total = snapshot.num_steps
    where = f"step {last.step}" + (f" of {total}" if total else "")
    if total:
        where += f"  {_bar(last.step / total)} {last.step / total:.0%}"
    if speed is not None and speed.eta_s and snapshot.state is State.TRAINING:
        where += f"  {_duration(speed.eta_s)} left"
    yield where
    loss = "not finite" if last.is_loss_not_finite else _number(last.loss, 3)
    facts = [
        f"loss {loss}",
        f"validation {_number(snapshot.validation_loss, 3)}" if snapshot.validation_loss is not None else "",
        f"gradient norm {_number(last.grad_norm)}",
        f"learning rate {_number(last.learning_rate)}",
    ]
    yield "  ".join(filter(None, facts))
    if speed is not None:
        rate = "" if speed.tokens_per_s is None else f"{speed.tokens_per_s:,.0f} tokens/s  "
        mfu = "" if speed.mfu is None else f"  MFU {speed.mfu:.1%}"
        predicted = speed.predicted_step_s
        beside = f" (predicted {milliseconds(predicted)} ms)" if predicted else ""
        goodput = "" if snapshot.goodput is None else f"  goodput {snapshot.goodput:.1%}"
        yield f"{rate}step {milliseconds(speed.step_s)} ms{beside}{mfu}{goodput}"
    experts = _experts(snapshot)
    if experts:
        yield experts
    if snapshot.slowest is not None:
        slowest = snapshot.slowest
        yield (
            f"slowest rank {slowest.rank}: {slowest.ratio:.2f} times its stage's median of own work "
            f"({milliseconds(slowest.own_s)} ms of a step)"
        )


def _experts(snapshot: Snapshot) -> str:
    last = snapshot.last
    if last is None:
        return ""
    parts = []
    if last.balance is not None:
        parts.append(f"expert balance {last.balance:.2f}")
    if last.overload:
        found = ", ".join(f"{name} {value:.2f}" for name, value in last.overload.items())
        parts.append(f"overload {found}")
    if snapshot.experts is not None:
        parts.append(f"dead {len(snapshot.experts.dead)}, overloaded {len(snapshot.experts.overloaded)}")
    if snapshot.dropped_share:
        parts.append(f"dropped {snapshot.dropped_share:.1%} of routes")
    return "  ".join(parts)


def tables(snapshot: Snapshot) -> tuple[Table, ...]:
    """Alarms, limits, phases, ranks or hosts, and the journal, as far as there are any."""
    return tuple(_tables(snapshot))


def _tables(snapshot: Snapshot) -> Iterator[Table]:
    if snapshot.alarms:
        yield Table(title="Alarms", columns=("what",), rows=tuple((alarm,) for alarm in snapshot.alarms))
    if snapshot.limits:
        rows = tuple(
            (
                limit.name + (f" ({limit.stage})" if limit.stage else ""),
                limit.text(limit.limit),
                limit.text(limit.measured),
                "-" if limit.holds is None else "yes" if limit.holds else "NO",
            )
            for limit in snapshot.limits
        )
        columns = ("limit", "asked", "measured", "met")
        yield Table(title="Limits", columns=columns, rows=rows, numeric=frozenset(columns[1:3]))
    speed = snapshot.throughput
    if speed is not None and speed.phases_s:
        yield _phase_table(snapshot)
    if snapshot.ranks:
        small = len(snapshot.ranks) <= MAX_RANKS
        yield _rank_table(snapshot.ranks) if small else _host_table(snapshot.ranks)
    if snapshot.journal:
        texts = tuple((text,) for text in snapshot.journal)
        yield Table(title="Supervisor, last decisions", columns=("what",), rows=texts)


def _phase_table(snapshot: Snapshot) -> Table:
    speed, last = snapshot.throughput, snapshot.last
    assert speed is not None
    assert last is not None
    rows = []
    for name in PHASES:
        measured, predicted = speed.phases_s.get(name, 0.0), last.predicted.get(name)
        if measured > 1e-6 or predicted:
            share = measured / speed.step_s
            expected = "-" if predicted is None else milliseconds(predicted)
            rows.append((name, milliseconds(measured), expected, f"{share:.0%}", _bar(share)))
    columns = ("phase of rank 0", "ms", "predicted", "share", "")
    return Table(title="Step", columns=columns, rows=tuple(rows), numeric=frozenset(columns[1:4]))


def _rank_table(ranks: Sequence[RankView]) -> Table:
    rows = []
    for view in ranks:
        record, beat = view.record, view.heartbeat
        share = None if record is None else record.communication_share
        rows.append(
            (
                str(view.rank),
                view.host or "-",
                view.stage or "-",
                "-" if record is None else str(record.step),
                "-" if record is None else milliseconds(record.own_s),
                "-" if share is None else f"{share:.0%}",
                _memory(record.memory_bytes if record is not None else None),
                _gpu(view),
                "-" if beat is None else beat.phase,
                _process(view),
            )
        )
    columns = ("rank", "host", "stage", "step", "own ms", "waits", "memory", "GPU", "phase", "process")
    return Table(
        title="Ranks",
        columns=columns,
        rows=tuple(rows),
        numeric=frozenset({"rank", "step", "own ms", "waits", "memory", "GPU"}),
        optional=("GPU", "stage", "host"),
    )


def _host_table(ranks: Sequence[RankView]) -> Table:
    hosts: dict[str, list[RankView]] = {}
    for view in ranks:
        hosts.setdefault(view.host or "-", []).append(view)
    rows = []
    for name, views in list(hosts.items())[:MAX_HOSTS]:
        records = [view.record for view in views if view.record is not None]
        own = [record.own_s for record in records]
        shares = [share for record in records if (share := record.communication_share) is not None]
        memory = [record.memory_bytes for record in records if record.memory_bytes is not None]
        odd = [view for view in views if _process(view) not in ("-", "running", "sleeping", "disk-sleep")]
        note = ", ".join(f"rank {view.rank} {_process(view)}" for view in odd[:3])
        rows.append(
            (
                name,
                f"{views[0].rank}-{views[-1].rank}",
                str(min(record.step for record in records)) if records else "-",
                f"{milliseconds(min(own))}-{milliseconds(max(own))}" if own else "-",
                f"{max(shares):.0%}" if shares else "-",
                _memory(max(memory, default=None)),
                note,
            )
        )
    columns = ("host", "ranks", "step", "own ms", "most waits", "most memory", "processes")
    left_out = f", {len(hosts) - MAX_HOSTS} more not shown" if len(hosts) > MAX_HOSTS else ""
    return Table(title=f"Hosts{left_out}", columns=columns, rows=tuple(rows), numeric=frozenset(columns[2:6]))


def snapshot_dict(snapshot: Snapshot) -> dict[str, Any]:
    """For --json."""
    last, speed, slowest = snapshot.last, snapshot.throughput, snapshot.slowest
    return {
        "run": snapshot.run.name,
        "folder": str(snapshot.folder),
        "state": snapshot.state.value,
        "state_detail": snapshot.state_detail,
        "attempt": snapshot.attempt,
        "step": None if last is None else last.step,
        "num_steps": snapshot.num_steps,
        "loss": None if last is None else last.loss,
        "validation_loss": snapshot.validation_loss,
        "grad_norm": None if last is None else last.grad_norm,
        "learning_rate": None if last is None else last.learning_rate,
        "throughput": None if speed is None else {**asdict(speed), "phases_s": dict(speed.phases_s)},
        "goodput": snapshot.goodput,
        "balance": None if last is None else last.balance,
        "overload": None if last is None else dict(last.overload) or None,
        "dropped_share": snapshot.dropped_share,
        "experts": None if snapshot.experts is None else asdict(snapshot.experts),
        "slowest": None if slowest is None else asdict(slowest),
        "limits": [asdict(limit) for limit in snapshot.limits],
        "ranks": [_rank_dict(view) for view in snapshot.ranks],
        "alarms": list(snapshot.alarms),
        "notes": list(snapshot.notes),
        "journal": list(snapshot.journal),
    }


def _rank_dict(view: RankView) -> dict[str, Any]:
    record, beat = view.record, view.heartbeat
    return {
        "rank": view.rank,
        "host": view.host,
        "stage": view.stage,
        "step": None if record is None else record.step,
        "own_s": None if record is None else record.own_s,
        "communication_share": None if record is None else record.communication_share,
        "memory_bytes": None if record is None else record.memory_bytes,
        "gpu": None if record is None or not record.gpu else dict(record.gpu),
        "phase": None if beat is None else beat.phase,
        "process": None if beat is None else beat.state,
        "waits_in": None if beat is None or beat.waits_in is None else str(beat.waits_in),
    }


def _process(view: RankView) -> str:
    beat = view.heartbeat
    if beat is None:
        return "never wrote" if view.record is None else "-"
    return f"{beat.state}, in {beat.waits_in}" if beat.waits_in is not None else beat.state


def _memory(memory_bytes: float | None) -> str:
    return "-" if memory_bytes is None else format_bytes(memory_bytes)


def _gpu(view: RankView) -> str:
    gpu = {} if view.record is None else view.record.gpu
    return f"{gpu['utilization']:.0%}" if "utilization" in gpu else "-"


def _bar(share: float) -> str:
    filled = round(min(1.0, max(0.0, share)) * _BAR)
    return "█" * filled + "░" * (_BAR - filled)


def _number(value: float | None, decimals: int | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.{decimals}f}" if decimals is not None else format_number(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{days} d {clock}" if days else clock


def is_healthy(snapshot: Snapshot) -> bool:
    """Whether nobody needs to look."""
    return not snapshot.alarms and snapshot.state is not State.FAILED
