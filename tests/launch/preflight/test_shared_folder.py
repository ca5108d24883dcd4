"""Folder that a preflight shares with its hosts: created, removed, and swept after killed preflights."""

import os
from pathlib import Path

from launch.preflight.ask_hosts import shared_folder


def test_shared_folder_is_removed_with_the_parents_created_for_it(tmp_path: Path) -> None:
    with shared_folder(tmp_path / "a/b") as shared:
        assert shared.folder.parent == tmp_path / "a/b"
    assert list(tmp_path.iterdir()) == []


def test_only_old_folders_of_killed_preflights_are_removed(tmp_path: Path) -> None:
    left, running, run = tmp_path / ".preflight-0", tmp_path / ".preflight-1", tmp_path / "run"
    for folder in (left, running, run):
        (folder / "job").mkdir(parents=True)
    for folder in (left, run):
        past = folder.stat().st_mtime - 7200
        os.utime(folder, (past, past))
    with shared_folder(tmp_path):
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".preflight-1", "run"]
