"""Drills of a fitted strategy: an unbroken run, then a supervised run for each group of kinds."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from launch.drill.cluster import ClusterHosts
from launch.drill.fit import DrillSite, at_site
from launch.drill.groups import Group, make_group
from launch.drill.hosts import Hosts, NamespaceHosts
from launch.drill.kinds import Kind
from launch.drill.run import DrillFailed, DrillRun
from launch.drill.verdicts import Curve, broken_files, curve_differences, leftovers
from launch.supervisor.journal import Entry
from planner import build_plan
from planner.strategy.schema import Strategy

RUN_TIMEOUT_S = 1200.0


@dataclass(frozen=True, kw_only=True)
class DrillResult:
    """One fault. seconds: until the run was beyond the step at which it happened; None: it never was.

    faults: what was wrong; none if all is as it should be.
    """

    kind: str
    name: str
    seconds: float | None
    told: str
    faults: tuple[str, ...]


def drill(
    strategy: Strategy, site: DrillSite, hosts: Hosts, kinds: Sequence[Kind], tell: Callable[[str], object]
) -> Iterator[DrillResult]:
    """
    Args:
        strategy: fitted.
        tell: called with what happens next.

    Raises:
        DrillFailed: if the unbroken run does not end well.
    """
    tell("the unbroken run")
    unbroken = DrillRun(at_site(strategy, site, "unbroken"), ())
    unbroken.start()
    try:
        if (code := unbroken.finish(RUN_TIMEOUT_S)) != 0:
            raise DrillFailed(f"the unbroken run ended with {code}: {unbroken.said()[-2000:]}")
    finally:
        _end(unbroken, hosts)
    by_group = sorted(kinds, key=lambda kind: _ORDER.index(kind.group))
    for name, members in groupby(by_group, key=lambda kind: kind.group):
        group = make_group(name, tuple(members))
        tell(f"{name}: {', '.join(kind.name for kind in group.kinds)}")
        yield from _run_group(group, strategy, site, hosts, unbroken.curve())


# Hosts are lost in the last.
_ORDER = ("ranks", "saves", "checkpoints", "supervisor", "network", "fallback")


def _run_group(
    group: Group, strategy: Strategy, site: DrillSite, hosts: Hosts, unbroken: Curve
) -> Iterator[DrillResult]:
    placed = at_site(strategy, site, group.name, checkpoint_every=group.checkpoint_every)
    num_ranks = build_plan(placed).world_size  # on a cluster, not those for which the groups are written
    run = DrillRun(placed, [replace(fault, rank=fault.rank % num_ranks) for fault in group.faults])
    faults: list[str] = []
    try:
        run.start()
        group.act(run, hosts)
        if (code := run.finish(RUN_TIMEOUT_S)) != 0:
            faults.append(f"the run ended with {code}")
    except DrillFailed as error:
        faults.append(str(error))
    else:
        if isinstance(hosts, NamespaceHosts):
            hosts.mend_all()
        faults += leftovers(run)
        if isinstance(hosts, ClusterHosts):
            faults += hosts.leftovers(run.folder)
        faults += broken_files(run.folder)
        changed_after = _resumed_after_change(run) if group.is_new_layout else None
        faults += curve_differences(run.curve(), unbroken, changed_after=changed_after)
    finally:
        _end(run, hosts)
    for kind in group.kinds:
        for name in group.names[kind.name]:
            yield _judge(run, kind, name, tuple(faults))


def _end(run: DrillRun, hosts: Hosts) -> None:
    """Everything of it, whatever its state."""
    run.stop()
    if isinstance(hosts, ClusterHosts):
        hosts.end_all(run.folder)


def _judge(run: DrillRun, kind: Kind, name: str, of_run: tuple[str, ...]) -> DrillResult:
    try:
        mark = run.mark_of(name)
    except DrillFailed as error:
        return DrillResult(kind=kind.name, name=name, seconds=None, told="", faults=(str(error), *of_run))
    entries = [entry for entry in run.entries() if entry.time >= mark.time]
    told, fault = _cause_told(kind, entries, until=_next_fault(run, mark.time))
    is_restarted = bool(kind.causes) or kind.name == "supervisor-killed"
    back = run.time_beyond(name, by_new_attempt=is_restarted)
    faults = [*([fault] if fault else []), *of_run]
    if back is None:
        faults.append(f"the run never got beyond step {mark.step}")
    return DrillResult(
        kind=kind.name,
        name=name,
        seconds=None if back is None else back - mark.time,
        told=told,
        faults=tuple(faults),
    )


def _cause_told(kind: Kind, entries: Sequence[Entry], *, until: float) -> tuple[str, str | None]:
    """What the journal says of it, and what is wrong with that."""
    sign = "reap" if kind.name == "supervisor-killed" else "restart"
    first = next((entry for entry in entries if entry.event == sign and entry.time < until), None)
    if not kind.causes and sign == "restart":
        return "no restart", None if first is None else f"it was restarted: {first.text}"
    if first is None:
        return "", "the journal does not tell of it"
    if sign == "restart" and not any(first.text.startswith(cause.value) for cause in kind.causes):
        return first.text, f"the journal calls it: {first.text}"
    return first.text, None


def _next_fault(run: DrillRun, began: float) -> float:
    times = []
    for fault in run.faults:
        try:
            times.append(run.mark_of(fault.name).time)
        except DrillFailed:
            continue
    return min((later for later in times if later > began), default=time.time())


def _resumed_after_change(run: DrillRun) -> int:
    """The last step before the newest attempt's first."""
    lines = run.lines()
    newest = max(line["attempt"] for line in lines)
    first: int = min(line["step"] for line in lines if line["attempt"] == newest)
    return first - 1
