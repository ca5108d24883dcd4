"""Accuracy of predicted times on this machine, phase by phase: `python -m benchmarks.accuracy`.

Trains ds_configs/tiny_cpu.yaml in several layouts, interleaved (benchmarks.jobs), and takes the median of
each layout's steps after a warm-up, without the steps in which a job was stopped. Predictions are those that
the runs write with their steps, from the calibration in their folder (`make bench` writes it). Prints every
error and writes them as JSON; Linux only.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy_report import Case, print_report
from benchmarks.jobs import Job, JobFailed, busy_s
from planner import __version__, load
from planner.hardware.catalog import CALIBRATION_NAME
from planner.rules.not_implemented import find_unimplemented
from planner.standard_streams import run_program
from runtime.process.usable_cores import num_usable_cores

STRATEGY = "ds_configs/tiny_cpu.yaml"
# Name, ranks, overrides. Compact rank order makes rank 0, whose phases are reported, an expert rank.
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
# Steps only, without validation and checkpoints; more of them than are needed.
_QUIETLY = (
    "training.steps=100000",
    "output.validate_every=100000",
    "output.checkpoint_every=100000",
    "output.resume=never",
    "data.validation_sequences=8",
    "operate.tensorboard=false",
)
WARMUP_STEPS, STEPS, SLICE_STEPS = 5, 20, 5
# Other processes' share of the cores' time below which a slice counts as undisturbed.
QUIET_SHARE = 0.05
_SLICE_S = 120.0


def main(argv: Sequence[str]) -> int:
    """0 if every layout that this version can train was measured, else 1."""
    options = _options(argv)
    folder = Path(options.folder)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    calibration = Path(options.calibration)
    if calibration.is_file():
        shutil.copy(calibration, folder / CALIBRATION_NAME)
    else:
        print(f"{calibration} does not exist (make bench writes it): predictions use the shipped numbers")
    until = time.monotonic() + 60 * options.minutes
    cases = [
        Case(
            name=name,
            num_ranks=ranks,
            overrides=overrides,
            parallel=load(STRATEGY, overrides).parallel,
        )
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
    return print_report(cases, folder, Path(options.out), STRATEGY)


def _start(case: Case, folder: Path, until: float) -> None:
    """Starts a job, lets it warm up and stops it."""
    problems = find_unimplemented(load(STRATEGY, case.overrides))
    if problems:
        case.why_not = f"not implemented in this version: {problems[0].path}"
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
        case.job.wait_for(WARMUP_STEPS, max(1.0, until - time.monotonic()))
        case.job.stop()
    except JobFailed as failure:
        case.why_not = str(failure)
        case.job.end()
        case.job = None


def _take_turns(cases: list[Case], until: float) -> None:
    """Rounds over all jobs until each has its steps, or the time is over."""
    cores = num_usable_cores()
    while time.monotonic() < until:
        waiting = [c for c in cases if c.job is not None and c.why_not is None and len(c.steps) < STEPS]
        if not waiting:
            return
        for case in waiting:
            assert case.job is not None
            before, began = len(case.job.lines()), time.monotonic()
            all_busy, own_busy = busy_s(), case.job.cpu_s()
            case.job.resume()
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
            # The first step began before the stop; one more may have been recorded while stopping.
            kept = lines[before + 1 : before + 1 + SLICE_STEPS]
            case.steps += kept
            case.quiet += [foreign <= QUIET_SHARE] * len(kept)
            case.foreign += [foreign] * len(kept)
        counts = ", ".join(f"{case.name} {len(case.steps)}" for case in cases)
        print(f"steps so far: {counts}; load {os.getloadavg()[0]:.1f}", flush=True)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--version", action="version", version=f"switchyard {__version__}")
    parser.add_argument("--minutes", type=float, default=8.0, help="upper bound of the duration")
    parser.add_argument("--only", nargs="*", choices=[name for name, *_ in CASES], help="only these layouts")
    parser.add_argument("--folder", default="runs/accuracy", help="folder of its runs; emptied first")
    parser.add_argument(
        "--calibration", default=f"runs/{CALIBRATION_NAME}", help="the file that make bench wrote"
    )
    parser.add_argument("--out", default="runs/accuracy.json", help="the results as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(lambda: sys.exit(main(sys.argv[1:])))
