"""Whether somebody trains a run: a process of this machine, or one of another that touches its claim."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from planner.run_holder import WATCH_S, find_live_holder
from runtime.startup.claims import claim, keep_alive
from runtime.startup.outcome_files import write_failed
from tests.support.holders import other_process_that_holds


def edit(run: Path, **changed: Any) -> Path:
    path = run / "attempts" / "0001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return path


def test_a_process_of_this_machine_holds_its_run_until_it_ends(tmp_path: Path) -> None:
    with other_process_that_holds(tmp_path) as process:
        holder = find_live_holder(tmp_path)
        assert holder is not None
        assert (holder.attempt, holder.pid) == (1, process.pid)
    assert find_live_holder(tmp_path) is None


def test_a_run_that_has_ended_has_no_holder(tmp_path: Path) -> None:
    with other_process_that_holds(tmp_path):
        write_failed(tmp_path, code=130, problems=[], checkpoint=None, attempt=1)
        assert find_live_holder(tmp_path) is None


def test_a_later_process_with_the_same_number_does_not_hold_it(tmp_path: Path) -> None:
    with other_process_that_holds(tmp_path):
        edit(tmp_path, process_started=1.0)
        assert find_live_holder(tmp_path) is None


def test_an_own_claim_is_in_nobodys_way(tmp_path: Path) -> None:
    claim(tmp_path, {})
    assert find_live_holder(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}', '{"pid": "x", "host": 3, "machine": 1}'])
def test_a_claim_that_says_nothing_holds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "0001.json").write_text(content)
    assert find_live_holder(tmp_path) is None


def test_no_run(tmp_path: Path) -> None:
    assert find_live_holder(tmp_path / "none") is None


def test_a_holder_elsewhere_lives_while_its_claim_changes(tmp_path: Path) -> None:
    claim(tmp_path, {})
    path = edit(tmp_path, machine="another one", pid=7, host="node9")
    beats: list[float] = []

    def beat(seconds: float) -> None:
        beats.append(seconds)
        if len(beats) == 4:
            os.utime(path, ns=(1, 1))

    holder = find_live_holder(tmp_path, wait=beat)
    assert str(holder) == "attempt 1, pid 7 on node9"
    assert len(beats) == 4

    waits: list[float] = []
    assert find_live_holder(tmp_path, wait=waits.append) is None
    assert sum(waits) == WATCH_S


def test_a_claim_is_touched_and_a_lost_file_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(tmp_path, {})
    path = tmp_path / "attempts" / "0001.json"
    os.utime(path, ns=(1, 1))
    seen: list[bool] = []

    def sleep(_: float) -> None:
        seen.append(path.exists() and path.stat().st_mtime_ns > 1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        path.unlink(missing_ok=True)

    monkeypatch.setattr("runtime.startup.claims.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        keep_alive(tmp_path, 1)
    assert seen == [True, False, False]
