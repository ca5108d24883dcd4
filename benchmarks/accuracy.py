"""Predicted beside measured on this machine, phase by phase: `python -m benchmarks.accuracy`.

Real trainings of ds_configs/tiny_cpu.yaml in several layouts, each the median of its steps after a warm-up,
all interleaved (benchmarks.jobs). Predictions are those that the runs themselves wrote beside their steps,
made from the calibration beside the runs (`make bench` writes it). The step that a job was stopped in does
not count. Prints every error, whatever it is, and writes them as JSON; linux only.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.jobs import Job, JobFailed, busy_s
from planner import load
from planner.hardware import CALIBRATION_NAME
from planner.phases import PHASES
from planner.report import Table, print_tables
from planner.runnable import runnable

STRATEGY = "ds_configs/tiny_cpu.yaml"
# A name, its ranks, and what tells it from the strategy. Compact rank order makes rank 0, whose phases are
# told, an expert rank.
CASES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("one", 1, ("parallel={ep: 1, tp: 1}",)),
    ("ep2", 2, ("parallel={ep: 2, tp: 1}",)),
    ("tp2", 2, ("parallel={ep: 1, tp: 2}",)),
    ("ep4", 4, ("parallel={ep: 4, tp: 1}", "training.micro_batch=6")),
    ("tp2_ep4", 4, ("parallel={ep: 4, tp: 2}",)),
    (
        "staged_1_2_1",
        4,
        ("parallel={placement: staged, ep: 2, tp: 1, rank_order: compact}", "training.micro_batch=3"),
    ),
)
# Nothing else than steps: no validation, no checkpoint; more of them than will be made.
_QUIETLY = (
    "training.steps=100000",
    "output.validate_every=100000",
    "output.checkpoint_every=100000",
    "output.resume=never",
    "data.validation_sequences=8",
    "operate.tensorboard=false",
)
WARMUP_STEPS, STEPS, SLICE_STEPS = 5, 20, 5
# Of the cores' time while a slice ran: below it nothing else is taken to have disturbed it.
QUIET_SHARE = 0.05
_START_S, _SLICE_S = 180.0, 120.0


@dataclass
class Case:
    """A layout, the steps that counted, and for each whether its slice was undisturbed."""

    name: str
    num_ranks: int
    overrides: tuple[str, ...]
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


def main(argv: Sequence[str]) -> int:
    """0 when every layout that this version runs was measured, 1 when one was not."""
    options = _options(argv)
    folder = Path(options.folder)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    calibration = Path(options.calibration)
    if calibration.is_file():
        shutil.copy(calibration, folder / CALIBRATION_NAME)
    else:
        print(f"{calibration} is not there (make bench writes it): predictions rest on the shipped numbers")
    until = time.monotonic() + 60 * options.minutes
    cases = [
        Case(name=name, num_ranks=ranks, overrides=overrides)
        for name, ranks, overrides in CASES
        if not options.only or name in options.only
    ]
    try:
        for case in cases:
            _start(case, folder, until)
        _take_turns([case for case in cases if case.job is not None], until)
    finally:
        for case in cases:
            if case.job is not None:
                case.job.end()
    return _tell(cases, folder, Path(options.out))


def _start(case: Case, folder: Path, until: float) -> None:
    """Starts a job, lets it warm up and stops it."""
    problems = runnable(load(STRATEGY, case.overrides))
    if problems:
        case.why_not = f"this version does not run it yet: {problems[0].path}"
        return
    print(f"{case.name}: starting {case.num_ranks} rank{'s' if case.num_ranks > 1 else ''} …", flush=True)
    case.job = Job(
        strategy=STRATEGY,
        name=case.name,
        num_ranks=case.num_ranks,
        folder=folder,
        overrides=[*case.overrides, *_QUIETLY],
    )
    try:
        case.job.wait_for(WARMUP_STEPS, min(_START_S, until - time.monotonic()))
        case.job.stop()
    except JobFailed as failure:
        case.why_not = str(failure)
        case.job.end()
        case.job = None


def _take_turns(cases: list[Case], until: float) -> None:
    """Rounds over all jobs until each has its steps, or time is up."""
    cores = len(os.sched_getaffinity(0))
    while time.monotonic() < until:
        waiting = [c for c in cases if c.job is not None and c.why_not is None and len(c.steps) < STEPS]
        if not waiting:
            return
        for case in waiting:
            assert case.job is not None
            before, began = len(case.job.lines()), time.monotonic()
            all_busy, own_busy = busy_s(), case.job.cpu_s()
            case.job.go_on()
            try:
                lines = case.job.wait_for(
                    before + 1 + SLICE_STEPS, min(_SLICE_S, max(1.0, until - time.monotonic()))
                )
            except JobFailed as failure:
                if not case.steps:
                    case.why_not = str(failure)
                return
            finally:
                case.job.stop()
            spent = (time.monotonic() - began) * cores
            foreign = max(0.0, (busy_s() - all_busy) - (case.job.cpu_s() - own_busy)) / spent
            # The first began before the stop; a step more may have been told while it was stopping.
            kept = lines[before + 1 : before + 1 + SLICE_STEPS]
            case.steps += kept
            case.quiet += [foreign <= QUIET_SHARE] * len(kept)
            case.foreign += [foreign] * len(kept)
        told = ", ".join(f"{case.name} {len(case.steps)}" for case in cases)
        print(f"steps so far: {told}; load {os.getloadavg()[0]:.1f}", flush=True)


def _tell(cases: list[Case], folder: Path, out: Path) -> int:
    found = [case for case in cases if case.steps]
    errors = [abs(error) for case in found if (error := _error(case)) is not None]
    within = sum(error <= 0.15 for error in errors)
    heading = (
        f"{len(found)} layouts of {STRATEGY} on {platform.node()}, {date.today().isoformat()}: {within} predicted "
        "within 15 % of the step",
    )
    notes = [f"{case.name}: {case.why_not}" for case in cases if case.why_not]
    notes.append(f"quiet: other programs took less than {QUIET_SHARE:.0%} of the cores' time meanwhile")
    notes.append("balance: mean / most tokens that an expert rank computed, which predictions take to be 1")
    print()
    print_tables(heading, (_steps(found, folder), _phases(found)), notes, sys.stdout, is_plain=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(_as_json(cases, folder), indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {out}")
    return 0 if all(case.steps or "does not run it yet" in str(case.why_not) for case in cases) else 1


def _error(case: Case, *, only_quiet: bool = False) -> float | None:
    measured = case.measured("step_s", only_quiet=only_quiet)
    return case.predicted("step_s") / measured - 1 if measured else None


def _steps(cases: list[Case], folder: Path) -> Table:
    columns = (
        "layout",
        "ranks",
        "steps",
        "predicted",
        "measured",
        "error",
        "least",
        "others took",
        "balance",
    )
    rows = []
    for case in cases:
        measured = case.measured("step_s")
        assert measured is not None
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
                "-" if (balance := _balance(case, folder)) is None else f"{balance:.2f}",
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
    """Mean over the most tokens that an EP rank computed in a layer, of the steps that counted."""
    parallel = load(STRATEGY, case.overrides).parallel
    if parallel.ep == 1:
        return None
    wanted = {line["step"] for line in case.steps}
    counts: dict[int, list[list[int]]] = {}
    for path in sorted((folder / case.name / "ranks").glob("rank-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # cut off when the job was ended
            if line["step"] in wanted and line["expert_tokens"]:
                layers = counts.setdefault(line["step"], [[0] * len(line["expert_tokens"][0])] * 0)
                _add(layers, line["expert_tokens"])
    shares = []
    for layers in counts.values():
        for experts in layers:
            size = len(experts) // parallel.ep
            ranks = [sum(experts[i * size : (i + 1) * size]) for i in range(parallel.ep)]
            shares.append(sum(ranks) / len(ranks) / max(ranks))
    return sum(shares) / len(shares) if shares else None


def _add(total: list[list[int]], more: list[list[int]]) -> None:
    if not total:
        total.extend([0] * len(layer) for layer in more)
    for into, layer in zip(total, more, strict=True):
        for i, count in enumerate(layer):
            into[i] += count


def _as_json(cases: list[Case], folder: Path) -> dict[str, Any]:
    return {
        "date": date.today().isoformat(),
        "machine": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "strategy": STRATEGY,
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


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="the most it may take")
    parser.add_argument("--only", nargs="*", choices=[name for name, *_ in CASES], help="only these layouts")
    parser.add_argument("--folder", default="runs/accuracy", help="of its runs; emptied first")
    parser.add_argument("--calibration", default=f"runs/{CALIBRATION_NAME}", help="what make bench wrote")
    parser.add_argument("--out", default="runs/accuracy.json", help="the figures for machines")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
