"""Hand-over of a rank's start to a fork server: the rank is as if the launcher had started it itself."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launch.job import make_link, processes, remove
from planner.paths import PROJECT

TIMEOUT_S = 30


class Host:
    """An attempt's link, and a fork server that runs through it."""

    def __init__(self, folder: Path) -> None:
        self.link = folder / "logs" / "job-x" / "bin" / "python-x"
        make_link(self.link)
        self.environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        self.server: subprocess.Popen[str] | None = None

    def serve(self) -> None:
        self.server = self._popen("-m", "tests.support.fork_server_run", cwd=PROJECT)
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "ready\n"

    def start(self, *words: str, cwd: Path = PROJECT, **environment: str) -> subprocess.Popen[str]:
        """What a launcher starts."""
        return self._popen("-m", "tests.support.forked_rank", *words, cwd=cwd, **environment)

    def _popen(self, *words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.link), *words],
            cwd=cwd,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        for process in processes(self.link):
            process.kill()
        if self.server is not None:
            self.server.communicate(timeout=TIMEOUT_S)
        remove(self.link)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


@pytest.fixture
def served(host: Host) -> Host:
    host.serve()
    return host


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def waiting_rank(host: Host, folder: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A start, and the rank that was forked for it."""
    note = folder / "pid"
    start = host.start("wait", str(note))
    until(lambda: note.exists() and note.read_text())
    return start, psutil.Process(int(note.read_text()))


def test_a_forked_rank_has_arguments_environment_folder_and_streams_of_its_start(
    served: Host, tmp_path: Path
) -> None:
    start = served.start("tell", "a b", cwd=tmp_path, MARK="7")
    out, err = start.communicate("hello", timeout=TIMEOUT_S)
    told = json.loads(out)
    assert told.pop("argv")[1:] == ["tell", "a b"]
    assert told == {
        "folder": str(tmp_path),
        "mark": "7",
        "is_forked": True,
        "launcher": os.getpid(),
        "stdin": "hello",
    }
    assert err == "on stderr\n"
    assert start.returncode == 7


def test_without_a_server_the_start_does_the_work_itself(host: Host) -> None:
    out, err = host.start("tell").communicate("", timeout=TIMEOUT_S)
    assert json.loads(out)["is_forked"] is False
    assert err == "on stderr\n"


def test_a_variable_that_libraries_read_when_they_load_must_be_the_server_s(served: Host) -> None:
    out, err = served.start("tell", OMP_NUM_THREADS="2").communicate("", timeout=TIMEOUT_S)
    assert json.loads(out)["is_forked"] is False
    assert "SW610" in err
    assert "another OMP_NUM_THREADS" in err


def test_a_variable_that_the_server_has_set_itself_is_no_difference(served: Host) -> None:
    """DeepSpeed's launcher sets PYTORCH_NVML_BASED_CUDA_CHECK for ranks, and a warm parent for itself."""
    out, err = served.start("tell", PYTORCH_NVML_BASED_CUDA_CHECK="1").communicate("", timeout=TIMEOUT_S)
    assert (json.loads(out)["is_forked"], err) == (True, "on stderr\n")


def test_signals_reach_the_rank_and_its_exit_code_the_launcher(served: Host, tmp_path: Path) -> None:
    start, rank = waiting_rank(served, tmp_path)
    start.send_signal(signal.SIGTERM)
    start.communicate(timeout=TIMEOUT_S)
    assert start.returncode == 13
    assert not rank.is_running()


def test_a_rank_that_ends_by_a_signal_ends_its_start_by_it(served: Host) -> None:
    start = served.start("crash")
    start.communicate(timeout=TIMEOUT_S)
    assert start.returncode == -signal.SIGSEGV


def test_a_rank_ends_with_its_start(served: Host, tmp_path: Path) -> None:
    start, rank = waiting_rank(served, tmp_path)
    start.kill()
    start.communicate(timeout=TIMEOUT_S)
    until(lambda: not rank.is_running())


def test_a_rank_and_its_start_end_with_the_server(served: Host, tmp_path: Path) -> None:
    start, rank = waiting_rank(served, tmp_path)
    assert served.server is not None
    served.server.kill()
    start.communicate(timeout=TIMEOUT_S)
    assert start.returncode == -signal.SIGKILL
    until(lambda: not rank.is_running())


def test_the_attempt_s_end_finds_server_rank_and_start(served: Host, tmp_path: Path) -> None:
    start, rank = waiting_rank(served, tmp_path)
    assert served.server is not None
    assert {process.pid for process in processes(served.link)} == {start.pid, rank.pid, served.server.pid}
    start.kill()
    start.communicate(timeout=TIMEOUT_S)


@pytest.mark.parametrize("end", ["signal", "stdin", "link", "asked"])
def test_a_server_that_nobody_needs_ends_once_its_ranks_have(served: Host, tmp_path: Path, end: str) -> None:
    start, rank = waiting_rank(served, tmp_path)
    server = served.server
    assert server is not None
    if end == "signal":
        server.terminate()
    elif end == "stdin":
        assert server.stdin is not None
        server.stdin.close()
        server.stdin = None
    elif end == "link":
        remove(served.link)
    else:
        served.link.with_name("asked-to-stop").touch()
    time.sleep(1.5)  # its poll
    assert server.poll() is None
    assert rank.is_running()
    start.terminate()
    assert start.wait(TIMEOUT_S) == 13
    assert server.wait(TIMEOUT_S) == 0


def test_a_server_that_is_ending_forks_nothing(served: Host, tmp_path: Path) -> None:
    start, _ = waiting_rank(served, tmp_path)
    assert served.server is not None
    served.server.terminate()
    time.sleep(0.2)
    _, err = served.start("tell").communicate("", timeout=TIMEOUT_S)
    assert "SW610 this rank starts without its warm parent, which takes longer: it is ending" in err
    start.terminate()
    assert start.wait(TIMEOUT_S) == 13


def test_another_user_s_folder_is_not_trusted(served: Host, tmp_path: Path) -> None:
    found = subprocess.run(
        [str(served.link), "-c", "from runtime.process.handover import socket_path; print(socket_path())"],
        env=served.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    Path(found.stdout.strip()).parent.chmod(0o777)
    out, _ = served.start("tell").communicate("", timeout=TIMEOUT_S)
    assert json.loads(out)["is_forked"] is False
