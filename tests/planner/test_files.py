"""Reads of files that a user names: bounded in bytes and in time."""

import os
import threading
import time
from pathlib import Path

import pytest

from launch.__main__ import main
from planner import files
from planner.files import read_limited, replace

TINY = "ds_configs/tiny_cpu.yaml"


def test_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_limited(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_limited(tmp_path / "a", 4)
    with pytest.raises(OSError, match="larger than 1,000 bytes"):
        read_limited("/dev/zero", 1000)
    with pytest.raises(IsADirectoryError):
        read_limited(tmp_path, 4)


def test_pipe_is_read_to_its_writers_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            for _ in range(3):
                time.sleep(0.05)
                pipe.write(b"part ")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_limited(tmp_path / "pipe", 100) == b"part part part "
    writer.join()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["plan", "{}"], "SW101"),
        (["plan", TINY, "cluster.hosts={{hostfile: {}}}"], "SW134"),
        (["plan", TINY, "--hardware", "{}"], "SW141"),
    ],
)
@pytest.mark.parametrize("is_pipe", [True, False])
def test_what_has_no_end_is_one_problem(
    arguments: list[str],
    code: str,
    is_pipe: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(files, "PIPE_WAIT_S", 0.05)
    path = str(tmp_path / "pipe") if is_pipe else "/dev/zero"
    if is_pipe:
        os.mkfifo(path)
    assert main([argument.format(path) for argument in arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.count("SW") == 1, "one Problem"
    assert f"{code} " in printed
    assert ("nothing was written to this pipe" if is_pipe else "larger than") in printed


@pytest.mark.parametrize("arguments", [["plan", TINY, "--svg"], ["search", TINY, "--plot"]])
def test_picture_does_not_take_the_place_of_what_is_no_file(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rename over /dev/null would take it from everybody; a pipe stands in for it here."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link"):
        assert main([*arguments, str(path)]) == 2
        assert f"SW380 {path} cannot be written: it is not a file" in capsys.readouterr().err
        assert pipe.is_fifo()
    with pytest.raises(OSError, match="not a file"):
        replace(pipe, b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_picture_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.svg").write_text("old")
    (tmp_path / "link.svg").symlink_to("real.svg")
    assert main(["plan", TINY, "--svg", str(tmp_path / "link.svg")]) == 0
    assert (tmp_path / "real.svg").read_text().startswith("<svg")
    assert (tmp_path / "link.svg").is_symlink()
