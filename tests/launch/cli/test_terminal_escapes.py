"""Every printer of `python -m launch` and its helpers escapes what a terminal would obey."""

import contextlib
import sys
from pathlib import Path

import pytest

from launch import job
from launch.__main__ import main
from launch.cli.output import CommandOutput
from launch.cli.progress import Progress
from launch.preflight.check import failed
from launch.preflight.report import print_report
from planner import Problem
from tests.launch.preflight.test_report import cpu_plan, report
from tests.support.hostile import CONTROLS, HOSTILE, Streams

TINY = "ds_configs/tiny_cpu.yaml"
OUTPUT = CommandOutput(command="plan", is_json=False, is_plain=True)


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Streams:
    return Streams(tmp_path / "printed", monkeypatch)


@pytest.mark.parametrize("field", ["path", "found", "expected", "fix", "file", "override"])
def test_every_field_of_a_problem(streams: Streams, field: str) -> None:
    streams.open()
    fields = {"code": "SW201", "found": "f", "expected": "e", "fix": "x", field: HOSTILE}
    OUTPUT.print_problems([Problem(**fields)])  # type: ignore[arg-type]
    streams.assert_escaped()


def test_an_internal_error(streams: Streams) -> None:
    streams.open()
    OUTPUT.print_internal_error(ValueError(HOSTILE))
    assert "\x1b" not in streams.printed()
    assert "\\x1b[2J" in streams.printed()


@pytest.mark.parametrize(
    "arguments",
    [
        (HOSTILE,),
        ("plan", HOSTILE),
        ("plan", TINY, f"training.{HOSTILE}=1"),
        ("plan", TINY, f"name={HOSTILE}"),
        ("plan", TINY, f"--{HOSTILE}"),
        ("plan", TINY, f"data.path={HOSTILE}", "--full"),
        ("explain", HOSTILE),
    ],
    ids=["command", "file", "key", "value", "option", "full", "code"],
)
def test_what_is_typed(streams: Streams, arguments: tuple[str, ...]) -> None:
    streams.open()
    main(list(arguments))
    printed = streams.printed()
    assert "x1b" in printed
    streams.assert_nothing_obeyed()


def test_a_hostfile(streams: Streams, tmp_path: Path) -> None:
    streams.open()
    hostfile = tmp_path / "hosts"
    hostfile.write_text(f"{HOSTILE.replace(chr(13), '')} slots=4\n")
    main(["plan", TINY, f"cluster.hosts={{hostfile: {hostfile}}}"])
    printed = streams.printed()
    assert "x1b" in printed
    streams.assert_nothing_obeyed()


def test_what_is_being_done(streams: Streams) -> None:
    streams.open()
    with Progress(sys.stderr) as progress:
        progress.show(HOSTILE)
    streams.assert_escaped()


@pytest.mark.parametrize("is_plain", [True, False])
def test_what_a_host_of_a_preflight_answered(streams: Streams, is_plain: bool) -> None:
    streams.open()
    check = failed("SW521", "GPUs", HOSTILE, expected=HOSTILE, fix=HOSTILE, host="n00")
    print_report(report(cpu_plan(2), check), sys.stdout, is_plain=is_plain)
    streams.assert_escaped()


def test_the_helper_on_each_host(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It opens no streams of its own, to start fast."""
    assert job.main(["make", HOSTILE]) == 2
    with contextlib.suppress(AttributeError):
        monkeypatch.undo()
    told = capsys.readouterr().err
    assert "\\x1b[2J" in told
    assert not CONTROLS & set(told)
