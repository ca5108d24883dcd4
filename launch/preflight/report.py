"""Report of a preflight: one row for passing hosts, each failure with its fix, and the measurements."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from launch.preflight.ask_hosts import HostAnswer
from launch.preflight.check import PreflightCheck, Role
from launch.preflight.link_checks import ExchangeTiming, LinkTiming
from launch.ssh.failures import HostFailure
from planner import Plan
from planner.report.tables import Table, print_tables
from planner.units import format_bytes, milliseconds

_MAX_CELL = 90
_MAX_HOSTS = 16


@dataclass(frozen=True, kw_only=True)
class PreflightReport:
    """Everything that a preflight found. `job`: why no ranks were started; empty if they were."""

    plan: Plan
    roles: tuple[Role, ...]
    unused: tuple[str, ...]
    answers: Mapping[str, HostAnswer | HostFailure]
    checks: tuple[PreflightCheck, ...]
    job: str
    rows: tuple[ExchangeTiming, ...]
    links: tuple[LinkTiming, ...]
    pair_bytes: int
    hardware_file: str | None

    @property
    def failures(self) -> tuple[PreflightCheck, ...]:
        return tuple(check for check in self.checks if check.verdict == "fails")


def print_report(report: PreflightReport, out: TextIO, *, is_plain: bool) -> None:
    """Hosts, checks, exchanges and links as tables, then every failure with its fix."""
    tables = [_host_table(report), _check_table(report.checks)]
    if report.rows:
        tables += [_exchange_table(report), _link_table(report)]
    print_tables(tuple(_heading(report)), tables, tuple(_notes(report)), out, is_plain=is_plain)
    for check in report.failures:
        where = f"{check.host}: " if check.host else ""
        print(f"\n{where}{check.code} {check.name}: {check.found}", file=out)
        print(f"  expected: {check.expected}\n  fix:      {check.fix}", file=out)
    print(f"\n{_verdict(report)}", file=out)


def report_dict(report: PreflightReport) -> dict[str, Any]:
    """For --json: seconds, bytes, bytes per second."""
    return {
        "ready": not report.failures,
        "fingerprint": report.plan.fingerprint,
        "hosts": [_host_dict(role, report.answers[role.name]) for role in report.roles],
        "unused_hosts": list(report.unused),
        "checks": [asdict(check) for check in report.checks],
        "job": {"ran": bool(report.rows), "why_not": report.job or None},
        "exchanges": [
            {
                "name": row.exchange.name,
                "stage": row.exchange.stage,
                "kind": row.exchange.kind,
                "groups": row.num_groups,
                "bytes": row.exchange.num_bytes,
                "predicted_s": row.predicted_s,
                "measured_s": row.measured_s,
            }
            for row in report.rows
        ],
        "links": [
            {
                "hosts": list(link.hosts),
                "ranks": list(link.ranks),
                "bytes": report.pair_bytes,
                "latency_s": link.latency_s,
                "there_bytes_per_s": report.pair_bytes / link.there_s,
                "back_bytes_per_s": report.pair_bytes / link.back_s,
            }
            for link in report.links
        ],
        "hardware_file": report.hardware_file,
    }


def _host_dict(role: Role, answer: HostAnswer | HostFailure) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": role.name,
        "role": "spare" if role.is_spare else "ranks",
        "ranks": list(role.ranks),
        "slots": role.slots,
    }
    if isinstance(answer, HostFailure):
        return {**content, "facts": None, "failure": answer.kind, "clock_offset_s": None}
    return {**content, "facts": answer.facts, "failure": None, "clock_offset_s": answer.clock.offset_s}


def _heading(report: PreflightReport) -> Iterator[str]:
    plan = report.plan
    yield f"{plan.strategy.name}: preflight of {plan.strategy.parallel.layout_name}, plan {plan.fingerprint}"
    spares = sum(role.is_spare for role in report.roles)
    hosts = len(report.roles) - spares
    spare = f", {spares} spare" if spares else ""
    yield f"{plan.world_size} ranks on {hosts} host{'s' if hosts > 1 else ''}{spare}"


def _host_table(report: PreflightReport) -> Table:
    is_cpu = report.plan.strategy.cluster.gpu.is_cpu
    columns = ["host", "runs", "hostname", "python", "torch", "deepspeed"]
    columns += [] if is_cpu else ["GPUs", "driver"]
    columns += ["disk free", "clock"]
    rows = []
    failing = {check.host for check in report.failures}
    # Of many hosts, those with a failure first; the sort is stable.
    shown = sorted(report.roles, key=lambda role: len(report.roles) > _MAX_HOSTS and role.name not in failing)
    for role in shown[:_MAX_HOSTS]:
        answer = report.answers[role.name]
        if isinstance(answer, HostFailure):
            rows.append((role.name, str(role), answer.kind, *("-" for _ in columns[3:])))
            continue
        facts, packages = answer.facts, answer.facts["packages"]
        row = [role.name, str(role), facts["hostname"], facts["python"]]
        row += [packages["torch"] or "none", packages["deepspeed"] or "none"]
        if not is_cpu:
            row += [_gpus(facts["gpus"]), facts["gpus"]["driver"] or "-"]
        free = facts["disk"]["free_bytes"]
        row += ["-" if free is None else format_bytes(free), f"{answer.clock.offset_s:+.3f} s"]
        rows.append(tuple(row))
    if len(shown) > _MAX_HOSTS:
        rows.append((f"and {len(shown) - _MAX_HOSTS} more", *("" for _ in columns[1:])))
    return Table(
        title="Hosts", columns=tuple(columns), rows=tuple(rows), numeric=frozenset({"disk free", "clock"})
    )


def _gpus(gpus: Mapping[str, Any]) -> str:
    if gpus["error"] is not None:
        return str(gpus["error"])
    names = [device.get("name") or "broken" for device in gpus["devices"]]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "0"


def _check_table(checks: Sequence[PreflightCheck]) -> Table:
    """Passing hosts share a row; every other verdict has its own."""
    rows: list[tuple[str, str, str, str]] = []
    for name in dict.fromkeys(check.name for check in checks):
        some = [check for check in checks if check.name == name]
        passing = [check for check in some if check.verdict == "passes"]
        if passing:
            texts = list(dict.fromkeys(check.found for check in passing))
            found = texts[0] if len(texts) == 1 else f"{texts[0]} … {texts[-1]}"
            rows.append((name, "passes", _where(passing), _cell(found)))
        for check in some:
            if check.verdict != "passes":
                rows.append((name, check.verdict, check.host or "-", _cell(check.found)))
    return Table(title="Checks", columns=("check", "", "on", "found"), rows=tuple(rows))


def _where(checks: Sequence[PreflightCheck]) -> str:
    hosts = [check.host for check in checks if check.host is not None and check.host != "this machine"]
    if not hosts:
        return "-"
    return hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts"


def _cell(text: str) -> str:
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"


def _exchange_table(report: PreflightReport) -> Table:
    rows = tuple(
        (
            row.exchange.name,
            row.exchange.stage,
            str(row.num_groups),
            format_bytes(row.exchange.num_bytes),
            milliseconds(row.predicted_s),
            milliseconds(row.measured_s),
            f"{row.ratio:.2g}",
        )
        for row in report.rows
    )
    columns = ("exchange", "stage", "groups", "per rank", "predicted ms", "measured ms", "ratio")
    return Table(
        title="Exchanges of the plan, slowest group of each",
        columns=columns,
        rows=rows,
        numeric=frozenset(columns[2:]),
    )


def _link_table(report: PreflightReport) -> Table:
    """Pairs of hosts, each with its slowest pair of ranks; one row for the slowest pair inside hosts."""
    slowest: dict[tuple[str, str], LinkTiming] = {}
    count: dict[tuple[str, str], int] = {}
    for link in report.links:
        key = ("inside hosts", "") if link.is_inside else link.hosts
        known = slowest.get(key)
        slowest[key] = link if known is None or link.slowest_s > known.slowest_s else known
        count[key] = count.get(key, 0) + 1
    order = sorted(slowest.items(), key=lambda item: -item[1].slowest_s)
    rows = [
        (
            key[0] if link.is_inside else f"{link.hosts[0]} – {link.hosts[1]}",
            str(count[key]),
            f"{report.pair_bytes / link.there_s / 1e9:.3g}",
            f"{report.pair_bytes / link.back_s / 1e9:.3g}",
            f"{link.latency_s * 1e6:.0f}",
        )
        for key, link in order[:12]
    ]
    if len(order) > len(rows):
        rows.append((f"and {len(order) - len(rows)} faster", "", "", "", ""))
    columns = ("between", "pairs", "there GB/s", "back GB/s", "latency µs")
    title = f"Links, {format_bytes(report.pair_bytes)} between two ranks, slowest first"
    return Table(title=title, columns=columns, rows=tuple(rows), numeric=frozenset(columns[1:]))


def _notes(report: PreflightReport) -> Iterator[str]:
    if report.unused:
        names = ", ".join(report.unused[:4]) + (" …" if len(report.unused) > 4 else "")
        yield f"not checked, since they run no ranks and are not spares: {len(report.unused)} hosts, {names}"
    if report.job:
        yield report.job
    if report.hardware_file is not None:
        yield f"measured links written to {report.hardware_file}, which plan and search read"


def _verdict(report: PreflightReport) -> str:
    failures = report.failures
    if failures:
        return f"not ready: {len(failures)} check{'s' if len(failures) > 1 else ''} failed"
    unknown = sum(check.verdict == "unknown" for check in report.checks)
    more = f"; {unknown} could not be checked" if unknown else ""
    return ("ready" if report.rows else "the hosts are ready; no exchange was run") + more
