"""How a run ends: what failed.json says, also when the start came to nothing or the disk takes nothing."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from planner import Problem, load, locate_problems
from runtime.checkpoint.commit import step_name
from runtime.process.identity import Identity
from runtime.startup.attempts import claim, write_done
from runtime.startup.outcome import Ending
from tests.support.examples import TEXT

PROBLEM = Problem(path="parallel.ep", line=3, found="6", expected="a divisor of 64", fix="set it to 8")


def ending(folder: Path, rank: int = 0) -> Ending:
    identity = Identity(rank=rank, local_rank=rank, world_size=2, host="here", is_launched=True)
    return Ending(identity=identity, run_folder=folder)


def failed(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "failed.json").read_text())


def test_a_start_that_came_to_nothing_replaces_what_an_older_failure_said(tmp_path: Path) -> None:
    assert ending(tmp_path).wrong([PROBLEM]) == 2
    assert ending(tmp_path).stopped("asked to by SIGTERM before the start") == 130
    assert failed(tmp_path)["code"] == 130
    assert failed(tmp_path)["attempt"] == 2


def test_a_start_that_came_to_nothing_leaves_a_finished_run(tmp_path: Path) -> None:
    write_done(tmp_path, {"attempt": claim(tmp_path, {})})
    assert ending(tmp_path).wrong([PROBLEM]) == 2
    assert (tmp_path / "done.json").exists()
    assert not (tmp_path / "failed.json").exists()


def test_a_start_that_came_to_nothing_leaves_a_run_that_may_be_alive(tmp_path: Path) -> None:
    claim(tmp_path, {})
    assert ending(tmp_path).wrong([PROBLEM]) == 2
    assert sorted(path.name for path in (tmp_path / "attempts").iterdir()) == ["0001.json"]
    assert not (tmp_path / "failed.json").exists()


def test_the_checkpoint_of_older_attempts_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints" / step_name(7)).mkdir(parents=True)
    ending(tmp_path).stopped("asked to")
    assert failed(tmp_path)["checkpoint"] == 7
    assert "the last checkpoint is step 7" in capsys.readouterr().err


def test_a_problem_of_a_key_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data and devices are only looked at when the strategy has long been read."""
    path = tmp_path / "s.yaml"
    path.write_text(f"{TEXT}data:\n  path: empty.txt\n")
    loaded = load(path)
    line = TEXT.count("\n") + 2
    one = ending(tmp_path / "run")
    one.locate = lambda problems: locate_problems(problems, loaded)
    one.wrong([Problem(path="data.path", found="no text", expected="text", fix="give some")])
    assert capsys.readouterr().err.startswith(f"{path}:{line}: data.path: no text\n")
    assert (
        failed(tmp_path / "run")["problems"][0]["file"],
        failed(tmp_path / "run")["problems"][0]["line"],
    ) == (
        str(path),
        line,
    )


def test_only_rank_0_writes(tmp_path: Path) -> None:
    ending(tmp_path, rank=1).failed(OSError("gone"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_changes_no_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert ending(tmp_path / "file" / "run").wrong([PROBLEM]) == 2
    told = capsys.readouterr().err
    assert told.count("parallel.ep") == 1
    assert "failed.json could not be written" in told


def test_a_peer_that_is_gone_without_a_reason_is_told_in_our_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.startup.outcome.ECHO_WAIT_S", 0.0)
    one = ending(tmp_path)
    one.store = dist.HashStore()
    assert one.failed(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")) == 3
    assert "another rank is gone without a word" in failed(tmp_path)["problems"][0]["found"]
    assert "gloo" not in capsys.readouterr().err


def test_a_network_interface_that_is_not_there_is_no_lost_peer(tmp_path: Path) -> None:
    said = (
        "[enforce fail at gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: eth9"
    )
    assert ending(tmp_path).failed(RuntimeError(said)) == 3
    assert "Unable to find address for: eth9" in failed(tmp_path)["problems"][0]["found"]


def test_a_peers_own_reason_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = ending(tmp_path), ending(tmp_path, rank=1)
    one.store = other.store = dist.HashStore()
    assert other.failed(MemoryError("no more")) == 3
    assert one.failed(RuntimeError("gloo/transport: Connection reset by peer")) == 3
    assert "MemoryError: no more" in failed(tmp_path)["problems"][0]["found"]
    told = capsys.readouterr().err
    assert told.count("MemoryError") == 1
    assert "another rank is gone" not in told


def test_a_store_that_never_answers_keeps_no_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.startup.outcome.STORE_WAIT_S", 0.2)
    rank = ending(tmp_path, rank=1)
    rank.store = SimpleNamespace(check=lambda keys: threading.Event().wait(30), compare_set=None)
    began = time.monotonic()
    assert rank.failed(RuntimeError("gloo/transport: Connection reset by peer")) == 3
    assert time.monotonic() - began < 20
