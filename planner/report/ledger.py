"""Ledger: predicted beside measured steps of all runs of a folder, and the error of predictions."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from planner.files import read_limited
from planner.plan.serialization import full_strategy
from planner.prediction.breakdown import PHASES
from planner.report.tables import Table
from planner.strategy.schema import Strategy
from planner.units import milliseconds, plural
from planner.yaml12 import MAX_BYTES

WARMUP_STEPS = 5  # of each attempt: caches fill, memory is first touched
_MAX_PLAN_BYTES = 1 << 28  # of a plan for 65,536 ranks, with room
_GPU = re.compile(r"^ +gpu: (.+(?:\n {4,}.+)*)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One run: medians over its steps, in seconds, of what was measured on rank 0 and what was predicted."""

    run: str
    layout: str
    gpu: str
    num_steps: int
    measured: Mapping[str, float]
    predicted: Mapping[str, float]

    def error(self, name: str) -> float | None:
        """Predicted over measured, less 1: above 0 the run was faster. None where nothing was measured."""
        measured = self.measured[name]
        return self.predicted[name] / measured - 1 if measured > 0 else None


@dataclass(frozen=True, kw_only=True)
class ErrorBar:
    """Absolute errors of the step's time over runs on the same kind of device."""

    num_runs: int
    median: float
    largest: float

    def __str__(self) -> str:
        runs = plural(self.num_runs, "measured run")
        return f"±{self.median:.0%} (median of {runs}, largest {self.largest:.0%})"


def read_ledger(folder: Path, runs: Sequence[str] = ()) -> tuple[LedgerEntry, ...]:
    """The runs of a folder that have steps with a prediction, by name; `runs`: only these."""
    paths = [path for path in sorted(folder.glob("*/telemetry.jsonl")) if path.is_file()]
    found = (_entry(path) for path in paths if not runs or path.parent.name in runs)
    return tuple(entry for entry in found if entry is not None)


def misplaced_telemetry(folder: Path) -> tuple[Path, ...]:
    """What has the name of a run's telemetry and is not a file: a folder, a link to nothing, a device."""
    return tuple(path for path in sorted(folder.glob("*/telemetry.jsonl")) if not path.is_file())


def error_bar(entries: Sequence[LedgerEntry], strategy: Strategy) -> ErrorBar | None:
    """The error of predictions for runs on such devices; None if there are none."""
    gpu = _gpu_of(full_strategy(strategy))
    errors = [abs(entry.error("step_s") or 0.0) for entry in entries if entry.gpu == gpu]
    if not errors:
        return None
    return ErrorBar(num_runs=len(errors), median=median(errors), largest=max(errors))


def ledger_tables(entries: Sequence[LedgerEntry]) -> tuple[Table, Table]:
    """The step of each run, and its phases."""
    steps, phases = [], []
    for entry in entries:
        row = (entry.run, entry.layout, str(entry.num_steps))
        seconds = (f"{entry.predicted['step_s']:.3f}", f"{entry.measured['step_s']:.3f}")
        steps.append((*row, *seconds, percent(entry.error("step_s"))))
        cells = (_cell(entry, name) for name in PHASES)
        phases.append((entry.run, *cells))
    numeric = frozenset({"steps", "predicted s", "measured s", "error"})
    columns = ("run", "layout", "steps", "predicted s", "measured s", "error")
    return (
        Table(title="Steps", columns=columns, rows=tuple(steps), numeric=numeric),
        Table(
            title="Phases of rank 0: predicted / measured, ms",
            columns=("run", *PHASES),
            rows=tuple(phases),
            numeric=frozenset(PHASES),
        ),
    )


def percent(error: float | None) -> str:
    return "-" if error is None else f"{error:+.0%}"


def _cell(entry: LedgerEntry, name: str) -> str:
    predicted, measured = entry.predicted[name], entry.measured[name]
    return f"{milliseconds(predicted)} / {milliseconds(measured)}" if predicted or measured > 1e-6 else "-"


def _entry(telemetry: Path) -> LedgerEntry | None:
    """None where no step past the warm-up has a prediction.

    Of a step that was made again after a resume the last line counts. Where the layout or the calibration
    changed on the way, only the steps that the last prediction is written beside do.
    """
    try:
        lines = [line for line in map(_line, telemetry.read_bytes().split(b"\n")) if line is not None]
    except OSError:
        return None
    firsts: dict[str, int] = {}
    for line in lines:
        firsts.setdefault(line["attempt"], line["step"])
    kept = {
        line["step"]: line
        for line in lines
        if line["predicted"] and line["step"] >= firsts[line["attempt"]] + WARMUP_STEPS
    }
    if not kept:
        return None
    predicted = list(kept.values())[-1]["predicted"]
    steps = [line for line in kept.values() if line["predicted"] == predicted]
    measured = {name: median(line["phases_s"].get(name, 0.0) for line in steps) for name in PHASES}
    measured["step_s"] = median(line["step_s"] for line in steps)
    layout, gpu = _described(telemetry.parent)
    return LedgerEntry(
        run=telemetry.parent.name,
        layout=layout,
        gpu=gpu,
        num_steps=len(steps),
        measured=measured,
        predicted={name: predicted.get(name, 0.0) for name in measured},
    )


def _line(text: bytes) -> dict[str, Any] | None:
    """What the ledger needs of a step's line; None for a torn one or one of another kind.

    Another version may name other phases, or leave out the attempt: what is there counts.
    """
    try:
        line = json.loads(text)
        step, step_s = line["step"], float(line["step_s"])
        whole = type(step) is int and step >= 0 and step_s > 0
        return (
            {
                "step": step,
                "step_s": step_s,
                "attempt": str(line.get("attempt")),
                "phases_s": _numbers(line["phases_s"]),
                "predicted": _prediction(line.get("predicted")),
            }
            if whole
            else None
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _numbers(phases: Any) -> dict[str, float]:
    return {name: float(seconds) for name, seconds in phases.items() if seconds is not None}


def _prediction(predicted: Any) -> dict[str, float]:
    """Empty where there is none, or none of the step."""
    numbers = _numbers(predicted or {})
    return numbers if numbers.get("step_s", 0.0) > 0 else {}


def _described(run: Path) -> tuple[str, str]:
    """The layout and the device of a run, as its own files name them; "?" where they are gone."""
    try:
        plan = json.loads(read_limited(run / "plan.json", _MAX_PLAN_BYTES))
        layout = f"{plan['degrees']} {plan['placement']}, {plan['world_size']} ranks"
        if plan.get("layers_per_stage"):
            layout += f", layers {'+'.join(str(count) for count in plan['layers_per_stage'])}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        layout = "?"
    try:
        return layout, _gpu_of(read_limited(run / "strategy.yaml", MAX_BYTES).decode())
    except (OSError, ValueError):
        return layout, "?"


def _gpu_of(strategy_yaml: str) -> str:
    """`cluster.gpu` of a strategy with every default written out."""
    match = _GPU.search(strategy_yaml)
    return " ".join(match.group(1).split()) if match else "?"
