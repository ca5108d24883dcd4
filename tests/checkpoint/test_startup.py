"""One verdict for all ranks, reached by threads over one store: nobody waits for who is not there."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from planner import Problem, build_plan, loads
from runtime import startup
from runtime.ending import Ending
from runtime.identity import Identity
from runtime.startup import Verdict, agree
from tests.checkpoint.test_resume import STRATEGY

PLAN = build_plan(loads(STRATEGY, ["parallel.ep=2"]))
FAULT = Problem(path="x", line=None, found="found", expected="expected", fix="fix")


def verdicts(
    monkeypatch: pytest.MonkeyPatch, folder: Path, asked: str | None = None, fault_of: int | None = None
) -> tuple[list[Verdict], float]:
    """What both ranks go by, and the seconds that took."""
    store = dist.HashStore()
    monkeypatch.setattr(startup, "connect", lambda *_: store)
    found: list[Verdict] = [None, None]

    def run(rank: int) -> None:
        identity = Identity(rank=rank, local_rank=rank, world_size=2, host="here", is_launched=True)
        ending = Ending(identity=identity, run_folder=folder)
        problems = (FAULT,) if rank == fault_of else ()
        stop = SimpleNamespace(asked=asked)
        found[rank] = agree(
            PLAN, problems, identity, ending, stop, lambda plan, ending: Verdict(exit_code=None)
        )

    began = time.monotonic()
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, time.monotonic() - began


def test_all_train_when_nobody_has_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [v.exit_code for v in verdicts(monkeypatch, tmp_path)[0]] == [None, None]


def test_the_problem_of_any_rank_ends_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, seconds = verdicts(monkeypatch, tmp_path, fault_of=1)
    assert [v.exit_code for v in found] == [2, 2]
    assert capsys.readouterr().err.count("x: found") == 1
    assert seconds < 5


def test_a_stop_before_the_start_ends_all_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, seconds = verdicts(monkeypatch, tmp_path, asked="SIGTERM")
    assert [v.exit_code for v in found] == [130, 130]
    assert seconds < 10, "rank 0 waits for no reader that has left"
