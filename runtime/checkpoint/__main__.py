"""`python -m runtime.checkpoint inspect|verify|reshard`: a checkpoint's contents, whether it is intact, and
the same in the files of another layout."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from planner import Problem, StrategyError, build_plan, load
from planner.exit_codes import ExitCode
from planner.standard_streams import find_output_failure, run_program
from planner.terminal_text import make_console
from runtime.checkpoint import commit
from runtime.checkpoint.compatibility import meta_faults
from runtime.checkpoint.manifest import MANIFEST_NAME, CheckpointError, CheckpointInfo
from runtime.checkpoint.store import find_damage, newest, open_checkpoint

OUTPUT_VERSION = 2
_PROGRESS_S = 10.0

Folder = Annotated[Path, typer.Argument(help="a run, its checkpoints folder, or one checkpoint")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Inspect, verify and reshard checkpoints.",
)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        app(prog_name="python -m runtime.checkpoint")
    except Exception:
        if find_output_failure() is None:
            traceback.print_exc()
        sys.exit(ExitCode.INTERNAL_ERROR)


@app.command()
def verify(folder: Folder, as_json: AsJson = False) -> None:
    """Read every file of every checkpoint in FOLDER and compare its hash. Exit code 1 if one is damaged."""
    verdicts = {path: _damage(path) for path in _checkpoints(folder)}
    is_intact = not any(verdicts.values())
    if as_json:
        found = [{"folder": str(path), "damage": list(damage)} for path, damage in verdicts.items()]
        _print_json({"intact": is_intact, "checkpoints": found})
    else:
        console = make_console(highlight=False, soft_wrap=True)
        for path, damage in verdicts.items():
            verdict = ("damaged", "red") if damage else ("intact", "green")
            console.print(Text.assemble(f"{path}: ", verdict))
            for line in damage:
                console.print(f"  {line}", markup=False)
    raise typer.Exit(ExitCode.OK if is_intact else ExitCode.NEGATIVE)


@app.command()
def inspect(folder: Folder, as_json: AsJson = False) -> None:
    """Show the contents of a checkpoint, the newest in FOLDER, without checking hashes (see verify)."""
    path = _checkpoints(folder)[0]
    try:
        info = open_checkpoint(path)
    except CheckpointError as error:
        _end_damaged(error)
    facts = _facts(info)
    if as_json:
        tensors = {
            name: {kind: {"shape": tensor.shape, "dtype": tensor.dtype} for kind, tensor in kinds.items()}
            for name, kinds in info.manifest.tensors.items()
        }
        _print_json({**facts, "tensors": tensors})
        return
    # Names are not cut when the output is piped: people search for them.
    width = None if sys.stdout.isatty() else 1000
    console = make_console(highlight=False, soft_wrap=True, width=width)
    for key, value in facts.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        console.print(f"{key.replace('_', ' '):20} {text}", markup=False)
    console.print(_table(info))


@app.command(name="reshard")
def reshard_command(
    folder: Folder,
    strategy: Annotated[str, typer.Argument(help="the strategy whose ranks get a file each")],
    out: Annotated[Path, typer.Argument(help="a new folder, for output.resume")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value of the strategy")] = None,
) -> None:
    """Write the newest intact checkpoint in FOLDER once more, in the files of another layout's ranks.

    No run needs it: every layout reads every checkpoint.
    """
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        problem = Problem(
            code="SW832",
            file=str(out),
            found="it exists and is not empty",
            expected="a folder that does not exist yet",
            fix=f"give another name, such as {out}-2",
        )
        _print_problems((problem,))
    _checkpoints(folder)
    try:
        plan = build_plan(load(strategy, overrides or ()))
    except StrategyError as error:
        _print_problems(error.problems)
    from runtime.checkpoint.reshard import reshard  # takes seconds: DeepSpeed

    console = make_console(stderr=True, highlight=False, soft_wrap=True)
    shown_at = time.monotonic()

    def show(rank: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > _PROGRESS_S:
            shown_at = time.monotonic()
            console.print(f"{rank + 1:,} of {plan.world_size:,} ranks' files are written")

    try:
        info = newest(folder)
        assert info is not None
        written = reshard(info, plan, out, show)
    except CheckpointError as error:
        _end_damaged(error)
    print(written)


def _facts(info: CheckpointInfo) -> dict[str, Any]:
    meta = info.meta
    num_parameters = sum(
        kinds["weight"].num_elements for kinds in info.manifest.tensors.values() if "weight" in kinds
    )
    return {
        "folder": str(info.folder),
        "step": info.step,
        "attempt": meta.attempt,
        "num_files": len(info.manifest.files),
        "num_bytes": info.num_bytes,
        "num_parameters": num_parameters,
        "model_fingerprint": meta.model_fingerprint,
        "recipe_fingerprint": meta.recipe_fingerprint,
        "layout": meta.layout,
        "counters": meta.counters,
    }


def _table(info: CheckpointInfo) -> Table:
    table = Table("tensor", "shape", "kinds", box=None, pad_edge=False, header_style="bold")
    for name, kinds in info.manifest.tensors.items():
        shapes = Counter(tensor.shape for tensor in kinds.values())
        largest = max(shapes, key=prod)
        listed = ", ".join(f"{kind} {tensor.dtype}" for kind, tensor in kinds.items())
        table.add_row(name, "×".join(map(str, largest)) or "scalar", listed)
    return table


def _damage(path: Path) -> tuple[str, ...]:
    try:
        info = open_checkpoint(path)
        faults = (f"SW802 {MANIFEST_NAME}: {fault}" for fault in meta_faults(info.meta))
        return (*faults, *find_damage(info))
    except CheckpointError as error:
        return (str(error),)


def _checkpoints(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        _refuse(folder, "no such folder", "a run, its checkpoints folder, or one checkpoint")
    try:
        paths = commit.candidates(folder)
    except CheckpointError as error:
        _end_damaged(error)
    if not paths:
        _refuse(
            folder, "no checkpoint in it", f"folders such as {commit.step_name(100)} with a manifest.json"
        )
    return paths


def _end_damaged(error: CheckpointError) -> NoReturn:
    make_console(stderr=True, highlight=False, soft_wrap=True).print(str(error), markup=False)
    raise typer.Exit(ExitCode.NEGATIVE) from error


def _print_problems(problems: Sequence[Problem]) -> NoReturn:
    console = make_console(stderr=True, highlight=False, soft_wrap=True)
    for problem in problems:
        console.print(str(problem), markup=False)
    raise typer.Exit(ExitCode.WRONG_INPUT)


def _refuse(folder: Path, found: str, expected: str) -> NoReturn:
    problem = Problem(
        code="SW831",
        file=str(folder),
        found=found,
        expected=expected,
        fix="pass the folder of a run with checkpoints, such as runs/tiny_cpu",
    )
    _print_problems((problem,))


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps({"schema_version": OUTPUT_VERSION, **content}))


if __name__ == "__main__":
    run_program(main)
