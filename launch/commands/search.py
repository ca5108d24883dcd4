"""The `search` command: all legal plans of a cluster and model, ranked; one is written as a strategy."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.arguments import only_overrides
from launch.cli.command import command
from launch.cli.options import HardwareFile, Overrides, StrategyFile
from launch.cli.output import CommandOutput
from launch.commands.picture import save_picture
from launch.commands.prediction import device_for
from planner import Problem, StrategyError, load
from planner.exit_codes import ExitCode
from planner.strategy.schema import Strategy

if TYPE_CHECKING:
    from planner.hardware.catalog import Device
    from planner.report.search_report import SearchView
    from planner.report.tables import Table
    from planner.search.search import Search
    from planner.search.selection import Order

_ROWS = 12  # on a terminal
# What a search chooses itself, at its smallest: legal on every cluster, with every model and batch.
_SEARCHED = {
    "parallel.placement": "colocated",
    "parallel.rank_order": "document",
    "parallel.ep": 1,
    "parallel.tp": 1,
    "parallel.pp": 1,
    "parallel.dp": 1,
    "parallel.layers_per_stage": "null",
    "parallel.zero_stage": 1,
    "training.micro_batch": 1,
}
_VARIED = ("precision", "global_batch")
_TITLES = {"throughput": "predicted tokens/s", "gpus": "GPUs used", "cost": "predicted cost of a token"}


@command
def search(
    output: CommandOutput,
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
    by: Annotated[
        str, typer.Option("--by", help="order: throughput, gpus (the fewest) or cost")
    ] = "throughput",
    trainable: Annotated[bool, typer.Option("--trainable", help="only plans that train.py runs")] = False,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="draw throughput over GPUs and steps by cause (SVG)",
            show_default=False,
        ),
    ] = None,
    hardware: HardwareFile = None,
) -> ExitCode:
    """Rank all legal plans, those that train.py runs first; show the Pareto front."""
    from planner.report.ledger import error_bar, read_ledger
    from planner.report.search_notes import search_heading, search_notes, why_nothing
    from planner.report.search_report import SearchView, search_dict
    from planner.search.search import search as find
    from planner.search.selection import only_trainable, order_rows
    from planner.search.trainable import missing_of

    given, problems = _load(strategy, only_overrides(overrides), hardware)
    device, varied, order = device_for(given, hardware), _split_varied(vary), _order(by)
    found = find(given, device, varied)
    missing = missing_of(found.rows)
    found = order_rows(only_trainable(found, missing) if trainable else found, order, missing)
    error = error_bar(read_ledger(Path(given.output.folder)), given)
    view = SearchView(found=found, missing=missing, by=order, varied=varied, error=error)
    if write is not None:
        _write_row(found, write[0], write[1])
    if plot is not None:
        save_picture(_picture(given.name, found, device), plot, "--plot")
    code = ExitCode.OK if found.rows else ExitCode.NEGATIVE
    if found.rows and not output.is_json:
        notes = tuple(search_notes(given, problems, view, device))
    else:
        notes = () if found.rows else (why_nothing(given, view, is_trainable_only=trainable),)
    if output.is_json:
        content = search_dict(view, num_rows) | {"why_nothing": notes[0] if notes else None}
        return output.print_json(
            code, content | {"problems_as_written": [problem.as_json() for problem in problems]}
        )
    heading = search_heading(given, view, is_trainable_only=trainable)
    output.print_tables(heading, tuple(_tables(view, num_rows)), notes)
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


def _tables(view: "SearchView", num_rows: int) -> "list[Table]":
    from planner.report.search_report import search_table
    from planner.search.selection import thin_evenly

    rows, front = view.found.rows[:num_rows], view.found.pareto
    order = _TITLES[view.by] + (", trainable plans first" if view.is_mixed else "")
    tables = [search_table(f"The first {len(rows)}, by {order}", rows, view)] if rows else []
    if front:
        shown = thin_evenly(front, num_rows)
        number = f"{len(shown)} of {len(front)}" if len(shown) < len(front) else str(len(front))
        title = f"Pareto front ({number}): throughput, GPUs used, memory headroom"
        tables.append(search_table(title, shown, view))
    return tables


def _picture(name: str, found: "Search", device: "Device") -> str:
    from planner.prediction.breakdown import step_causes
    from planner.prediction.predict import predict
    from planner.report.search_svg import search_svg
    from planner.search.selection import thin_evenly

    rows = thin_evenly(found.pareto, _ROWS)
    steps = [(row, step_causes(row.plan, predict(row.plan, device).stages)) for row in rows]
    return search_svg(name, found, steps)


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


def _order(text: str) -> "Order":
    from planner.search.selection import ORDERS

    for order in ORDERS:
        if text == order:
            return order
    problem = Problem(
        code="SW494",
        found=f"--by: unknown order {text!r}",
        expected=f"one of: {', '.join(ORDERS)}",
        fix="--by cost",
    )
    raise StrategyError([problem])


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
    text = f"# row {number} of a search: {row.parallel.layout_name.lower()}\n{full_strategy(strategy)}"
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
