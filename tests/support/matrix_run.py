"""Runner of the full matrix, or a sample of it; resumes an interrupted run.

python -m tests.support.matrix_run [--sample N] [--jobs N] [--fresh] [--output docs/matrix.md]

A world of ranks stays for some cases of one layout, and at its end repeats the first of them: it must come
out the same. Results are kept, one line a case, beside a stamp of the code that they are of.
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import multiprocessing
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from runtime.process.usable_cores import num_usable_cores
from tests.support.equality import TOLERANCE, differences
from tests.support.layout import run_layout
from tests.support.matrix import LAYOUTS, Case, everything, in_bf16, in_cuts
from tests.support.matrix_table import Result, document
from tests.support.noise import beyond, distance_in_bf16, noise
from tests.support.ranks import RankError, World, warm
from tests.support.settled import settled, with_seed

Tell = Callable[[str], None]

CASES_A_WORLD = 24
TIMEOUT_S = 1800.0  # of a case: a machine may have better things to do
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_case(case: Case, world: World) -> Result:
    """Never raises for what a case does wrong: the others shall still run."""
    try:
        if case.precision == "bf16":
            worst, limits = distance_in_bf16(case.strategy, world, TIMEOUT_S), noise(case.strategy)
            far = list(beyond(worst, limits))
        else:
            seed, expected = settled(case.reference)
            strategy = with_seed(case.strategy, seed)
            found = differences(run_layout(strategy, world=world, timeout=TIMEOUT_S), expected)
            worst = {kind: value for kind, (value, _) in found.items()}
            far = [f"{kind} by {v:.1e} ({where})" for kind, (v, where) in found.items() if not v <= TOLERANCE]
        return Result(case=case, worst=worst, failure="; ".join(far) or None)
    except (AssertionError, RankError) as error:
        return Result(case=case, worst={}, failure=str(error).strip().splitlines()[-1])


def run_cases(cases: list[Case]) -> list[Result]:
    """The results of cases of one layout, in a world of their own."""
    results: list[Result] = []
    world = World(cases[0].layout.world, TIMEOUT_S)
    try:
        for case in cases:
            results.append(run_case(case, world))
            if not world.is_alive:
                world = World(case.layout.world, TIMEOUT_S)
        again = run_case(cases[0], world)
    finally:
        world.close()
    if again != results[0]:
        failure = f"comes out otherwise after {len(cases) - 1} other cases: {again.worst} {again.failure}"
        results[0] = Result(case=cases[0], worst=results[0].worst, failure=failure)
    return results


def by_lot(cases: Iterable[Case]) -> list[Case]:
    """The same shuffle in every run, layout by layout in turn: the first n are a fair sample."""
    by_layout = {
        layout: sorted(
            (c for c in cases if c.layout == layout), key=lambda c: hashlib.sha256(str(c).encode()).digest()
        )
        for layout in LAYOUTS
    }
    longest = max(map(len, by_layout.values()))
    return [group[i] for i in range(longest) for group in by_layout.values() if i < len(group)]


def by_world(cases: Iterable[Case], size: int = CASES_A_WORLD) -> list[list[Case]]:
    """Cases that are run in one world: of one layout and precision, at most `size`; the layouts in turn."""
    alike: dict[tuple[object, str], list[list[Case]]] = {}
    for case in cases:
        worlds = alike.setdefault((case.layout, case.precision), [[]])
        if len(worlds[-1]) == size:
            worlds.append([])
        worlds[-1].append(case)
    longest = max(map(len, alike.values()), default=0)
    return [worlds[i] for i in range(longest) for worlds in alike.values() if i < len(worlds)]


class Log:
    """Results on disk, one line a case, below a stamp of what they were measured with."""

    def __init__(self, path: Path, stamp: dict[str, str], *, fresh: bool) -> None:
        self.path = path
        self.spent_s = 0.0
        self._results: dict[str, dict[str, Any]] = {}
        lines = [] if fresh or not path.exists() else path.read_text(encoding="utf-8").splitlines()
        with contextlib.suppress(json.JSONDecodeError):  # the last line may be cut short
            for number, line in enumerate(map(json.loads, lines)):
                if number == 0 and line != stamp:
                    break
                if number:
                    self._results[line["case"]] = line
                    self.spent_s += line["spent_s"]
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = [stamp, *self._results.values()]
        path.write_text("".join(json.dumps(line) + "\n" for line in whole), encoding="utf-8")

    def find(self, case: Case) -> Result | None:
        line = self._results.get(str(case))
        return None if line is None else Result(case=case, worst=line["worst"], failure=line["failure"])

    def add(self, result: Result, spent_s: float) -> None:
        """`spent_s`: of the run's time, the share of this case."""
        self.spent_s += spent_s
        line = {"case": str(result.case), "worst": result.worst, "failure": result.failure}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | {"spent_s": round(spent_s, 3)}) + "\n")


def stamp() -> dict[str, str]:
    """Versions, and a hash of all that a case runs through."""
    import deepspeed
    import torch

    root = Path(__file__).resolve().parents[2]
    mine = [path for folder in ("model", "planner", "runtime") for path in (root / folder).rglob("*.py")]
    mine += [
        path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith(("test_", "matrix_"))
    ]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(mine))).hexdigest()
    return {
        "code": code[:16],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
    }


def run_all(cases: list[Case], jobs: int, tell: Tell) -> Iterator[list[Result]]:
    """The results of a world at a time, as they come."""
    started = time.monotonic()
    for case in cases:  # computed here, once, for all workers
        if case.precision == "bf16":
            noise(case.strategy)
        else:
            settled(case.reference)
    tell(f"one process's courses took {time.monotonic() - started:.0f} s")
    context = multiprocessing.get_context("fork")
    started, done = time.monotonic(), 0
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (context.Value("i"),))
    waiting: set[Future[list[Result]]] = {pool.submit(run_cases, world) for world in by_world(cases)}
    while waiting:
        ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ready:
            done += len(future.result())
            yield future.result()
        spent = time.monotonic() - started
        left = spent / done * (len(cases) - done)
        tell(f"{done}/{len(cases)} cases, {spent / 60:.1f} min, about {left / 60:.0f} min to go")
    pool.shutdown()


def _start_worker(count: Any) -> None:
    """Ends with its parent, and keeps itself and its ranks to one core: ranks of a tiny model wait for each
    other all the time, and waking one on another core costs more than its turn."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with count.get_lock():
        place = count.value
        count.value += 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[place % len(cores)]})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sample",
        type=int,
        help="only so many fp32 cases, by lot; bf16 and cuts of the layers are run in full",
    )
    parser.add_argument("--jobs", type=int, default=num_usable_cores(), help="worlds at the same time")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run has left")
    parser.add_argument("--results", type=Path, default=Path("build/matrix.jsonl"), help="kept between runs")
    parser.add_argument("--output", type=Path, default=Path("docs/matrix.md"))
    options = parser.parse_args(arguments)

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    warm()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cases = by_lot(everything())
    chosen = [*in_bf16(), *in_cuts(), *cases[: options.sample]]
    sample = "" if options.sample is None else f" --sample {options.sample}"
    command = f"python -m tests.support.matrix_run{sample}"
    log = Log(options.results, stamp(), fresh=options.fresh)
    results = [result for case in chosen if (result := log.find(case))]
    if results:
        tell(f"{len(results)} of {len(chosen)} cases are in {options.results}; --fresh runs them again")

    def write() -> None:
        text = document(results, len(cases), log.spent_s / 60, command)
        options.output.write_text(text, encoding="utf-8")

    found = {result.case for result in results}
    last = time.monotonic()
    try:
        for world in run_all([case for case in chosen if case not in found], options.jobs, tell):
            spent, last = time.monotonic() - last, time.monotonic()
            for result in world:
                log.add(result, spent / len(world))
                if result.failure:
                    tell(f"FAILED {result.case}: {result.failure}")
            results += world
            write()
    except KeyboardInterrupt:
        write()
        tell(f"stopped; {len(results)} results are in {options.results}, and the next run resumes from them")
        os._exit(130)  # the interpreter would wait for the workers' worlds, which end with this process
    write()
    failed = sum(result.failure is not None for result in results)
    tell(f"{options.output}: {len(results)} cases, {failed} not equal, {log.spent_s / 60:.1f} min")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
