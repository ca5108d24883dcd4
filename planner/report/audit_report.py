"""Report of an audit: tables for a terminal, columns for a log, one object for programs."""

import json
from collections.abc import Iterator
from typing import Any, TextIO

from planner.audit.audit import Audit, Finding
from planner.audit.verdicts import HOLDS, Derivation, Verdict, show, show_stated
from planner.plan.plan import Plan
from planner.prediction.load_balance import Balance
from planner.report.tables import Table, print_tables
from planner.strategy.claims import Claim
from planner.units import format_bytes, plural


def print_audit(plan: Plan, audit: Audit, out: TextIO, *, is_plain: bool) -> None:
    """An audit for people; plain text without colour or lines for logs, tables of rich for a terminal."""
    heading, tables = list(_heading(plan, audit)), [*_claim_tables(audit), *load_tables(audit)]
    print_tables(heading, tables, old_quantity_notes(audit), out, is_plain=is_plain)


def old_quantity_notes(audit: Audit) -> tuple[str, ...]:
    """How claims of old quantities are written now."""
    return tuple(
        f"{finding.claim.quantity} is an old name of {{{_written(finding.read_as)}}}"
        for finding in audit.findings
        if finding.read_as is not finding.claim
    )


def _written(claim: Claim) -> str:
    changes = f", with: {{{_changes(claim)}}}" if claim.changes else ""
    relation = "" if claim.relation is None else f", relation: {claim.relation}"
    return f"quantity: {claim.quantity}{changes}{relation}"


def _changes(claim: Claim) -> str:
    return ", ".join(f"{key}: {_value(value)}" for key, value in claim.changes.items())


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _heading(plan: Plan, audit: Audit) -> Iterator[str]:
    parallel = plan.strategy.parallel
    yield f"{plan.strategy.name}: {parallel.layout_name}, {parallel.placement}; plan {plan.fingerprint}"
    if not audit.findings:
        yield "the strategy makes no claims (claims: is empty); load balance and checks are below"
        return
    counts = ", ".join(f"{count} {_verb(verdict, count)}" for verdict, count in audit.counts.items())
    yield f"{plural(len(audit.findings), 'claim')}: {counts}"
    yield "lines in (…) are for comparison and do not decide a claim"


def _verb(verdict: Verdict, count: int) -> str:
    if count == 1:
        return verdict
    return {"holds": "hold", "does not hold": "do not hold"}.get(verdict, verdict)


def _claim_tables(audit: Audit) -> Iterator[Table]:
    if not audit.findings:
        return
    rows = [row for finding in audit.findings for row in _rows(finding)]
    columns = ("claim", "stated", "derived", "verdict", "where", "arithmetic")
    yield Table(
        title="Claims",
        columns=columns,
        rows=tuple(rows),
        numeric=frozenset({"stated", "derived"}),
        below=("where", "arithmetic"),
    )


def _rows(finding: Finding) -> Iterator[tuple[str, ...]]:
    """One row for each derivation; the first carries the claim's verdict, those below only their own."""
    claim, dimension = finding.claim, finding.claim.dimension
    first = finding.derived
    others = [
        pair for pair in zip(finding.derivations, finding.verdicts, strict=True) if pair[0] is not first
    ]
    stated = show_stated(float(claim.value), dimension)
    if claim.relation is not None:
        stated = f"{claim.relation.replace('_', ' ')} {stated}"
    changed = f" with {_changes(claim)}" if claim.changes else ""
    of = f", {first.of}" if first.of else ""
    derived = show(first.value, dimension)
    yield (
        f"{claim.quantity}{changed}{of}",
        stated,
        derived,
        finding.verdict,
        claim.where,
        _line(first, finding.verdict),
    )
    for derivation, verdict in others:
        shown = f"({verdict})" if not derivation.decides else verdict
        yield (
            f"  {derivation.of}",
            "",
            show(derivation.value, dimension),
            shown,
            "",
            _line(derivation, verdict),
        )


def _line(derivation: Derivation, verdict: Verdict) -> str:
    """The arithmetic, and the reason where the cluster is the reason."""
    is_reason = verdict == "cannot be met on this cluster" and derivation.why
    return f"{derivation.arithmetic}; {derivation.why}" if is_reason else derivation.arithmetic


def load_tables(audit: Audit) -> Iterator[Table]:
    """Load balance by stage and over all GPUs, then the checks."""
    load = audit.load
    rows = tuple(
        (
            stage.name,
            str(stage.num_ranks),
            f"{stage.flops / 1e12:.4g}",
            f"{stage.flops_share:.2%}",
            f"{stage.utilization:.1%}",
            format_bytes(stage.memory_bytes),
            f"{stage.memory_headroom:.1%}",
        )
        for stage in load.stages
    )
    columns = ("stage", "ranks", "TFLOP per step", "of all", "utilization", "memory", "memory free")
    title = "Load of one rank, the fullest of its stage"
    yield Table(title=title, columns=columns, rows=rows, numeric=frozenset(columns[1:]))
    over = (
        _balance("compute, TFLOP per step", load.compute, lambda v: f"{v / 1e12:.4g}", load.compute_headroom),
        _balance("memory at the peak", load.memory, format_bytes, load.memory_headroom),
    )
    columns = ("over all ranks", "mean", "minimum", "maximum", "variation", "balance score", "headroom")
    title = "Load balance: variation is standard deviation / mean, balance score is mean / maximum"
    yield Table(title=title, columns=columns, rows=over, numeric=frozenset(columns[1:]))
    checks = tuple(
        (check.name, "passes" if check.passes else "fails", check.detail) for check in audit.checks
    )
    yield Table(title="Compatibility checks", columns=("check", "result", "detail"), rows=checks)


def _balance(name: str, balance: Balance, text: Any, headroom: float) -> tuple[str, ...]:
    values = (text(balance.mean), text(balance.least), text(balance.most))
    return (name, *values, f"{balance.variation:.1%}", f"{balance.score:.1%}", f"{headroom:.1%}")


def audit_dict(plan: Plan, audit: Audit) -> dict[str, Any]:
    """The content of --json; values in base units (bytes, bytes/s, FLOP/s, seconds, shares of 1)."""
    load = audit.load
    return {
        "name": plan.strategy.name,
        "fingerprint": plan.fingerprint,
        "holds": audit.holds,
        "counts": dict(audit.counts),
        "claims": [_claim_dict(finding) for finding in audit.findings],
        "load_balance": {
            "stages": [vars(stage) for stage in load.stages],
            "compute": _balance_dict(load.compute, load.compute_headroom),
            "memory": _balance_dict(load.memory, load.memory_headroom),
            "expert_tokens_assumed": load.tokens,
        },
        "checks": [vars(check) for check in audit.checks],
        "notes": list(old_quantity_notes(audit)),
    }


def _claim_dict(finding: Finding) -> dict[str, Any]:
    claim = finding.claim
    return {
        "quantity": claim.quantity,
        "where": claim.where,
        "with": claim.changes,
        "relation": claim.relation,
        "unit": claim.dimension,
        "stated": claim.value,
        "derived": finding.derived.value,
        "arithmetic": finding.derived.arithmetic,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "derivations": [
            {
                "of": derivation.of,
                "relation": derivation.relation,
                "value": derivation.value,
                "arithmetic": derivation.arithmetic,
                "verdict": verdict,
                "decides": derivation.decides,
                "reason": derivation.why if verdict != HOLDS else "",
            }
            for derivation, verdict in zip(finding.derivations, finding.verdicts, strict=True)
        ],
    }


def _balance_dict(balance: Balance, headroom: float) -> dict[str, float]:
    return {**vars(balance), "score": balance.score, "headroom": headroom}
