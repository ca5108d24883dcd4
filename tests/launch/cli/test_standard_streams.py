"""stdout that is closed, full or without a reader: one line and code 3, never a traceback, never 1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shell import run_in_shell

ROOT = Path(__file__).parents[3]
PLAN = ["-m", "launch", "plan", "ds_configs/tiny_cpu.yaml"]


@pytest.mark.parametrize(("redirection", "why"), [(">&-", "it is closed"), (">/dev/full", "no space")])
@pytest.mark.parametrize(
    ("arguments", "num_before"),
    [
        ([*PLAN, "--json"], 0),
        (PLAN, 0),
        ([*PLAN, "training.seed=-1", "--json"], 3),  # the Problem's three lines come first
        (["-m", "launch", "--help"], 0),
        (["-m", "launch", "--version"], 0),
    ],
)
def test_answer_that_cannot_be_printed_is_one_line_and_3(
    arguments: list[str], num_before: int, redirection: str, why: str
) -> None:
    done = run_in_shell(arguments, redirection)
    *before, last = done.stderr.splitlines()
    assert (done.returncode, len(before)) == (3, num_before)
    assert last.startswith(f"SW497 the answer could not be printed: stdout: {why}")


def without_reader(arguments: list[str]) -> tuple[int, str]:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [PLAN, ["-m", "launch", "--help"]])
def test_reader_that_has_enough_of_a_text_is_no_error(arguments: list[str]) -> None:
    assert without_reader(arguments) == (0, "")


def test_half_an_object_is_3() -> None:
    assert without_reader([*PLAN, "--json"]) == (
        3,
        "SW497 the answer could not be printed: stdout: broken pipe\n",
    )


def test_problems_without_stderr_stay_out_of_the_answer() -> None:
    done = run_in_shell([*PLAN, "training.seed=-1", "--json"], "2>&-")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (2, 2)


def test_neither_stream_is_3() -> None:
    done = run_in_shell(PLAN, ">&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("program", ["launch.job", "planner.generated"])
def test_help_of_a_program_is_0_and_does_nothing(program: str, option: str) -> None:
    done = run_in_shell(["-m", program, option], "")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
