"""A failing save fails on every rank, with one readable reason, and keeps the last intact checkpoint."""

import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.checkpoint.manifest import CheckpointError
from runtime.checkpoint.safetensors_writer import OwnedPiece
from runtime.checkpoint.store import newest, write
from tests.support.states import META, equals, full_piece, full_state, save, save_alone, sliced, together

STATE = full_state()


def forked(work: Callable[[], str]) -> str:
    """The result of `work` in a forked process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        _, status = os.waitpid(pid, 0)
        assert status == 0, text
        return text
    try:
        os.write(writer, str(work()).encode())
        os._exit(0)
    except BaseException as error:
        os.write(writer, repr(error).encode())
        os._exit(1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(folder: Path, owned: list[list[OwnedPiece]], **options: Any) -> str:
    """The error that every rank raises."""
    answers = together(
        len(owned), lambda ranks: write(folder, 100, owned[ranks.rank], META, ranks=ranks, **options)
    )
    assert all(isinstance(answer, CheckpointError) for answer in answers), answers
    (text,) = {str(answer) for answer in answers}
    return text


def test_a_full_disk_on_one_rank_is_reported_on_all(tmp_path: Path) -> None:
    save(tmp_path, 50, sliced(STATE))
    large = [full_piece("large", "weight", torch.zeros(1 << 16))]

    def on_a_full_disk() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        return refused(tmp_path, [sliced(STATE)[0], large])

    text = forked(on_a_full_disk)
    assert text.startswith("SW811")
    assert "step 100 was not saved: rank 1: [Errno 27] File too large" in text
    assert names(tmp_path) == ["latest", "step-00000050"]
    assert equals(newest(tmp_path), STATE)


def test_a_disk_too_full_for_the_manifest_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    save_alone(tmp_path, 50)

    def on_a_full_disk() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, resource.RLIM_INFINITY))
        tiny = [full_piece(f"tensor-{number}", "weight", torch.zeros(1)) for number in range(30)]
        return refused(tmp_path, [tiny])

    text = forked(on_a_full_disk)
    assert "File too large" in text
    assert names(tmp_path) == ["latest", "step-00000050"]
    assert newest(tmp_path).step == 50


def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as outside:  # tmp_path itself is closed to other users
        folder = Path(outside) / "checkpoints"
        save(folder, 50, sliced(STATE))
        Path(outside).chmod(0o755)
        folder.chmod(0o555)

        def without_rights() -> str:
            if os.getuid() == 0:
                os.setuid(65534)
            text = refused(folder, sliced(STATE))
            assert equals(newest(folder), STATE)
            return text

        text = forked(without_rights)
        folder.chmod(0o755)
    assert text.startswith("SW811")
    assert "[Errno 13] Permission denied" in text


def test_any_error_of_one_rank_fails_the_save_on_all(tmp_path: Path) -> None:
    strange = [[full_piece("x", "weight", torch.zeros(2, dtype=torch.complex64))], []]
    assert "rank 0: KeyError: torch.complex64" in refused(tmp_path, strange)
    assert names(tmp_path) == []


def test_an_attempt_that_lost_the_run_writes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 50, sliced(STATE))
    (tmp_path / ".tmp-step-00000100-of_the_new_holder").mkdir()
    text = refused(tmp_path, sliced(STATE), holds=lambda: False)
    assert "SW812" in text
    assert names(tmp_path) == [".tmp-step-00000100-of_the_new_holder", "latest", "step-00000050"]


def test_an_attempt_that_loses_the_run_while_writing_does_not_commit(tmp_path: Path) -> None:
    answers = iter([True, False])
    text = refused(tmp_path, sliced(STATE), holds=lambda: next(answers))
    assert "SW812" in text
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [
        (2, None, [50, 60]),
        (1, 20, [20, 40, 60]),
        (1, 25, [50, 60]),
        (None, None, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_retention_keeps_the_last_and_every_nth(
    tmp_path: Path, keep_last: int | None, keep_every: int | None, kept: list[int]
) -> None:
    for step in range(10, 70, 10):
        save_alone(tmp_path, step, keep_last=keep_last, keep_every=keep_every)
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in kept)]
    assert (tmp_path / "latest").read_text() == "step-00000060\n"


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for leftover in (".tmp-step-00000009-x", ".trash-step-00000001-y"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "rank-0000.safetensors").write_bytes(b"half")
    save_alone(tmp_path, 10)
    assert names(tmp_path) == ["latest", "step-00000010"]
