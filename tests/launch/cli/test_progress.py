"""Progress of long work in a log."""

import io

import pytest

from launch.cli import progress


def test_a_log_gets_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress.counted(out, "init", "layouts") as report:
        for done in range(1200):
            now[0] = done / 40  # 30 s
            report(done, 1200)
    assert out.getvalue().splitlines() == ["init: 400 of 1,200 layouts", "init: 800 of 1,200 layouts"]


def test_short_work_says_nothing_in_a_log() -> None:
    out = io.StringIO()
    with progress.counted(out, "init", "layouts") as report:
        report(0, 3)
    assert out.getvalue() == ""
