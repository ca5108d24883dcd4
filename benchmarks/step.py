"""The training step against other programs: `python -m benchmarks.step` (make bench-step).

One process, and four ranks over gloo; bf16 and fp32; routes balanced, 30 % of tokens to one expert, every
token to one. Competitors take turns step by step (benchmarks.worlds), on the same tokens and experts. Those
that drop nothing are compared with each other, and those with a capacity with each other. Prints a table and
writes JSON; docs/performance.md says how to read them. Linux only.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import step_ranks
from benchmarks.setting import OURS, Setting, Shape, forced_experts
from benchmarks.step_report import Block, Report, Row
from benchmarks.worlds import World, WorldFailed
from planner import __version__
from planner.problems import StrategyError
from runtime.process.usable_cores import num_usable_cores

ROUTINGS: dict[str, tuple[str, float | None]] = {
    "balanced": ("balanced", None),
    "30 % hot": ("hot_expert", 0.3),
    "all to one": ("hot_expert", 1.0),
}
CAPACITY_FACTOR = 1.25
DROPLESS = {
    1: (OURS, "transformers", "transformers-zero", "deepspeed", "autoep"),
    4: (OURS, "transformers-zero", "deepspeed", "autoep"),
}
CAPACITY = (OURS, "deepspeed")
ROUNDS, WARMUP_STEPS = 7, 1
# A step this many times as long as the fastest competitor's is not waited for in every round.
_SLOW, _SLOW_ROUNDS = 2.5, 3
TINY = Shape(
    num_layers=2,
    hidden_size=32,
    moe_intermediate_size=32,
    num_experts=8,
    num_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=64,
    seq_length=32,
)


def main(argv: Sequence[str]) -> int:
    """0 if every competitor was measured in every block, else 1."""
    options = _options(argv)
    prepare()
    shape = TINY if options.quick else Shape()
    rounds = 2 if options.quick else options.rounds
    until = time.monotonic() + 60 * options.minutes
    report = Report(shape, Path(options.out))
    plans = [
        (ranks, precision, factor)
        for ranks in options.ranks
        for precision in options.precision
        for factor in (None, CAPACITY_FACTOR)
    ]
    for place, (ranks, precision, factor) in enumerate(plans):
        names = CAPACITY if factor else DROPLESS[4 if ranks > 1 else 1]
        settings = {
            name: Setting(
                competitor=name,
                shape=shape,
                precision=precision,
                num_ranks=ranks,
                capacity_factor=factor,
                overrides=tuple(options.set) if name == OURS else (),
            )
            for name in names
            if not options.only or name in options.only or name == OURS
        }
        share_s = max(1.0, (until - time.monotonic()) / (len(plans) - place))
        _measure(settings, rounds, time.monotonic() + share_s, options.threads, report)
    print(f"\nwritten to {options.out}")
    return int(not report.is_complete)


def _measure(
    settings: dict[str, Setting], rounds: int, until: float, threads: int | None, report: Report
) -> None:
    """One block for each routing: a launch of all competitors of one kind."""
    first = next(iter(settings.values()))
    cores = num_usable_cores()
    threads = threads or (cores if first.num_ranks == 1 and first.shape.hidden_size > 64 else 1)
    worlds: dict[str, World] = {}
    failed: dict[str, str] = {}
    title = f"{first.num_ranks} rank{'s' if first.num_ranks > 1 else ''}, {first.precision}"
    title += f", capacity {first.capacity_factor}" if first.capacity_factor else ", dropless"
    print(f"{title}: starting {', '.join(settings)} …", file=sys.stderr, flush=True)
    try:
        for name, setting in settings.items():
            worlds[name] = World(setting.num_ranks, threads)
            _try(worlds, failed, name, step_ranks.build, setting)
            _try(worlds, failed, name, step_ranks.forget_peak)
        width = 1024 if first.shape.hidden_size > 64 else 128
        rates = _try(worlds, failed, OURS, step_ranks.gemm_rate, first.precision, width)
        for place, (routing, (kind, share)) in enumerate(ROUTINGS.items()):
            print(f"{title}, {routing} …", file=sys.stderr, flush=True)
            share_s = max(1.0, (until - time.monotonic()) / (len(ROUTINGS) - place))
            block = Block(
                routing=routing,
                num_ranks=first.num_ranks,
                threads=threads,
                precision=first.precision,
                capacity_factor=first.capacity_factor,
                gemm_rate=sum(rates or []),
                experts_TK=forced_experts(first, kind, share),
                setting=first,
            )
            _take_turns(block, settings, worlds, failed, rounds, time.monotonic() + share_s)
            block.failed = dict(failed)
            report.add(block)
    finally:
        for world in worlds.values():
            world.close()


def _take_turns(
    block: Block,
    settings: dict[str, Setting],
    worlds: dict[str, World],
    failed: dict[str, str],
    rounds: int,
    until: float,
) -> None:
    """Rounds of one step of each competitor, until there are enough or the time is over; then what is
    counted in a step that is not timed."""
    rows = {name: Row(name=name) for name in settings if name not in failed}
    for _ in range(WARMUP_STEPS):
        for name in list(rows):
            _try(worlds, failed, name, step_ranks.force, block.experts_TK)
            _step(worlds, failed, name, None)
    for turn in range(rounds):
        if time.monotonic() > until and turn > 1:
            break
        medians = {name: statistics.median(row.seconds) for name, row in rows.items() if row.seconds}
        fastest = min(medians.values(), default=0.0)
        for name, row in rows.items():
            is_slow = medians.get(name, 0.0) > _SLOW * fastest
            if name not in failed and not (is_slow and turn >= _SLOW_ROUNDS):
                _step(worlds, failed, name, row)
    for name, row in rows.items():
        row.counts = _try(worlds, failed, name, step_ranks.count)
        row.peak_bytes = _try(worlds, failed, name, step_ranks.peak_bytes)
    block.rows = [row for name, row in rows.items() if name not in failed]
    block.check_routes()


def _step(worlds: dict[str, World], failed: dict[str, str], name: str, row: Row | None) -> None:
    found = _try(worlds, failed, name, step_ranks.step)
    if found is not None and row is not None:
        row.seconds.append(max(one.seconds for one in found))
        row.cpu_s.append(sum(one.cpu_s for one in found))
        row.loss = statistics.fmean(one.loss for one in found)


def _try(worlds: dict[str, World], failed: dict[str, str], name: str, *call: Any) -> Any:
    """The ranks' answers; None for a competitor that failed, now or before."""
    if name in failed:
        return None
    try:
        return worlds[name].call(*call)
    except WorldFailed as failure:
        failed[name] = str(failure)
        print(f"{name} failed: {failure}", file=sys.stderr, flush=True)
        return None


def prepare(device: str = "cpu") -> None:
    """Imports what the ranks need, once: they are forked."""
    os.environ.update(DS_ACCELERATOR=device, TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # for every competitor: runtime/process/start.py
    import deepspeed
    import deepspeed.moe.layer
    import deepspeed.runtime.engine
    import transformers.models.mixtral.modeling_mixtral  # noqa: F401

    assert deepspeed.ops.__compatible_ops__ is not None  # asks once which of its C ops could be built


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--version", action="version", version=f"switchyard {__version__}")
    parser.add_argument("--quick", action="store_true", help="a tiny model and two rounds: does it all run?")
    parser.add_argument("--minutes", type=float, default=15.0, help="about how long it may take")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="steps of each competitor")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4], help="sizes of the world")
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--only", nargs="*", help="only these competitors, and this program")
    parser.add_argument("--threads", type=int, help="of each rank; default: every core for one, else 1")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of this program's strategy"
    )
    parser.add_argument("--out", default="runs/bench_step.json", help="the results as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StrategyError as error:
        sys.exit(str(error))
