"""Programs of runtime/ that are started by name: their help, and stdout that takes no answer."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import runtime.attempts
import runtime.checkpoint.__main__
import runtime.generate
from planner import Problem, __version__
from tests.support.shell import run_in_shell


@pytest.mark.parametrize("app", [runtime.attempts.app, runtime.checkpoint.__main__.app, runtime.generate.app])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_0(app: typer.Typer, option: str) -> None:
    result = CliRunner().invoke(app, [option])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Usage:" in result.stdout


PROGRAMS = [
    *(["-m", f"runtime.{name}"] for name in ("attempts", "checkpoint", "generate", "probe")),
    *(["-m", name] for name in ("launch", "launch.job", "planner.generated", "benchmarks.published")),
    *(["-m", f"benchmarks.{name}"] for name in ("accuracy", "calibrate", "count_ops")),
    ["train.py"],
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program[-1])
def test_version_is_0(program: list[str]) -> None:
    done = run_in_shell([*program, "--version"], "")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"switchyard {__version__}\n", "")


# Programs that load torch before they print their help.
HEAVY = ("runtime.checkpoint", "runtime.generate", "benchmarks.calibrate", "benchmarks.count_ops")


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, id=program[-1], marks=[pytest.mark.slow] if program[-1] in HEAVY else [])
        for program in PROGRAMS
    ],
)
def test_answer_that_cannot_be_printed_is_one_line_and_3(program: list[str]) -> None:
    done = run_in_shell([*program, "--help"], ">/dev/full")
    assert (done.returncode, done.stderr) == (
        3,
        "SW497 the answer could not be printed: stdout: no space left on device\n",
    )


@pytest.mark.parametrize("program", [["train.py"], ["-m", "launch.job"], ["-m", "runtime.probe"]])
def test_version_without_stdout_is_one_line_and_3(program: list[str]) -> None:
    done = run_in_shell([*program, "--version"], ">&-")
    assert (done.returncode, done.stderr) == (
        3,
        "SW497 the answer could not be printed: stdout: it is closed\n",
    )


@pytest.mark.parametrize("is_shown", [False, True])
def test_a_recorded_failure_is_printed_unless_the_launch_has_shown_it(tmp_path: Path, is_shown: bool) -> None:
    run, reason = tmp_path / "run", tmp_path / "reason"
    problem = Problem(code="SW445", found="the ranks of node2 ended", expected="ranks", fix="repair node2")
    reason.write_text(json.dumps(problem.as_json()))
    if is_shown:
        (tmp_path / "guarded").touch()
    result = CliRunner().invoke(runtime.attempts.app, ["record-failure", str(run), str(reason), "1"])
    assert (result.exit_code, result.stderr) == (0, "" if is_shown else f"{problem}\n")
    assert json.loads((run / "failed.json").read_text())["problems"] == [problem.as_json()]


def test_ranks_that_left_no_reason_are_recorded_as_such(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = CliRunner().invoke(
        runtime.attempts.app, ["record-failure", str(run), str(tmp_path / "no"), "137"]
    )
    assert "SW447 the ranks ended without a reason; their launcher ended with exit code 137" in result.stderr
    assert json.loads((run / "failed.json").read_text())["problems"][0]["code"] == "SW447"
