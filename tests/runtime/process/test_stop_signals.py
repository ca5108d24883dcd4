"""What a rank takes as a request to stop, and from whom; no torch, so a case takes a second."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.launching import ROOT

# Waits to be asked, and leaves what it was asked by; ends itself where StopRequest would end it.
RANK = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from runtime.process.stop_signals import StopRequest, block_signals
answer = Path({answer!r})
def end(reason):
    answer.write_text("ended: " + reason)
    os._exit(130)
block_signals()
stop = StopRequest()
stop.listen(end)
answer.with_suffix(".pid").write_text(str(os.getpid()))
for _ in range(600):
    if stop.asked:
        answer.write_text(stop.asked)
        break
    time.sleep(0.05)
"""
PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1].split()]).wait()"


@pytest.fixture
def tree(tmp_path: Path):
    """Starts a rank under a launcher under a runner; gives both pids and where the rank answers."""
    answer = tmp_path / "answer"
    (tmp_path / "rank.py").write_text(RANK.format(root=str(ROOT), answer=str(answer)))
    (tmp_path / "launch.py").write_text(PARENT)
    started = []

    def start(runner_name: str) -> tuple[subprocess.Popen[bytes], Path]:
        runner = tmp_path / runner_name
        runner.write_text(f"#!{sys.executable}\n{PARENT}")
        runner.chmod(0o755)
        command = f"{tmp_path / 'launch.py'} {tmp_path / 'rank.py'} deepspeed.launcher.launch"
        # The launcher's own argument is the rank's script; its name stands after it, as a mark.
        # Started by its path, a script has the name of its file: sshd, for one.
        process = subprocess.Popen([str(runner), command], stdin=subprocess.PIPE, start_new_session=True)
        started.append(process)
        _until(answer.with_suffix(".pid").exists)
        return process, answer

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def test_the_end_of_the_deepspeed_command_is_a_term(tree) -> None:
    runner, answer = tree("deepspeed")
    runner.kill()
    runner.wait()
    _until(answer.exists)
    assert answer.read_text() == "SIGTERM"


def test_the_end_of_the_connection_is_a_term(tree) -> None:
    connection, answer = tree("sshd")
    connection.kill()
    connection.wait()
    _until(answer.exists)
    assert answer.read_text() == "SIGTERM"


def test_the_end_of_pdsh_at_the_other_end_of_the_connection_is_a_term(tree) -> None:
    connection, answer = tree("sshd")
    connection.stdin.close()
    _until(answer.exists)
    assert answer.read_text() == "SIGTERM"
    assert connection.poll() is None or connection.wait() == 0


def test_the_end_of_input_without_a_connection_is_none(tree) -> None:
    runner, answer = tree("deepspeed")
    runner.stdin.close()
    time.sleep(2.5)
    assert not answer.exists()


def test_the_end_of_a_shell_above_another_launcher_is_none(tree) -> None:
    runner, answer = tree("shell")
    runner.kill()
    runner.wait()
    time.sleep(2.5)
    assert not answer.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_asks(tree, number: signal.Signals) -> None:
    _, answer = tree("deepspeed")
    os.kill(int(answer.with_suffix(".pid").read_text()), number)
    _until(answer.exists)
    assert answer.read_text() == number.name


def _until(is_there, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not is_there():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    time.sleep(0.1)  # the file is there; now it is written too
