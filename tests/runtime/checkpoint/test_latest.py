"""Neither `latest` nor what is in the place of `checkpoints` hides a checkpoint in silence."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runtime.checkpoint.__main__ import app
from runtime.checkpoint.commit import candidates
from runtime.checkpoint.manifest import CheckpointError
from runtime.checkpoint.store import newest
from tests.support.states import full_state, save, sliced

LATEST: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: (path / "kept").mkdir(parents=True),
    "a link to itself": lambda path: path.symlink_to(path),
    "a dangling link": lambda path: path.symlink_to(path.parent / "none"),
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a huge number": lambda path: path.write_text("step-" + "9" * 5000),
    "a large number": lambda path: path.write_text("step-" + "9" * 200),
    "not text": lambda path: path.write_bytes(b"\xff\x00"),
    "empty": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("what", LATEST)
def test_unreadable_latest_blocks_no_checkpoint(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 50, sliced(full_state()))
    (tmp_path / "latest").unlink()
    LATEST[what](tmp_path / "latest")
    with caplog.at_level(logging.WARNING):
        info = newest(tmp_path)
    assert info is not None
    assert info.step == 50
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["SW807"]
    save(tmp_path, 100, sliced(full_state()))  # and none that is still to be written
    assert (tmp_path / "latest").read_text() == "step-00000100\n"
    if what == "a folder":
        (aside,) = tmp_path.glob("latest.aside-*")
        assert (aside / "kept").is_dir()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to(path.parent / "not mounted"),
        lambda path: path.symlink_to(path),
        lambda path: path.write_text("kept"),
    ],
)
def test_something_else_in_the_place_of_checkpoints_is_no_run_without_any(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "checkpoints")
    for folder in (tmp_path, tmp_path / "checkpoints"):
        with pytest.raises(CheckpointError, match="SW818"):
            candidates(folder)
    for command in ("inspect", "verify"):
        result = CliRunner().invoke(app, [command, str(tmp_path)])
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"SW818 {tmp_path / 'checkpoints'} is ")
