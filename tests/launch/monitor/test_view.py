"""What a person sees of a run, and what a program gets."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.monitor.live import render, show_live
from launch.monitor.watch import RunWatch
from tests.support import recorded_runs as runs
from tests.support.hostile import HOSTILE, Streams


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; tests only read it."""
    return runs.finish(runs.write_run(tmp_path_factory.mktemp("recorded") / "wagons"))


def test_one_frame(recorded: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["monitor", str(recorded), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "wagons, EP4_TP2_PP1_DP1, 4 ranks: done"
    assert lines[1].startswith("step 40 of 150 ")
    assert lines[2] == "loss 7.200  validation 7.300  gradient norm 0.5  learning rate 0.001"
    assert lines[3] == "5,000 tokens/s  step 200 ms (predicted 160 ms)  MFU 25.0%  goodput 66.7%"
    assert lines[4].startswith("expert balance 0.80  overload mean 0.25, worst 0.50, cumulative 0.12")
    assert [line.split()[:4] for line in lines if "localhost" in line] == [
        [str(rank), "localhost", "all", "40"] for rank in range(4)
    ]


def test_an_alarm_is_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = runs.finish(runs.write_run(tmp_path / "run", "limits.balance_min=0.9"))
    assert main(["monitor", str(folder), "--once"]) == 1
    assert "limit missed: balance_min 90.0%, measured 80.0%" in capsys.readouterr().out


def test_json_is_one_object(recorded: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["monitor", str(recorded), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["step"], found["code"]) == ("done", 40, 0)
    assert found["goodput"] == pytest.approx(8 / 12)
    assert [rank["memory_bytes"] for rank in found["ranks"]] == [10**9] * 4


def test_a_folder_that_is_no_run_is_one_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in (str(tmp_path), str(tmp_path / "nothing"), "no-such-run", __file__):
        assert main(["monitor", name, "--once"]) == 2
        assert capsys.readouterr().err.startswith(f"SW460 {name} ")


@pytest.mark.parametrize("option", ["--once", "--json"])
def test_a_frame_that_should_serve_is_refused(
    recorded: Path, option: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["monitor", str(recorded), option, "--metrics", "9100"]) == 2
    assert f"SW463 --metrics serves until it is interrupted, and {option}" in capsys.readouterr().err


def test_a_run_is_found_by_its_name(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(recorded.parent.parent)
    (recorded.parent.parent / "runs").symlink_to(recorded.parent)
    assert main(["monitor", "wagons", "--once"]) == 0
    assert capsys.readouterr().out.startswith("wagons, ")


def test_many_ranks_are_shown_by_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    overrides = (
        "cluster.hosts=[a, b, c, d]",
        "cluster.gpus_per_host=16",
        "parallel.ep=64",
        "training.global_batch=384",
    )
    folder = runs.write_run(tmp_path / "run", *overrides, num_steps=12, num_ranks=64)
    main(["monitor", str(runs.finish(folder)), "--once"])
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines() if "100-100" in line]
    assert rows == [["a", "0-15", "12"], ["b", "16-31", "12"], ["c", "32-47", "12"], ["d", "48-63", "12"]]


def test_what_a_folder_says_is_not_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names and reasons in a run's folder come from anybody who may write there."""
    folder = runs.write_run(tmp_path / HOSTILE.replace("/", ""))
    problems = [{"found": HOSTILE}]
    (folder / "failed.json").write_text(json.dumps({"attempt": 1, "code": 3, "problems": problems}))
    runs.write_lines(folder / "journal.jsonl", [{"time": 1.0, "event": "start", "text": HOSTILE}])
    runs.heartbeats(folder, [0], phase=HOSTILE, state=HOSTILE)
    streams = Streams(tmp_path / "printed", monkeypatch)
    streams.open()
    main(["monitor", str(folder), "--once"])
    streams.assert_escaped()


def test_a_frame_on_a_terminal_obeys_nothing_either(tmp_path: Path):
    folder = runs.write_run(tmp_path / "run")
    runs.write_lines(folder / "journal.jsonl", [{"time": 1.0, "event": "start", "text": HOSTILE}])
    drawn = render(RunWatch(folder).look(), 300, color=None)
    assert "a\\x1b[2J\\x1b]0;t\\x07b\\x9b1A" in drawn
    assert "\x1b[2J" not in drawn
    assert "\x07" not in drawn


def test_the_live_view_ends_with_the_run(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = runs.write_run(tmp_path / "run")
    looks = 0

    def finish_later(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            runs.finish(folder)

    found = show_live(RunWatch(folder).look, sleep=finish_later)
    assert (looks, found.state.value) == (2, "done")


def test_a_narrow_terminal_cuts_no_line(recorded: Path):
    frame = render(RunWatch(recorded).look(), 60, color=None)
    assert "left out on this terminal" in frame
    assert "step 40 of 150" in frame
