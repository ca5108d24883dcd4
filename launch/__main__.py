"""The commands: python -m launch COMMAND STRATEGY [key=value …] [--json] [--plain]."""

import difflib
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from launch.cli.arguments import refuse_second, strategies_among
from launch.cli.options import AsJson, Calibration, Overrides, Plain, StrategyFile, Work
from launch.cli.output import BROKE, STOPPED, YES, is_terminal, print_json, print_problems
from launch.commands.compare import compare
from launch.commands.fallback import fallback
from launch.commands.hf_model import answer_model, no_strategy, print_ignored, print_memory
from launch.commands.picture import one_plan_only, write_picture
from launch.commands.prediction import foresee, ledger, prediction_answer, print_prediction
from launch.commands.preflight import preflight
from launch.commands.search import search
from planner import Plan, Problem, StrategyError, build_plan, load
from planner.counts.rank_workload import Load

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Plan the training of Mixture-of-Experts models.",
)


@app.callback()
def _commands() -> None:
    """Plan the training of Mixture-of-Experts models."""  # makes typer keep `plan` as a subcommand


@app.command()
def plan(
    strategy: Annotated[
        str | None, typer.Argument(help="a strategy in YAML; not needed with --from", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="a second strategy to compare it with; key=value …", show_default=False),
    ] = None,
    is_json: AsJson = False,
    is_plain: Plain = False,
    is_full: Annotated[
        bool, typer.Option("--full", help="also the whole strategy, defaults included")
    ] = False,
    hardware: Calibration = None,
    balance: Annotated[
        float,
        typer.Option(
            "--balance",
            help="expert tokens of the mean rank over those of the fullest",
            min=0.001,
            max=1.0,
            show_default=True,
        ),
    ] = 1.0,
    model_from: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FOLDER", help="the model of a Hugging Face config.json", show_default=False
        ),
    ] = None,
    svg: Annotated[
        str | None,
        typer.Option("--svg", metavar="FILE", help="also draw the plan as an SVG file", show_default=False),
    ] = None,
) -> Work:
    """What follows from a strategy: stages, ranks, hosts, groups, batch, memory, time. Two: side by side."""

    def work() -> int:
        others, changes = strategies_among(overrides or [])
        if svg is not None and (strategy is None or others):
            raise one_plan_only()
        if strategy is None:
            if model_from is None:
                raise no_strategy()
            plainly = is_plain or not is_terminal(sys.stdout)
            return answer_model(model_from, is_json=is_json, is_plain=plainly)
        expert_load = Load(imbalance=1 / balance)
        if others:
            return compare(
                [strategy, *others],
                changes,
                hardware=hardware,
                expert_load=expert_load,
                model_from=model_from,
                plan_of=lambda built: _as_json(built, expert_load, is_full),
                is_json=is_json,
                is_plain=is_plain or not is_terminal(sys.stdout),
                is_full=is_full,
            )
        built = build_plan(load(strategy, changes, model_from=model_from))
        if svg is not None:
            write_picture(built, svg)
        if is_json:
            prediction = prediction_answer(built, hardware, expert_load)
            answer = {"plan": _as_json(built, expert_load, is_full), "prediction": prediction}
            print_json("plan", YES, answer)
        else:
            from planner.report.plan_report import print_plan

            # Before anything is printed: a wrong --hardware must not leave half an answer.
            foreseen = foresee(built, hardware, expert_load)
            plainly = is_plain or not is_terminal(sys.stdout)
            print_plan(built, sys.stdout, is_plain=plainly, is_full=is_full)
            print_memory(built, expert_load, is_plain=plainly)
            print_ignored(built)
            print_prediction(built, foreseen, is_plain=plainly)
        return YES

    return work


app.command()(search)
app.command()(ledger)
app.command()(fallback)
app.command()(preflight)


@app.command()
def audit(
    strategy: StrategyFile,
    overrides: Overrides = None,
    is_json: AsJson = False,
    is_plain: Plain = False,
) -> Work:
    """Each claim beside what is derived, load balance, compatibility checks; 1 when one does not hold."""

    def work() -> int:
        from launch.commands.audit import run_audit

        refuse_second(overrides or ())
        return run_audit(strategy, overrides or (), is_json=is_json, is_plain=is_plain)

    return work


@app.command()
def explain(
    code: Annotated[str, typer.Argument(help="an error code, for example SW201")],
    is_json: AsJson = False,
) -> Work:
    """Cause, example and fix of an error code."""

    def work() -> int:
        from launch.commands.explain import explain as answer

        return answer(code, is_json=is_json)

    return work


@app.command()
def generate(
    strategy: StrategyFile,
    overrides: Overrides = None,
    is_json: AsJson = False,
    is_plain: Annotated[bool, typer.Option("--plain", help="the same: nothing of it is coloured")] = False,
) -> Work:
    """The files of a launch, in the run's folder: hostfile, env, launch.sh, launch.sbatch and the plan's."""

    def work() -> int:
        from launch.commands.generate import generate as write

        refuse_second(overrides or ())
        return write(strategy, overrides or (), is_json=is_json)

    return work


def _as_json(built: Plan, expert_load: Load, is_full: bool) -> dict[str, Any]:
    from planner.plan.serialization import plan_dict
    from planner.report.memory_report import memory_dict

    content = {**plan_dict(built), "memory": memory_dict(built, expert_load)}
    if is_full:
        content["strategy"] = built.strategy.model_dump(mode="json", context={"text": True})
    return content


def main(arguments: list[str]) -> int:
    """Runs one command and returns the process's exit code; users never see a traceback.

    SWITCHYARD_DEBUG=1 shows the traceback of what broke.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no crash
    is_json = "--json" in arguments
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        work = _read_arguments(arguments, command)
        code = work() if work is not None else YES
        sys.stdout.flush()
    except StrategyError as error:
        code = print_problems(command, error.problems, is_json=is_json)
    except KeyboardInterrupt:
        code = STOPPED
    except BrokenPipeError:
        # The reader has seen enough (`| head`); nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = YES
    except Exception as error:
        if os.environ.get("SWITCHYARD_DEBUG") == "1":
            traceback.print_exc()
        what = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"something broke that is no mistake of yours: {what}", file=sys.stderr)
        print("  SWITCHYARD_DEBUG=1 shows where", file=sys.stderr)
        if is_json:
            print_json(command, BROKE, {"error": what})
        code = BROKE
    return code


def _read_arguments(arguments: list[str], command: str | None) -> Work | None:
    """The work that is asked for, or None when the help was printed."""
    wants_help = "--help" in arguments
    known = sorted(
        str(info.name or info.callback.__name__) for info in app.registered_commands if info.callback
    )
    if command not in known and not wants_help:
        raise StrategyError([_unknown_command(command, known)])
    try:
        work = app(arguments, prog_name="python -m launch", standalone_mode=False)
    except Exception as error:
        # typer's parser raises the errors of its own copy of click, or of click itself, by version.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        usage = f"python -m launch {command or 'COMMAND'} STRATEGY [key=value …]"
        raise StrategyError([_usage(str(explain()).rstrip("."), usage)]) from None
    return work if callable(work) else None


def _unknown_command(command: str | None, known: list[str]) -> Problem:
    close = difflib.get_close_matches(command or "", known, n=1)
    found = "no command is given" if command is None else f"there is no command {command!r}"
    if close:
        found += f"; did you mean {close[0]}?"
    fix = f"python -m launch {close[0] if close else known[0]} STRATEGY"
    return Problem(path=None, line=None, found=found, expected=f"one of: {', '.join(known)}", fix=fix)


def _usage(found: str, usage: str) -> Problem:
    return Problem(path=None, line=None, found=found, expected=usage, fix="add --help to see the options")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
