"""The folder that a preflight shares with its hosts: made, taken away, and swept where one was killed."""

import os
from pathlib import Path

from launch.preflight.ask_hosts import shared_folder


def test_it_goes_with_the_parents_that_were_made_for_it(tmp_path: Path) -> None:
    with shared_folder(tmp_path / "a/b") as shared:
        assert shared.folder.parent == tmp_path / "a/b"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_preflight_left_is_swept_and_a_running_ones_is_not(tmp_path: Path) -> None:
    left, running, run = tmp_path / ".preflight-0", tmp_path / ".preflight-1", tmp_path / "run"
    for folder in (left, running, run):
        (folder / "job").mkdir(parents=True)
    for folder in (left, run):
        past = folder.stat().st_mtime - 7200
        os.utime(folder, (past, past))
    with shared_folder(tmp_path):
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".preflight-1", "run"]
