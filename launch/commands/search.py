"""The `search` command: every legal plan of a cluster and model, ranked, and one of them written out."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.arguments import refuse_second
from launch.cli.options import AsJson, Calibration, Overrides, Plain, StrategyFile, Work
from launch.cli.output import NO, YES, is_terminal, print_json
from launch.commands.prediction import device_for
from planner import Problem, StrategyError, load
from planner.hardware.catalog import Device
from planner.strategy.schema import Strategy

_ROWS = 12  # on a terminal
# What a search chooses itself, at its smallest: legal on every cluster, with every model and batch.
_CHOSEN = {
    "parallel.placement": "colocated",
    "parallel.rank_order": "document",
    "parallel.ep": 1,
    "parallel.tp": 1,
    "parallel.pp": 1,
    "parallel.dp": 1,
    "parallel.zero_stage": 1,
    "training.micro_batch": 1,
}


def search(
    strategy: StrategyFile,
    overrides: Overrides = None,
    is_json: AsJson = False,
    is_plain: Plain = False,
    vary: Annotated[
        str, typer.Option("--vary", help="also other values of: precision, global_batch", show_default=False)
    ] = "",
    num_rows: Annotated[int, typer.Option("--rows", help="how many to show", min=1)] = _ROWS,
    write: Annotated[
        tuple[int, str] | None,
        typer.Option("--write", metavar="N FILE", help="write row N as a strategy", show_default=False),
    ] = None,
    hardware: Calibration = None,
) -> Work:
    """All legal plans of the cluster, ranked by predicted tokens/s, and the Pareto front."""

    def work() -> int:
        from planner.report.plan_report import print_tables
        from planner.report.prediction_report import search_dict, search_table
        from planner.search.search import search as find

        refuse_second(overrides or ())
        given, problems = _load(strategy, overrides or ())
        device = device_for(given, hardware)
        found = find(given, device, _varied(vary))
        if write is not None:
            _write_row(found, write[0], write[1])
        if is_json:
            wrong = {"problems_as_written": [problem.as_json() for problem in problems]}
            print_json("search", YES if found.rows else NO, search_dict(found, num_rows) | wrong)
        else:
            rows = found.rows[:num_rows]
            title = f"The fastest {len(rows)}, by predicted tokens/s"
            tables = [search_table(title, rows, found)] if rows else []
            if found.pareto:
                title = "Pareto front: throughput, GPUs used, memory headroom"
                tables.append(search_table(title, found.pareto, found))
            print_tables(
                tuple(_search_heading(given, found)),
                tables,
                _search_notes(given, problems, found, device),
                sys.stdout,
                is_plain=is_plain or not is_terminal(sys.stdout),
            )
        return YES if found.rows else NO

    return work


def _load(path: str, overrides: Sequence[str]) -> tuple[Strategy, tuple[Problem, ...]]:
    """The strategy; where only its layout is not legal, one with another, and what is wrong with its own.

    Raises:
        StrategyError: if anything else is wrong.
    """
    try:
        return load(path, overrides), ()
    except StrategyError as error:
        if not all(_is_of_layout(problem.path or "") for problem in error.problems):
            raise
        others = [text for text in overrides if text.partition("=")[0] not in _CHOSEN]
        smallest = [f"{key}={value}" for key, value in _CHOSEN.items()]
        try:
            return load(path, [*others, *smallest]), tuple(error.problems)
        except StrategyError:
            raise error from None


def _is_of_layout(path: str) -> bool:
    return path.split(".")[0] == "parallel" or path in ("training.micro_batch", "training.global_batch")


def _search_heading(given: Strategy, found: Any) -> tuple[str, ...]:
    training = given.training
    return (
        *found.lines,
        f"{given.name}: {found.num_legal:,} legal plans for {found.num_gpus:,} GPUs, "
        f"{found.num_too_large:,} of them do not fit the memory",
        f"held: the model, {training.precision}, {training.global_batch} × {training.seq_length} tokens",
    )


def _search_notes(given: Strategy, problems: Sequence[Problem], found: Any, device: Device) -> list[str]:
    """Why the first row beats the strategy as it is written, and what this version cannot run of it."""
    from planner import build_plan
    from planner.prediction.predict import predict
    from planner.rules.not_implemented import runnable
    from planner.search.search import why_better
    from planner.units import format_bytes

    if not found.rows:
        if not found.num_legal:
            return ["no layout is legal on this cluster: see `plan` for what is wrong with one"]
        cluster, limits = given.cluster, given.limits
        most = format_bytes(min(cluster.gpu.memory, limits.memory_max))
        return [
            f"no legal plan fits the {most} of a rank (cluster.gpu.memory, limits.memory_max), not with "
            "recompute either: it takes more GPUs, a smaller model or batch, or a higher limit"
        ]
    lines = [f"not legal as written: {problem.path}: {problem.found}" for problem in problems]
    if not problems:
        base = predict(build_plan(given), device)
        rank = sum(row.tokens_per_s > base.tokens_per_s * 1.000001 for row in found.rows)
        lines.append(
            f"{given.parallel.short_name} {given.parallel.placement} as written: {base.tokens_per_s:,.0f} "
            f"tokens/s; {rank:,} plans are faster"
        )
        if rank:
            lines.append(f"row 1 against it: {why_better(found.rows[0], base, device)}")
    can_run = next((n for n, row in enumerate(found.rows, 1) if not _missing(row.strategy, runnable)), None)
    missing = _missing(found.rows[0].strategy, runnable)
    if missing:
        fastest = "none of the rows" if can_run is None else f"row {can_run}"
        lines.append(
            f"this version cannot train row 1 yet ({', '.join(missing)}); the fastest it can: {fastest}"
        )
    lines.append("recompute is tried only where a plan does not fit without it; spare hosts are used too")
    return lines


def _missing(strategy: Strategy, runnable: Callable[[Strategy], tuple[Problem, ...]]) -> list[str]:
    return [str(problem.path) for problem in runnable(strategy)]


def _varied(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in ("precision", "global_batch")]
    if unknown:
        raise StrategyError(
            [
                Problem(
                    path=None,
                    line=None,
                    found=f"--vary {unknown[0]!r} is not known",
                    expected="precision, global_batch, or both with a comma",
                    fix="--vary precision,global_batch",
                )
            ]
        )
    return names


def _write_row(found: Any, number: int, file: str) -> None:
    """Row N as a whole strategy; an existing file is left alone."""
    from planner.plan.serialization import full_strategy

    path = Path(file)
    if not 1 <= number <= len(found.rows):
        problem = ("--write", f"there is no row {number}", f"1 to {len(found.rows)}", "choose one of these")
    elif path.exists():
        problem = ("--write", f"{file} exists", "a new file", "choose another name, or remove it")
    else:
        row = found.rows[number - 1].strategy
        parallel = row.parallel.short_name.lower()
        strategy = row.model_copy(update={"name": path.stem, "claims": ()})
        try:
            path.write_text(
                f"# row {number} of a search: {parallel}\n{full_strategy(strategy)}", encoding="utf-8"
            )
        except OSError as error:
            why = f"{file} cannot be written: {(error.strerror or str(error)).lower()}"
            problem = ("--write", why, "a file in a folder that you may write to", "choose another place")
        else:
            return
    raise StrategyError(
        [
            Problem(
                path=None, line=None, found=f"{problem[0]}: {problem[1]}", expected=problem[2], fix=problem[3]
            )
        ]
    )
