"""Two strategies in turn on hosts with a slow network: `python -m benchmarks.shaped --set KEY=VALUE`.

What `--set` changes is timed against the strategy without it, step by step in turn, each with ranks of its
own on the same hosts (benchmarks.network). Prints the paired ratio of their steps, the phases of both, what
left the first host, and whether their losses are the same bits. Linux, as root.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from benchmarks.network import Network
from benchmarks.setting import OURS, Setting, Shape, strategy_text
from benchmarks.step import TINY, prepare
from benchmarks.step_report import machine, paired_ratio
from benchmarks.worlds import World
from planner import Plan, build_plan, loads
from planner.plan import ds_config
from runtime.data.rows import Rows
from runtime.parallel.groups import make_groups
from runtime.profiling.phase_clock import PhaseClock
from runtime.training.engine import make_engine
from runtime.training.forced_experts import forced_experts
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from runtime.training.training_model import build_model

State = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """0; what cannot be measured is an error."""
    options = _options(argv)
    prepare()
    if options.bucket is not None:  # before the fork, so that plans and ranks have the same
        ds_config.BUCKET_ELEMENTS = options.bucket
    found = []
    for rate in options.rate:
        found.append(_measure(options, None if rate == "none" else rate))
        print(_text(options, found[-1]), flush=True)
    report = {"machine": machine(), "command": list(argv), "found": found}
    Path(options.out).write_text(json.dumps(report, indent=2), encoding="utf-8")
    print(f"written to {options.out}")
    return 0


def _measure(options: argparse.Namespace, rate: str | None) -> dict[str, Any]:
    plans = {"without": _plan(options, ()), "with": _plan(options, options.set)}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    phases: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
    sent: dict[str, list[int]] = {name: [] for name in plans}
    losses: dict[str, list[float]] = {name: [] for name in plans}
    worlds: dict[str, World] = {}
    until = time.monotonic() + 60 * options.minutes
    with Network(options.hosts, rate) as network:
        try:
            for name, plan in plans.items():
                worlds[name] = World(
                    plan.world_size, 1, before=lambda rank: network.enter(rank // options.ranks)
                )
                worlds[name].call(_build, plan)
            for turn in range(1 + options.rounds):
                if turn > 3 and time.monotonic() > until:
                    break
                for name, world in worlds.items():
                    before = network.sent_bytes(0)
                    results = world.call(_step)
                    if turn == 0:  # the first step makes what later ones have
                        continue
                    slowest = max(results, key=lambda result: result["seconds"])
                    seconds[name].append(slowest["seconds"])
                    phases[name].append(slowest["phases"])
                    losses[name].append(slowest["loss"])
                    sent[name].append(network.sent_bytes(0) - before)
        finally:
            for world in worlds.values():
                world.close()
    ratio = paired_ratio(seconds["without"], seconds["with"])
    return {
        "rate": rate,
        "seconds": seconds,
        "ratio": [ratio.median, ratio.low, ratio.high],
        "phases": {
            name: {phase: statistics.median(one[phase] for one in each) for phase in each[0]}
            for name, each in phases.items()
        },
        "sent_bytes": {name: statistics.median(each) for name, each in sent.items()},
        "same_losses": losses["with"] == losses["without"],
    }


def _plan(options: argparse.Namespace, more: Sequence[str]) -> Plan:
    ranks = options.hosts * options.ranks
    shape = TINY if options.quick else Shape()
    setting = Setting(competitor=OURS, shape=shape, precision="bf16", num_ranks=ranks)
    cluster = (f"cluster.hosts={options.hosts}", f"cluster.gpus_per_host={options.ranks}")
    return build_plan(loads(strategy_text(setting), (*cluster, *options.base, *more)))


def _build(state: State, plan: Plan) -> None:
    clock = PhaseClock()
    groups = make_groups(plan, state["rank"], clock)
    engine = make_engine(build_model(plan, groups, state["device"]), plan, groups, clock)
    training = plan.strategy.training
    shape = (training.global_batch, training.seq_length + 1)
    rows = Rows(tokens_BS1=np.random.default_rng(0).integers(0, plan.strategy.model.vocab_size, shape))
    batches = training_batches(
        rows.part, plan.batch, groups.stage, groups.data.rank, engine.device, forced_experts(plan.strategy, 1)
    )
    state |= {"clock": clock, "engine": engine, "groups": groups, "batches": batches, "rows": rows}


def _step(state: State) -> dict[str, Any]:
    clock: PhaseClock = state["clock"]
    dist.barrier()
    clock.reset()
    began = time.perf_counter()
    result = train_step(state["engine"], state["groups"], state["batches"], state["rows"].totals(), clock)
    phases_s = clock.reset()
    dist.barrier()
    return {"seconds": time.perf_counter() - began, "phases": phases_s, "loss": result.loss}


def _text(options: argparse.Namespace, found: dict[str, Any]) -> str:
    ms = {name: 1e3 * statistics.median(each) for name, each in found["seconds"].items()}
    low, high = found["ratio"][1:]
    lines = [
        f"{options.hosts} hosts × {options.ranks} ranks, {found['rate'] or 'no limit'} a host, "
        f"{len(found['seconds']['with'])} rounds",
        f"  without: {ms['without']:.0f} ms; with {', '.join(options.set)}: {ms['with']:.0f} ms; ratio "
        f"{found['ratio'][0]:.3f} [{low:.3f}, {high:.3f}]; losses "
        f"{'are the same' if found['same_losses'] else 'differ'}",
    ]
    for name, phases in found["phases"].items():
        said = ", ".join(f"{phase} {1e3 * s:.0f}" for phase, s in phases.items() if s > 5e-4)
        lines.append(f"  {name}, ms: {said}; {found['sent_bytes'][name] / 1e6:.1f} MB left the first host")
    return "\n".join(lines)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shaped", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it all run?")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2, help="of each host")
    parser.add_argument("--rate", action="append", help="of a host's link, as tc has it: 200mbit, or none")
    parser.add_argument("--base", action="append", default=[], metavar="KEY=VALUE", help="of both")
    parser.add_argument("--set", action="append", required=True, metavar="KEY=VALUE", help="of the second")
    parser.add_argument("--bucket", type=int, help="elements of a reduction bucket, of both")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=5.0, help="for each rate; 3 rounds at least")
    parser.add_argument("--out", default="runs/bench_shaped.json")
    options = parser.parse_args(argv)
    options.rate = options.rate or ["none", "200mbit"]
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
