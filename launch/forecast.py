"""The commands that look ahead and back: the prediction in `plan`, `search`, `ledger`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.answer import NO, YES, is_terminal, print_json
from launch.words import refuse_second
from planner import Plan, Problem, StrategyError, load
from planner.hardware import Device, calibration_path, device_of
from planner.portion import Load
from planner.strategy import Strategy

Work = Callable[[], int]
_ROWS = 12  # of a search, on a terminal


def device_for(strategy: Strategy, hardware: str | None) -> Device:
    """The device of a strategy: of the file given, else of a calibration beside the runs, else as shipped."""
    if hardware is not None:
        return device_of(strategy.cluster.gpu, Path(hardware))
    return device_of(strategy.cluster.gpu, calibration_path(strategy.output.folder))


def prediction_answer(built: Plan, hardware: str | None, load: Load) -> dict[str, Any]:
    """The prediction of a plan for --json."""
    from planner.forecast import prediction_dict

    prediction, run, checks, bar = foresee(built, hardware, load)
    return prediction_dict(built, prediction, run, checks, bar)


def print_prediction(built: Plan, foreseen: Any, *, is_plain: bool) -> None:
    """What `foresee` found, below the plan's tables."""
    from planner.forecast import cause_table, forecast_lines, limit_notes, limit_table, phase_table
    from planner.report import print_tables

    prediction, run, checks, bar = foreseen
    print()
    print_tables(
        ("Prediction", *(f"  {line}" for line in forecast_lines(built, prediction, run, bar))),
        (phase_table(prediction), cause_table(built, prediction), limit_table(checks)),
        (*limit_notes(checks), *(f"assumed: {line}" for line in prediction.assumptions)),
        sys.stdout,
        is_plain=is_plain,
    )


def foresee(built: Plan, hardware: str | None, load: Load) -> Any:
    """The prediction of a plan, its whole run, its limits, and the error bar of such predictions so far."""
    from planner.ledger import error_bar, read_ledger
    from planner.outlook import limit_checks, whole_run
    from planner.predict import predict

    prediction = predict(built, device_for(built.strategy, hardware), load=load)
    bar = error_bar(read_ledger(Path(built.strategy.output.folder)), built.strategy)
    return prediction, whole_run(built, prediction), limit_checks(built, prediction), bar


def search(
    strategy: Annotated[str, typer.Argument(help="a strategy in YAML")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value …", show_default=False)] = None,
    is_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    is_plain: Annotated[
        bool, typer.Option("--plain", help="text without colour and lines, for logs")
    ] = False,
    vary: Annotated[
        str, typer.Option("--vary", help="also other values of: precision, global_batch", show_default=False)
    ] = "",
    num_rows: Annotated[int, typer.Option("--rows", help="how many to show", min=1)] = _ROWS,
    write: Annotated[
        tuple[int, str] | None,
        typer.Option("--write", metavar="N FILE", help="write row N as a strategy", show_default=False),
    ] = None,
    hardware: Annotated[
        str | None, typer.Option("--hardware", help="a calibration", show_default=False)
    ] = None,
) -> Work:
    """All legal plans of the cluster, ranked by predicted tokens/s, and the Pareto front."""

    def work() -> int:
        from planner.forecast import search_dict, search_table
        from planner.report import print_tables
        from planner.search import search as find

        refuse_second(overrides or ())
        given = load(strategy, overrides or ())
        found = find(given, device_for(given, hardware), _varied(vary))
        if write is not None:
            _write_row(found, write[0], write[1])
        if is_json:
            print_json("search", YES if found.rows else NO, search_dict(found, num_rows))
        else:
            rows = tuple(row.exact() for row in found.rows[:num_rows])
            title = f"The fastest {len(rows)}, by predicted tokens/s"
            tables = [search_table(title, rows, found)] if rows else []
            if found.pareto:
                title = "Pareto front: throughput, GPUs used, memory headroom"
                tables.append(search_table(title, found.pareto, found))
            print_tables(
                tuple(_search_heading(given, found)),
                tables,
                _search_notes(given, found, device_for(given, hardware)),
                sys.stdout,
                is_plain=is_plain or not is_terminal(sys.stdout),
            )
        return YES if found.rows else NO

    return work


def _search_heading(given: Strategy, found: Any) -> tuple[str, ...]:
    training = given.training
    return (
        *found.lines,
        f"{given.name}: {found.num_legal:,} legal plans for {found.num_gpus:,} GPUs, "
        f"{found.num_too_large:,} of them do not fit the memory",
        f"held: the model, {training.precision}, {training.global_batch} × {training.seq_length} tokens",
    )


def _search_notes(given: Strategy, found: Any, device: Device) -> list[str]:
    """Why the first row beats the strategy as it is written, and what this version cannot run of it."""
    from planner import build_plan
    from planner.predict import predict
    from planner.runnable import runnable
    from planner.search import why_better
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
    lines = []
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
    from planner.artifacts import full_strategy

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


def _refuse_unknown_runs(folder: Path, runs: Sequence[str]) -> None:
    problems = [
        Problem(
            path=None,
            line=None,
            found=f"{folder / run}: it has no telemetry.jsonl",
            expected=f"the name of a run in {folder}",
            fix="correct the name, or give the folder of the runs with --folder",
        )
        for run in runs
        if not (folder / run / "telemetry.jsonl").is_file()
    ]
    if problems:
        raise StrategyError(problems)


def ledger(
    runs: Annotated[
        list[str] | None, typer.Argument(help="runs by name; none: all", show_default=False)
    ] = None,
    folder: Annotated[str, typer.Option("--folder", help="the folder of the runs")] = "runs",
    is_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    is_plain: Annotated[
        bool, typer.Option("--plain", help="text without colour and lines, for logs")
    ] = False,
) -> Work:
    """Predicted beside measured, over all runs of a folder."""

    def work() -> int:
        from planner.ledger import ledger_tables, read_ledger
        from planner.report import print_tables

        _refuse_unknown_runs(Path(folder), runs or ())
        entries = read_ledger(Path(folder), runs or ())
        if is_json:
            content = [
                {
                    "run": entry.run,
                    "layout": entry.layout,
                    "gpu": entry.gpu,
                    "steps": entry.num_steps,
                    "predicted": dict(entry.predicted),
                    "measured": dict(entry.measured),
                    "error": {name: entry.error(name) for name in entry.measured},
                }
                for entry in entries
            ]
            print_json("ledger", YES if entries else NO, {"runs": content})
        elif not entries:
            print(f"no run under {folder} has steps with a prediction yet", file=sys.stderr)
        else:
            errors = [abs(entry.error("step_s") or 0.0) for entry in entries]
            within = sum(error <= 0.15 for error in errors)
            print_tables(
                (f"{len(entries)} runs under {folder}; {within} predicted within 15 % of the step",),
                ledger_tables(entries),
                ("medians over the steps of a run, the first five of each attempt left out",),
                sys.stdout,
                is_plain=is_plain or not is_terminal(sys.stdout),
            )
        return YES if entries else NO

    return work
