"""Link probe of a preflight: `deepspeed --module runtime.probe --strategy FILE --out FOLDER`.

Its ranks join the plan's world and groups as train.py does, run the plan's own exchanges at its own sizes,
and messages between every pair of hosts. Rank 0 writes all measurements to probe.json, and then done.json,
the only sign of success; launch judges them. Nothing is trained, and no other file is written.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner import Plan, __version__
from planner.exit_codes import ExitCode
from planner.standard_streams import run_program
from planner.timing.exchanges import Exchange, exchanges_of, host_pairs, neighbours, rank_pairs
from runtime.process.start import start_rank

if TYPE_CHECKING:
    import torch

    from model.collectives import Group
    from runtime.parallel.groups import RankGroups
    from runtime.preflight.link_trials import LinkTrial
    from runtime.startup.consensus import StartDecision
    from runtime.startup.context import RunContext
    from runtime.startup.exit_reporter import ExitReporter

SCHEMA_VERSION = 1
RESULT_NAME, PROGRESS_NAME = "probe.json", "progress.txt"
HOW = "it is started by `python -m launch preflight STRATEGY`"
# A link that hangs is reported after this long, however long launch.timeout is.
MAX_TIMEOUT_S = 120.0
# Seconds for the repetitions of all exchanges, and of all pairs of hosts; each has its share.
EXCHANGES_S, PAIRS_S = 20.0, 20.0
# A message between hosts is the plan's largest between two ranks, but large enough to fill a link.
MIN_PAIR_BYTES, MAX_PAIR_BYTES = 4 * 2**20, 64 * 2**20


def main(argv: Sequence[str]) -> None:
    """Ends the process: 0 done, 2 wrong input, 3 an error, 130 stopped on request."""
    options = _options(argv)
    start = start_rank(options.strategy, options.overrides, how=HOW, rank_logs=options.rank_logs)

    from runtime.startup.run_rank import run_rank

    run_rank(start, Path(options.out), _claim, partial(_probe, options.modules))


def _claim(context: "RunContext") -> "StartDecision":
    from runtime.startup.claims import claim
    from runtime.startup.consensus import StartDecision

    assert context.folder is not None
    context.attempt = claim(context.folder, {"fingerprint": context.plan.fingerprint})
    return StartDecision(attempt=context.attempt)


def _probe(
    modules: Sequence[str],
    context: "RunContext",
    decision: "StartDecision",
    exit_reporter: "ExitReporter",
) -> ExitCode:
    for name in modules:  # one that is there, but does not load, keeps the training from starting
        import_module(name)

    from runtime.parallel.device import join_world, take_device
    from runtime.parallel.groups import make_groups
    from runtime.startup.consensus import should_stop

    launch = context.plan.strategy.launch
    patient = launch.model_copy(update={"timeout": min(launch.timeout, MAX_TIMEOUT_S)})
    plan = replace(context.plan, strategy=context.plan.strategy.model_copy(update={"launch": patient}))
    identity, store, folder = context.identity, context.store, context.folder
    assert store is not None
    assert folder is not None
    device = take_device(plan, identity)
    join_world(plan, identity, store, device)
    groups = make_groups(plan, identity.rank)

    def show(what: str) -> None:
        if identity.rank == 0:
            print(f"probe: {what}", flush=True)
            with (folder / PROGRESS_NAME).open("a", encoding="utf-8") as file:
                file.write(f"{what}\n")

    context.stop.begin_steps()
    measured = measure(plan, groups, device, show, lambda: should_stop(context, device))
    if measured is None:
        return exit_reporter.stopped("on request")
    # Through the store: every backend has one.
    store.set(
        f"probe/{identity.rank}", json.dumps({"rank": identity.rank, "host": identity.host, **measured})
    )
    if identity.rank == 0:
        from planner.files import replace as write

        ranks = [json.loads(store.get(f"probe/{rank}")) for rank in range(plan.world_size)]
        write(folder / RESULT_NAME, json.dumps(result_of(context.plan, ranks, device.type)).encode())
    return exit_reporter.done({})


def measure(
    plan: Plan,
    groups: "RankGroups",
    device: "torch.device",
    show: Callable[[str], None] = lambda what: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """All that this rank measures, as plain data; None if the ranks were asked to stop. Collective.

    Args:
        show: called with what comes next.
        should_stop: collective; whether any rank was asked to stop.
    """
    from runtime.preflight.exchange_trials import TrialWorld, run_exchange
    from runtime.preflight.link_trials import run_pairs

    exchanges, rounds = exchanges_of(plan), host_pairs(plan)
    world = TrialWorld(rank=groups.rank, device=device, budget_s=EXCHANGES_S / max(1, len(exchanges)))
    found: dict[str, Any] = {"exchanges": {}, "pairs": []}
    for exchange in exchanges:
        if should_stop():
            return None
        show(exchange.title)
        trial = run_exchange(exchange, _group_in(exchange, groups), world)
        if trial is not None:
            found["exchanges"][exchange.title] = asdict(trial)
    link = replace(world, budget_s=PAIRS_S / (len(rounds) + 1))
    size = pair_bytes(exchanges)
    inside = neighbours(plan)
    if inside:
        show("pairs of ranks of a host")
        found["pairs"] += _trials(run_pairs(inside, size, link), inside, groups.rank)
    for number, pairs in enumerate(rounds, start=1):
        if should_stop():
            return None
        show(f"pairs of hosts, round {number} of {len(rounds)}")
        ranks = tuple(ends for pair in pairs for ends in rank_pairs(plan, pair))
        found["pairs"] += _trials(run_pairs(ranks, size, link), ranks, groups.rank)
    return found


def _trials(trial: "LinkTrial | None", pairs: Sequence[tuple[int, int]], rank: int) -> list[dict[str, Any]]:
    if trial is None:
        return []
    ends = next(pair for pair in pairs if pair[0] == rank)
    return [{"ranks": list(ends), **asdict(trial)}]


def _group_in(exchange: Exchange, groups: "RankGroups") -> "Group | None":
    """This rank's group in an exchange of its own stage; None on ranks of other stages, and for a send."""
    if exchange.kind == "send" or exchange.stage != groups.stage.name:
        return None
    group: Group = getattr(groups, exchange.axis)
    return group


def pair_bytes(exchanges: Sequence[Exchange]) -> int:
    """The plan's largest message between two ranks, within bounds that fill a link and finish in time."""
    largest = 0
    for exchange in exchanges:
        if exchange.kind == "send":
            largest = max(largest, *(message[2] for message in exchange.messages))
        elif exchange.kind == "all_to_all":
            largest = max(largest, exchange.num_bytes // len(exchange.groups[0]))
        else:
            largest = max(largest, exchange.num_bytes)
    return min(max(largest, MIN_PAIR_BYTES), MAX_PAIR_BYTES)


def result_of(plan: Plan, ranks: list[dict[str, Any]], device_type: str) -> dict[str, Any]:
    """What probe.json holds: seconds on each rank, by exchange and by pair."""
    import torch

    is_gpu = device_type == "cuda"
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": plan.fingerprint,
        "backend": "nccl" if is_gpu else "gloo",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if is_gpu else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if is_gpu else None,
        "pair_bytes": pair_bytes(exchanges_of(plan)),
        "hosts": [rank["host"] for rank in ranks],
        "exchanges": {
            exchange.title: {
                str(rank["rank"]): rank["exchanges"][exchange.title]
                for rank in ranks
                if exchange.title in rank["exchanges"]
            }
            for exchange in exchanges_of(plan)
        },
        "pairs": [pair for rank in ranks for pair in rank["pairs"]],
    }


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="runtime.probe", description="The ranks of `python -m launch preflight`.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"switchyard {__version__}")
    parser.add_argument("--strategy", metavar="FILE", required=True, help="the strategy")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="where rank 0 writes its result")
    parser.add_argument(
        "--modules", metavar="NAME,…", type=_names, default=(), help="what ranks of a training import"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the strategy")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rank-logs", metavar="PREFIX", help=argparse.SUPPRESS)
    if {"-h", "--help", "--version"} & set(argv):
        run_program(lambda: parser.parse_intermixed_args(argv))
    return parser.parse_intermixed_args(argv)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main(sys.argv[1:])
