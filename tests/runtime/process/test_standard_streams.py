"""stdout that a training run cannot write to does not end it, and is told of once."""

import sys

import pytest

from planner.standard_streams import open_streams_of_run


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        monkeypatch.setattr(sys, name, getattr(sys, name))


def test_full_disk_of_the_log_is_told_of_once(
    streams: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        open_streams_of_run()
        for _ in range(3):
            print("a step", flush=True)
    assert capfd.readouterr().err == (
        "SW964 stdout takes no text (no space left on device): the run continues without it\n"
    )


def test_closed_stdout_is_told_of_once(
    streams: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "__stdout__", None)
    open_streams_of_run()
    for _ in range(3):
        print("a step", flush=True)
    assert (
        capfd.readouterr().err == "SW964 stdout takes no text (it is closed): the run continues without it\n"
    )
