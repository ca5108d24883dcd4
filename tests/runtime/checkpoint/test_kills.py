"""kill -9 at every step of a save: an intact checkpoint is left, and the next save cleans up."""

import os
import signal
import sys
from pathlib import Path

import pytest

from runtime.checkpoint import safetensors_writer
from runtime.checkpoint.store import newest
from tests.support.states import equals, full_state, save_alone

# What changes a file system, as Python's audit hooks call it. fsync and the writing of each tensor, which
# have no such event, are counted by `fork_and_save` itself.
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
BEFORE, AFTER = full_state(seed=1), full_state(seed=2)


def fork_and_save(folder: Path, step: int, kill_before: int | None) -> int:
    """Save in a forked process that is killed before its n-th change; returns the changes it made.

    With None nothing is killed.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) == (kill_before is not None), status
        with os.fdopen(reader, "rb") as pipe:
            return len(pipe.read())
    try:
        count = 0

        def change() -> None:
            nonlocal count
            if count == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            os.write(writer, b".")

        def on_event(event: str, arguments: tuple) -> None:
            is_write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or is_write:
                change()

        def counted(function):
            def call(*arguments):
                change()
                return function(*arguments)

            return call

        os.fsync = counted(os.fsync)
        safetensors_writer._bytes_of = counted(safetensors_writer._bytes_of)
        sys.addaudithook(on_event)
        save_alone(folder, step, seed=2, keep_last=2)
    except BaseException:
        os._exit(1)
    os._exit(0)


def two_saved(folder: Path) -> Path:
    save_alone(folder, 50, seed=1)
    save_alone(folder, 100, seed=1)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("step", [150, 100], ids=["a new step", "a step that is there already"])
def test_a_kill_anywhere_leaves_an_intact_checkpoint(tmp_path: Path, step: int) -> None:
    num_changes = fork_and_save(two_saved(tmp_path / "unkilled"), step, None)
    assert num_changes > 25
    outcomes = []
    for kill_before in range(num_changes):
        folder = two_saved(tmp_path / f"killed-{kill_before}")
        fork_and_save(folder, step, kill_before)

        info = newest(folder)
        assert info.step in (100, step), kill_before
        assert equals(info, BEFORE) or (info.step == step and equals(info, AFTER)), kill_before
        outcomes.append(equals(info, AFTER))

        save_alone(folder, step, seed=2, keep_last=2)
        kept = ["latest", *(f"step-{kept:08d}" for kept in sorted({step, 100, 50})[-2:])]
        assert names(folder) == kept, kill_before
        assert newest(folder).step == step
        assert equals(newest(folder), AFTER)
    # The commit is atomic: all kills before it leave the old state, all after it the new one.
    assert outcomes == sorted(outcomes)
    assert {False, True} == set(outcomes)


def test_a_kill_in_the_very_first_save_leaves_no_checkpoint_or_an_intact_one(tmp_path: Path) -> None:
    num_changes = fork_and_save(tmp_path / "unkilled", 50, None)
    for kill_before in range(num_changes):
        folder = tmp_path / f"killed-{kill_before}"
        fork_and_save(folder, 50, kill_before)
        info = newest(folder)
        assert info is None or equals(info, AFTER)
        save_alone(folder, 50, seed=2)
        assert names(folder) == ["latest", "step-00000050"]
