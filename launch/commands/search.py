"""The `search` command: all legal plans of a cluster and model, ranked; one is written as a strategy."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import HardwareFile, Overrides, StrategyFile
from launch.cli.output import Output
from launch.commands.prediction import device_for
from planner import Problem, StrategyError, load
from planner.exit_codes import ExitCode
from planner.hardware.catalog import Device
from planner.strategy.schema import Strategy
from planner.units import plural

if TYPE_CHECKING:
    from planner.report.tables import Table
    from planner.search.search import Search, SearchRow

_ROWS = 12  # on a terminal
# What a search chooses itself, at its smallest: legal on every cluster, with every model and batch.
_SEARCHED = {
    "parallel.placement": "colocated",
    "parallel.rank_order": "document",
    "parallel.ep": 1,
    "parallel.tp": 1,
    "parallel.pp": 1,
    "parallel.dp": 1,
    "parallel.zero_stage": 1,
    "training.micro_batch": 1,
}
_VARIED = ("precision", "global_batch")


@command
def search(
    output: Output,
    strategy: StrategyFile,
    overrides: Overrides = None,
    vary: Annotated[
        str, typer.Option("--vary", help="also vary: precision, global_batch", show_default=False)
    ] = "",
    num_rows: Annotated[int, typer.Option("--rows", help="rows to show", min=1)] = _ROWS,
    write: Annotated[
        tuple[int, str] | None,
        typer.Option("--write", metavar="N FILE", help="write row N as a strategy", show_default=False),
    ] = None,
    hardware: HardwareFile = None,
) -> ExitCode:
    """Rank all legal plans by predicted tokens/s, those that train.py runs first; show the Pareto front."""
    from planner.search.search import search as find

    given, problems = _load(strategy, only_overrides(overrides), hardware)
    device = device_for(given, hardware)
    found, missing = _trainable_first(find(given, device, _split_varied(vary)))
    if write is not None:
        _write_row(found, write[0], write[1])
    code = ExitCode.OK if found.rows else ExitCode.NEGATIVE
    if output.is_json:
        return output.print_json(code, _search_dict(found, missing, num_rows, problems))
    output.print_tables(
        tuple(_heading(given, found)),
        tuple(_tables(found, missing, num_rows)),
        _notes(given, problems, found, missing, device),
    )
    return code


def _load(path: str, overrides: Sequence[str], hardware: str | None) -> tuple[Strategy, tuple[Problem, ...]]:
    """The strategy; if only its layout is illegal, with the smallest layout and the Problems of its own.

    Raises:
        StrategyError: if anything else is wrong.
    """
    try:
        return load(path, overrides, hardware=hardware), ()
    except StrategyError as error:
        if not all(_is_of_layout(problem.path or "") for problem in error.problems):
            raise
        others = [text for text in overrides if text.partition("=")[0] not in _SEARCHED]
        smallest = [f"{key}={value}" for key, value in _SEARCHED.items()]
        try:
            return load(path, [*others, *smallest], hardware=hardware), tuple(error.problems)
        except StrategyError:
            raise error from None


def _is_of_layout(path: str) -> bool:
    return path.split(".")[0] == "parallel" or path in ("training.micro_batch", "training.global_batch")


Missing = dict[int, tuple[str, ...]]  # by id of a row: keys whose value this version does not train yet


def _trainable_first(found: "Search") -> tuple["Search", Missing]:
    """Rows that train.py runs before the others, each in the search's order."""
    from planner.rules.not_implemented import find_unimplemented

    # What a version can train depends on precision and recompute, not on the layout.
    known: dict[tuple[str, str], tuple[str, ...]] = {}
    missing: Missing = {}
    for row in (*found.rows, *found.pareto):
        key = (row.strategy.training.precision, row.strategy.runtime.recompute)
        if key not in known:
            known[key] = tuple(str(problem.path) for problem in find_unimplemented(row.strategy))
        missing[id(row)] = known[key]
    rows = tuple(sorted(found.rows, key=lambda row: bool(missing[id(row)])))
    return replace(found, rows=rows), missing


def _search_dict(
    found: "Search", missing: Missing, num_rows: int, problems: Sequence[Problem]
) -> dict[str, Any]:
    from planner.report.search_report import search_dict

    content = search_dict(found, num_rows)
    for name, rows in (("rows", found.rows), ("pareto", found.pareto)):
        for row, row_dict in zip(rows, content[name], strict=False):  # the first num_rows only
            row_dict["trainable"] = not missing[id(row)]
    return content | {"problems_as_written": [problem.as_json() for problem in problems]}


def _tables(found: "Search", missing: Missing, num_rows: int) -> "list[Table]":
    from planner.report.search_report import search_table

    is_mixed = any(missing.values()) and not all(missing.values())

    def table(title: str, rows: "Sequence[SearchRow]") -> "Table":
        made = search_table(title, rows, found)
        if not is_mixed:
            return made
        marks = ["not yet" if missing[id(row)] else "yes" for row in rows]
        cells = tuple((*cells, mark) for cells, mark in zip(made.rows, marks, strict=True))
        return replace(made, columns=(*made.columns, "trainable"), rows=cells)

    rows = found.rows[:num_rows]
    order = "predicted tokens/s" + (", trainable plans first" if is_mixed else "")
    tables = [table(f"The fastest {len(rows)}, by {order}", rows)] if rows else []
    if found.pareto:
        tables.append(table("Pareto front: throughput, GPUs used, memory headroom", found.pareto))
    return tables


def _heading(given: Strategy, found: "Search") -> tuple[str, ...]:
    training = given.training
    return (
        *found.lines,
        f"{given.name}: {plural(found.num_legal, 'legal plan')} for {plural(found.num_gpus, 'GPU')}, "
        f"{found.num_too_large:,} of them do not fit in memory",
        f"fixed: the model, {training.precision}, {training.global_batch} × {training.seq_length} tokens",
        f"memory of a rank: at most {found.limit}",
    )


def _notes(
    given: Strategy, problems: Sequence[Problem], found: "Search", missing: Missing, device: Device
) -> list[str]:
    """Why the first row beats the strategy as written, and what this version cannot train."""
    from planner import build_plan
    from planner.prediction.predict import predict
    from planner.search.search import why_better

    if not found.rows:
        return [_why_nothing(given, found)]
    lines = [f"not legal as written: {problem.path}: {problem.found}" for problem in problems]
    if not problems:
        base = predict(build_plan(given), device)
        num_faster = sum(row.tokens_per_s > base.tokens_per_s * 1.000001 for row in found.rows)
        lines.append(
            f"{given.parallel.short_name} {given.parallel.placement} as written: {base.tokens_per_s:,.0f} "
            f"tokens/s; {num_faster:,} plans are faster"
        )
        if found.rows[0].tokens_per_s > base.tokens_per_s * 1.000001:
            lines.append(f"row 1 compared with it: {why_better(found.rows[0], base, device)}")
    num_trainable = sum(not missing[id(row)] for row in found.rows)
    if num_trainable < len(found.rows):
        keys = sorted({key for row in found.rows for key in missing[id(row)]})
        which = f"rows from {num_trainable + 1} on" if num_trainable else "any of the rows"
        lines.append(f"this version cannot train {which} yet: {', '.join(keys)}")
    lines.append("recompute is tried only where a plan does not fit without it; spare hosts are used too")
    return lines


def _why_nothing(given: Strategy, found: "Search") -> str:
    if not found.num_legal:
        return "no layout is legal on this cluster; run plan to see what is wrong with one"
    return (
        f"no legal plan fits in {found.limit} a rank, even with recompute: use more GPUs, a smaller model or "
        "batch, or a higher limit"
    )


def _split_varied(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in _VARIED]
    if unknown:
        problem = Problem(
            code="SW486",
            found=f"--vary: unknown name {unknown[0]!r}",
            expected="precision, global_batch, or both separated by a comma",
            fix="--vary precision,global_batch",
        )
        raise StrategyError([problem])
    return names


def _write_row(found: "Search", number: int, file: str) -> None:
    """Writes row N as a complete strategy; an existing file is left alone."""
    from planner.plan.serialization import full_strategy

    path = Path(file)
    if not 1 <= number <= len(found.rows):
        problem = Problem(
            code="SW487",
            found=f"--write: no row {number}",
            expected=f"1 to {len(found.rows)}",
            fix="choose one of these",
        )
        raise StrategyError([problem])
    if path.exists():
        problem = Problem(
            code="SW488",
            found=f"--write: {file} exists",
            expected="a new file",
            fix="choose another name, or remove the file",
        )
        raise StrategyError([problem])
    row = found.rows[number - 1].strategy
    strategy = row.model_copy(update={"name": path.stem, "claims": ()})
    text = f"# row {number} of a search: {row.parallel.short_name.lower()}\n{full_strategy(strategy)}"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        problem = Problem(
            code="SW489",
            found=f"--write: cannot write {file}: {(error.strerror or str(error)).lower()}",
            expected="a file in a writable folder",
            fix="choose another folder",
        )
        raise StrategyError([problem]) from None
