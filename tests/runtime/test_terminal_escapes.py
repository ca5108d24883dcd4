"""Every printer of train.py and the programs of runtime/ escapes what a terminal would obey."""

import contextlib
import logging
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

import train
from planner import Problem
from planner.standard_streams import run_program
from runtime.attempts import app as attempts
from runtime.checkpoint import __main__ as checkpoint
from runtime.startup.outcome_files import write_failed
from runtime.telemetry.progress_line import ProgressLine
from tests.runtime.startup.test_exit_reporter import reporter
from tests.support.hostile import CONTROLS, ESCAPED, HOSTILE, Streams
from tests.support.states import full_state, save, sliced


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Streams:
    return Streams(tmp_path / "printed", monkeypatch)


def program(monkeypatch: pytest.MonkeyPatch, run: object, *arguments: str) -> None:
    """Runs a program to its end."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with contextlib.suppress(SystemExit):
        run_program(run)  # type: ignore[arg-type]


def test_problems_of_a_rank(streams: Streams, tmp_path: Path) -> None:
    streams.open()
    reporter(tmp_path / "run").invalid_input(
        [Problem(code="SW201", path="x", found=HOSTILE, expected="e", fix=HOSTILE)]
    )
    streams.assert_escaped()
    assert "\x1b" not in (tmp_path / "run" / "failed.json").read_text()  # a terminal may show the file


def test_the_reason_of_a_failure(streams: Streams, tmp_path: Path) -> None:
    streams.open()
    reporter(tmp_path / "run", store=dist.HashStore()).failed(ValueError(HOSTILE))
    streams.assert_escaped()


def test_a_stop(streams: Streams, tmp_path: Path) -> None:
    streams.open()
    reporter(tmp_path / "run").stopped(HOSTILE)
    streams.assert_escaped()


def test_failed_json_is_ascii(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "attempts").mkdir(parents=True)
    (folder / "attempts" / "0001.json").write_text("{}")
    write_failed(folder, code=3, problems=[{"found": HOSTILE}], checkpoint=None, attempt=1)
    text = (folder / "failed.json").read_text()
    assert text.isascii()
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_progress_line(streams: Streams, monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    streams.open()
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressLine(first_step=1, last_step=2) as line:
        monkeypatch.setattr(line, "_facts", lambda *_: (HOSTILE,))
        line.show_step(1, loss=1.0, validation_loss=None, tokens_per_s=1.0)
    assert ESCAPED.split("[")[0] in streams.printed()
    assert "\x07" not in streams.printed()


def test_verify_and_inspect(streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams.open()
    folder = tmp_path / HOSTILE.replace("/", "")
    save(folder, 1, sliced(full_state()))
    for command in ("verify", "inspect"):
        program(monkeypatch, checkpoint.main, command, str(folder))
    (folder / "step-00000001" / "manifest.json").write_text("{")
    program(monkeypatch, checkpoint.main, "verify", str(folder))
    program(monkeypatch, checkpoint.main, "inspect", str(folder))
    program(monkeypatch, checkpoint.main, "verify", str(tmp_path / f"{HOSTILE}2"))
    printed = streams.printed()
    assert "intact" in printed
    assert "damaged" in printed
    assert printed.count("a\\x1b[2J") == 6  # rich drops some of the others
    streams.assert_nothing_obeyed()


@pytest.mark.parametrize("run", [attempts, checkpoint.main])
def test_a_wrong_command_line(streams: Streams, monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    streams.open()
    program(monkeypatch, run, f"--{HOSTILE}")
    printed = streams.printed()
    assert "x1b" in printed
    streams.assert_nothing_obeyed()


def test_set_aside(streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams.open()
    program(monkeypatch, attempts, "set-aside", str(tmp_path / HOSTILE))
    streams.assert_escaped()


def test_a_warning_of_a_run(streams: Streams, tmp_path: Path) -> None:
    streams.open()
    handler = logging.StreamHandler()
    handler.emit(logging.LogRecord("n", logging.WARNING, "p", 1, "%s", (HOSTILE,), None))
    streams.assert_escaped()


def test_a_wrong_command_line_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before the streams are opened."""
    with pytest.raises(SystemExit):
        train.main([f"--{HOSTILE}"])
    told = capsys.readouterr().err
    assert "\\x1b[2J" in told
    assert not CONTROLS & set(told)
