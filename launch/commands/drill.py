"""The `drill` command: faults on purpose, and whether the run is none the worse."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import Overrides, StrategyFile
from launch.cli.output import CommandOutput
from planner import Plan, Strategy, StrategyError, build_plan, load, locate_problems
from planner.exit_codes import ExitCode
from planner.paths import PROJECT
from planner.units import plural


@command
def drill(
    output: CommandOutput,
    strategy: StrategyFile,
    overrides: Overrides = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", metavar="NAME", help="only this kind; may be repeated")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option("--hours", min=0.0, help="faults at random, for so long", show_default=False),
    ] = None,
    mtbf: Annotated[
        str, typer.Option("--mtbf", metavar="TIME", help="with --hours: on average between two faults")
    ] = "5 min",
    seed: Annotated[int, typer.Option("--seed", help="with --hours: of the faults")] = 1,
    on_cluster: Annotated[
        bool, typer.Option("--on-cluster", help="on the strategy's own hosts, in its own layout")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="keep the folder of the drills' runs")] = False,
) -> ExitCode:
    """Break runs of it on hosts made for that, on this machine; exit code 1 if one does not recover."""
    from launch.drill.choice import choose, parse_mtbf
    from launch.drill.kinds import Where
    from planner.plan.serialization import strategy_yaml

    loaded = load(strategy, only_overrides(overrides))
    mtbf_s = parse_mtbf(mtbf)
    kinds, left_out, where = choose(tuple(kind or ()), is_random=hours is not None, on_cluster=on_cluster)
    if where is Where.CLUSTER:
        plan, folder = _on_cluster(loaded)
    else:
        plan, folder = _fitted(loaded, num_runs=1 if hours is None else 2)
    (folder / "strategy.yaml").write_text(strategy_yaml(plan), encoding="utf-8")
    settings = {
        "kinds": [chosen.name for chosen in kinds],
        "where": where.value,
        "seconds": None if hours is None else hours * 3600,
        "mtbf_s": mtbf_s,
        "seed": seed,
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    for text in left_out:
        print(f"warning: {text}", file=sys.stderr, flush=True)
    layout = plan.strategy.parallel.layout_name
    print(f"drill: {layout} on {plural(len(plan.hosts), 'host')}, in {folder}", file=sys.stderr, flush=True)
    code = _run(folder, has_network=where is Where.NAMESPACES)
    results = _read(folder)
    is_ended = code == 0 and bool(results)
    is_well = is_ended and not any(_is_worse(result) for result in results)
    if is_well and not keep:
        shutil.rmtree(folder)
    answer = ExitCode.OK if is_well else ExitCode.NEGATIVE if is_ended else ExitCode.INTERNAL_ERROR
    if code == ExitCode.STOPPED:
        answer = ExitCode.STOPPED
    if output.is_json:
        content: dict[str, Any] = {"layout": layout, "left_out": left_out}
        content |= {"drills": results} if hours is None else {"random": results[0] if results else None}
        return output.print_json(answer, content)
    if hours is None and results:
        _print(output, f"{layout} on {plural(plan.world_size, 'rank')}", results)
    elif results:
        print("\n".join(_describe(results[0])))
    if not is_well:
        print(f"the runs are left in {folder}", file=sys.stderr, flush=True)
    return answer


def _fitted(strategy: Strategy, *, num_runs: int) -> tuple[Plan, Path]:
    """The plan of it on hosts of this machine, and a new folder for `num_runs` runs at once.

    Raises:
        StrategyError: if this machine cannot train it.
    """
    import psutil

    from launch.drill.fit import fit, memory_problem

    plan = build_plan(fit(strategy))
    problem = memory_problem(plan, psutil.virtual_memory().available, num_runs=num_runs)
    if problem is not None:
        raise StrategyError(locate_problems([problem], strategy))
    return plan, Path(tempfile.mkdtemp(prefix="switchyard-drill-"))


def _on_cluster(strategy: Strategy) -> tuple[Plan, Path]:
    """The plan of a short run on the strategy's own hosts, and a new folder, which all of them see.

    Raises:
        StrategyError: for hosts that have no names, or a folder that cannot be made.
    """
    from launch.drill.fit import shorten
    from launch.scripts.hostfile import made_up_hosts
    from launch.scripts.launch_files import build_launch_plan, cannot_write, launch_paths

    plan = build_launch_plan(shorten(strategy))
    problem = made_up_hosts(plan)
    if problem is not None:
        raise StrategyError(locate_problems([problem], strategy))
    output = launch_paths(plan).run.parent
    try:
        output.mkdir(parents=True, exist_ok=True)
        return plan, Path(tempfile.mkdtemp(prefix="drill-", dir=output))
    except OSError as error:
        raise StrategyError([cannot_write(output, error)]) from None


def _is_worse(result: dict[str, Any]) -> bool:
    """Of a drill, or of the report of a random one."""
    if "wrong" not in result:
        return bool(result["faults"])
    return bool(result["wrong"] or result["false_stops"] or result["faults"] != result["recovered"])


def _describe(report: dict[str, Any]) -> Iterator[str]:
    from statistics import median

    from planner.units import format_seconds

    yield (
        f"{plural(len(report['faults']), 'fault')} in {format_seconds(report['seconds'])}, "
        f"{len(report['recovered'])} recovered from, {plural(len(report['false_stops']), 'false stop')}"
    )
    if times := report["recovery_s"]:
        yield f"recovered within {median(times):.1f} s in the middle, {max(times):.1f} s at most"
    yield f"goodput {report['goodput']:.1%}: {plural(report['steps'], 'step')} that count"
    if not report["wrong"]:
        yield (
            "every step's loss and gradient norm, and the bits of the checkpoint of step "
            f"{report['compared_step']}, are those of the run without faults"
        )
    yield from (f"wrong: {text}" for text in report["wrong"])
    yield from (f"false stop: {text}" for text in report["false_stops"])


def _run(folder: Path, *, has_network: bool) -> int:
    """The exit code of the program of the drills; INT and TERM end it with its hosts and ranks."""
    from launch.drill.hosts import OUTER

    words = [*(OUTER if has_network else ()), sys.executable, "-m", "launch.drill", str(folder)]
    process = subprocess.Popen(
        words, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True, env=_environment()
    )
    with _stops(process) as stopped:
        code = process.wait()
    return ExitCode.STOPPED if stopped else code


@contextlib.contextmanager
def _stops(process: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment() -> dict[str, str]:
    """Without what an operator's shell would add to every ssh, or to the ranks."""
    dropped = ("PDSH_", "DS_ENV_FILE", "LAUNCH_MASTER_", "SWITCHYARD_", "CUDA_VISIBLE_DEVICES")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def _read(folder: Path) -> list[dict[str, Any]]:
    try:
        results: list[dict[str, Any]] = json.loads((folder / "result.json").read_bytes())
    except (OSError, ValueError):
        return []
    return results


def _print(output: CommandOutput, layout: str, results: Sequence[dict[str, Any]]) -> None:
    from launch.drill.kinds import KINDS
    from planner.report.tables import Table

    texts = {kind.name: kind.text for kind in KINDS}
    rows = tuple(
        (
            result["name"],
            texts[result["kind"]],
            "never" if result["seconds"] is None else f"{result['seconds']:.1f}",
            "; ".join(result["faults"]) or "as unbroken",
        )
        for result in results
    )
    table = Table(
        title="drills",
        columns=("drill", "what is done", "recovered in s", "the run"),
        rows=rows,
        numeric=frozenset({"recovered in s"}),
        below=("the run",),
    )
    wrong = sum(bool(result["faults"]) for result in results)
    heading = [f"{len(results)} drills of {layout}: {wrong or 'none'} left the run any worse"]
    output.print_tables(heading, [table])
