"""Runs the whole matrix, or a sample of it, against one process, and writes the docs' table.

python -m tests.distributed.matrix_table [--sample N] [--jobs N] [--output docs/matrix.md]
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

from tests.distributed.equality import TOLERANCE, differences
from tests.distributed.layout import run_layout
from tests.distributed.matrix import LAYOUTS, Case, covering, everything, in_bf16
from tests.distributed.noise import SEEDS, distance_in_bf16, noise
from tests.distributed.ranks import RankError, warm
from tests.distributed.settled import settled, with_seed

Worst = dict[str, float]

# Column of the table -> the kinds of quantity whose worst stands in it.
COLUMNS = {
    "loss": ("loss",),
    "B, Z": ("balance", "z"),
    "gradient: dense": ("gradient of dense",),
    "experts": ("gradient of expert",),
    "routers": ("gradient of router",),
    "norm": ("norm",),
    "clipped gradient": tuple(f"clipped gradient of {family}" for family in ("dense", "expert", "router")),
    "parameters": tuple(f"weight of {family}" for family in ("dense", "expert", "router")),
    "moments": tuple(
        f"{moment} of {family}"
        for moment in ("exp_avg", "exp_avg_sq")
        for family in ("dense", "expert", "router")
    ),
}
BF16_KINDS = ("loss", "norm", "gradient of dense", "gradient of expert", "gradient of router")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a case: its worst distances, or why there are none."""

    case: Case
    worst: Worst
    failure: str | None


def run_case(case: Case) -> Result:
    """Never raises for what a case does wrong: the others shall still run."""
    try:
        if case.precision == "bf16":
            worst, limits = distance_in_bf16(case.strategy), noise(case.strategy)
            far = [kind for kind in worst if not worst[kind] <= limits[kind]]
        else:
            seed, expected = settled(case.reference)
            found = differences(run_layout(with_seed(case.strategy, seed)), expected)
            worst = {kind: value for kind, (value, _) in found.items()}
            far = [f"{kind} by {v:.1e} ({where})" for kind, (v, where) in found.items() if not v <= TOLERANCE]
        return Result(case=case, worst=worst, failure="; ".join(far) or None)
    except (AssertionError, RankError) as error:
        return Result(case=case, worst={}, failure=str(error).strip().splitlines()[-1])


def by_lot(cases: Iterable[Case]) -> list[Case]:
    """The same shuffle in every run, layout by layout in turn: the first n are a fair sample."""
    by_layout = {
        layout: sorted((c for c in cases if c.layout == layout), key=lambda c: crc32(str(c).encode()))
        for layout in LAYOUTS
    }
    longest = max(map(len, by_layout.values()))
    return [group[i] for i in range(longest) for group in by_layout.values() if i < len(group)]


def run_all(cases: list[Case], jobs: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """Results as they come. What all cases share is computed first, in this process, for the workers."""
    warm()
    started = time.monotonic()
    for case in cases:
        if case.precision == "bf16":
            noise(case.strategy)
        else:
            settled(case.reference)
    tell(f"one process's courses took {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        for done, future in enumerate(as_completed([pool.submit(run_case, case) for case in cases]), start=1):
            result = future.result()
            if result.failure:
                tell(f"FAILED {result.case}: {result.failure}")
            if done % 20 == 0 or done == len(cases):
                spent = time.monotonic() - started
                left = spent / done * (len(cases) - done)
                tell(f"{done}/{len(cases)} cases, {spent / 60:.1f} min, about {left / 60:.0f} min to go")
            yield result


def table(results: list[Result]) -> str:
    """A row a layout: the worst distance of all its cases in fp32."""
    rows = [["layout", "world", "cases", *COLUMNS, "equal"], ["---", *["--:"] * (len(COLUMNS) + 2), "---"]]
    for layout in LAYOUTS:
        mine = [r for r in results if r.case.layout == layout and r.case.precision == "fp32"]
        failed = sum(r.failure is not None for r in mine)
        worst = [
            _show(max((r.worst.get(kind, 0.0) for r in mine for kind in kinds), default=0.0))
            for kinds in COLUMNS.values()
        ]
        verdict = "not run" if not mine else f"**{failed} of {len(mine)} not**" if failed else "yes"
        rows.append([str(layout), str(layout.world), str(len(mine)), *worst, verdict])
    return _markdown(rows)


def bf16_table(results: list[Result]) -> str:
    """A row a layout and ZeRO stage, beside the noise."""
    rows = [["layout", "ZeRO", "cases", *BF16_KINDS, "within"], ["---", *["--:"] * 7, "---"]]
    mine = [r for r in results if r.case.precision == "bf16"]
    for layout in LAYOUTS:
        for stage in (1, 2):
            cell = [r for r in mine if r.case.layout == layout and r.case.zero_stage == stage]
            if cell:
                worst = [_show(max(r.worst.get(kind, 0.0) for r in cell)) for kind in BF16_KINDS]
                verdict = "**no**" if any(r.failure for r in cell) else "yes"
                rows.append([str(layout), str(stage), str(len(cell)), *worst, verdict])
    if mine:
        floor = noise(mine[0].case.strategy)
        rows.append(["*one process, bf16 to fp32*", "", "", *[_show(floor[kind]) for kind in BF16_KINDS], ""])
    return _markdown(rows)


def document(results: list[Result], num_all: int, minutes: float, command: str) -> str:
    """docs/matrix.md."""
    import deepspeed
    import torch

    fp32 = [r for r in results if r.case.precision == "fp32"]
    failures = [r for r in results if r.failure]
    amount = (
        f"all {num_all:,} cases"
        if len(fp32) == num_all
        else f"{len(fp32):,} of {num_all:,} cases, drawn by lot, all layouts alike,"
    )
    listed = "".join(f"- `{r.case}`: {r.failure}\n" for r in failures)
    listed = f"\n## What is not equal\n\n{listed}" if failures else ""
    return f"""# The matrix: every colocated layout against one process

Generated by `{command}` on {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC: **{amount} in fp32**
and {len(results) - len(fp32)} in bf16, {minutes:.0f} minutes on {os.cpu_count()} CPU cores
({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}, DeepSpeed
{deepspeed.__version__}, gloo. `make matrix` runs all of them.

A case is five training steps in the product's own groups, model, engine and step, one process a
rank, held against one process that runs the whole model in plain PyTorch. The cases are the product
of the {len(LAYOUTS)} layouts below with ZeRO 0, 1, 2 × accumulation 1, 2 × top-k 1, 2, 3 × expert
mlp, swiglu × shared experts 0, 1 × dispatch dropless, capacity, deepspeed. Balance loss and z-loss
are on, but under `deepspeed`, which has neither. The rest (odd token counts, padding, a vocabulary
that tp does not divide, normed queries and keys, a dense first layer, no losses, no clipping) is
met pairwise by the covering set of {len(covering())} cases in `make test`.

## fp32

The worst ‖a−b‖/‖b‖ of any global tensor, any of the five steps and any case of the layout; *equal*
is {TOLERANCE:g}. Gradients are those before clipping; parameters and both Adam moments are those
after five steps. The tokens that went to each expert are the same numbers, and every replica is the
same bits, or the case fails.

{table(results)}
## bf16

bf16 weights, fp32 masters, top-k 2, accumulation 1 and 2. The distance of a layout in bf16 from one
process in bf16, and in the last row the noise: of one process in bf16 from one process in fp32, the
worst of {len(SEEDS)} seeds. Compared are the loss and the norm of each step, and the gradients of
each family together, because some routes flip in bf16 and single tensors with them. ZeRO 0 with
bf16 is refused by the planner.

{bf16_table(results)}{listed}"""


def _show(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _markdown(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, help="only so many fp32 cases, by lot; bf16 is run in full")
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time")
    parser.add_argument("--output", type=Path, default=Path("docs/matrix.md"))
    options = parser.parse_args(arguments)

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    cases = by_lot(everything())
    chosen = cases[: options.sample] + list(in_bf16())
    started = time.monotonic()
    told = "" if options.sample is None else f" --sample {options.sample}"
    command = f"python -m tests.distributed.matrix_table{told}"
    results: list[Result] = []
    for result in run_all(chosen, options.jobs, tell):
        results.append(result)
        if len(results) % 100 == 0 or len(results) == len(chosen):  # a run that is cut short leaves its table
            minutes = (time.monotonic() - started) / 60
            options.output.write_text(document(results, len(cases), minutes, command), encoding="utf-8")
    failed = sum(r.failure is not None for r in results)
    tell(f"{options.output}: {len(results)} cases, {failed} not equal, {minutes:.1f} min")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
