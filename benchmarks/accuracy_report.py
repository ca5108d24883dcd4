"""Accuracy report: predicted and measured steps and phases of each layout, as tables and JSON."""

import json
import platform
import sys
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.jobs import Job
from planner import build_plan, load
from planner.counts.rank_workload import ExpertImbalance
from planner.hardware.catalog import calibration_path, device_of
from planner.prediction.breakdown import PHASES
from planner.prediction.predict import predict
from planner.report.tables import Table, print_tables
from planner.strategy.parallel import Parallel
from runtime.process.usable_cores import num_usable_cores


@dataclass
class Case:
    """A layout, its measured steps, and for each whether its slice was undisturbed."""

    name: str
    num_ranks: int
    overrides: tuple[str, ...]
    parallel: Parallel
    job: Job | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    quiet: list[bool] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    why_not: str | None = None

    def measured(self, name: str, *, only_quiet: bool = False) -> float | None:
        """The median of a phase, or of the step (`step_s`), in seconds."""
        found = [
            float(line["step_s"] if name == "step_s" else line["phases_s"][name])
            for line, is_quiet in zip(self.steps, self.quiet, strict=True)
            if is_quiet or not only_quiet
        ]
        return median(found) if found else None

    def predicted(self, name: str) -> float:
        return float(self.steps[-1]["predicted"][name])


def print_report(cases: list[Case], folder: Path, out: Path, strategy: str) -> int:
    """Prints the tables and writes the JSON; 0 if every layout that this version can train has steps."""
    found = [case for case in cases if case.steps]
    errors = [abs(error) for case in found if (error := _error(case)) is not None]
    within = sum(error <= 0.15 for error in errors)
    heading = (
        f"{len(found)} layouts on {platform.node()}, {date.today().isoformat()}: "
        f"{within} predicted within 15 % of the step",
    )
    notes = [f"{case.name}: {case.why_not}" for case in cases if case.why_not]
    notes.append("others: share of the cores' time that other processes took, median over slices")
    notes.append("balance: mean / maximum tokens per expert rank; predictions assume 1")
    notes.append("at it: the error of `plan --balance` with the measured balance")
    print()
    print_tables(heading, (_steps(found, folder, strategy), _phases(found)), notes, sys.stdout, is_plain=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(_as_json(cases, folder, strategy), indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {out}")
    return (
        0
        if all(case.steps or "not implemented in this version" in str(case.why_not) for case in cases)
        else 1
    )


def _error(case: Case, *, only_quiet: bool = False) -> float | None:
    measured = case.measured("step_s", only_quiet=only_quiet)
    return case.predicted("step_s") / measured - 1 if measured else None


def _steps(cases: list[Case], folder: Path, strategy: str) -> Table:
    columns = (
        "layout",
        "ranks",
        "steps",
        "predicted",
        "measured",
        "error",
        "least",
        "others",
        "balance",
        "at it",
    )
    rows = []
    for case in cases:
        measured = case.measured("step_s")
        assert measured is not None
        balance = _balance(case, folder)
        at_it = None if balance is None else _predicted_s(case, folder, strategy, balance) / measured - 1
        rows.append(
            (
                case.name,
                str(case.num_ranks),
                str(len(case.steps)),
                f"{case.predicted('step_s') * 1e3:.0f} ms",
                f"{measured * 1e3:.0f} ms",
                f"{case.predicted('step_s') / measured - 1:+.0%}",
                f"{min(line['step_s'] for line in case.steps) * 1e3:.0f} ms",
                f"{median(case.foreign):.0%}",
                "-" if balance is None else f"{balance:.2f}",
                "-" if at_it is None else f"{at_it:+.0%}",
            )
        )
    return Table(title="Steps", columns=columns, rows=tuple(rows), numeric=frozenset(columns[1:]))


def _phases(cases: list[Case]) -> Table:
    rows = []
    for case in cases:
        cells = []
        for name in PHASES:
            predicted, measured = case.predicted(name), case.measured(name) or 0.0
            is_there = predicted > 0 or measured > 1e-6
            cells.append(f"{predicted * 1e3:.3g} / {measured * 1e3:.3g}" if is_there else "-")
        rows.append((case.name, *cells))
    return Table(
        title="Phases of rank 0: predicted / measured, ms",
        columns=("layout", *PHASES),
        rows=tuple(rows),
        numeric=frozenset(PHASES),
    )


def _balance(case: Case, folder: Path) -> float | None:
    """Mean / maximum tokens per EP rank in a layer, averaged over layers and measured steps."""
    parallel = case.parallel
    if parallel.ep == 1:
        return None
    wanted = {line["step"] for line in case.steps}
    counts: dict[int, list[list[int]]] = {}
    for path in sorted((folder / case.name / "ranks").glob("rank-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # incomplete: the job was killed
            if line["step"] in wanted and line["expert_tokens"]:
                layers = counts.setdefault(line["step"], [])
                _add(layers, line["expert_tokens"])
    shares = []
    for layers in counts.values():
        for experts in layers:
            size = len(experts) // parallel.ep
            ranks = [sum(experts[i * size : (i + 1) * size]) for i in range(parallel.ep)]
            shares.append(sum(ranks) / len(ranks) / max(ranks))
    return sum(shares) / len(shares) if shares else None


def _predicted_s(case: Case, folder: Path, strategy: str, balance: float) -> float:
    """The predicted step time with this load balance of experts."""
    plan = build_plan(load(strategy, case.overrides))
    device = device_of(plan.strategy.cluster.gpu, calibration_path(str(folder)))
    return predict(plan, device, imbalance=ExpertImbalance(factor=1 / balance)).step_s


def _add(total: list[list[int]], more: list[list[int]]) -> None:
    if not total:
        total.extend([0] * len(layer) for layer in more)
    for into, layer in zip(total, more, strict=True):
        for i, count in enumerate(layer):
            into[i] += count


def _as_json(cases: list[Case], folder: Path, strategy: str) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "machine": platform.node(),
        "cores": num_usable_cores(),
        "strategy": strategy,
        "layouts": [
            {
                "name": case.name,
                "ranks": case.num_ranks,
                "overrides": list(case.overrides),
                "why_not": case.why_not,
                **({} if not case.steps else _numbers(case, folder)),
            }
            for case in cases
        ],
    }


def _numbers(case: Case, folder: Path) -> dict[str, Any]:
    names = ("step_s", *PHASES)
    return {
        "steps": len(case.steps),
        "quiet_steps": sum(case.quiet),
        "others_share": median(case.foreign),
        "balance": _balance(case, folder),
        "predicted_s": {name: case.predicted(name) for name in names},
        "measured_s": {name: case.measured(name) for name in names},
        "measured_quiet_s": {name: case.measured(name, only_quiet=True) for name in names},
        "least_step_s": min(line["step_s"] for line in case.steps),
        "error": _error(case),
        "error_quiet": _error(case, only_quiet=True),
    }
