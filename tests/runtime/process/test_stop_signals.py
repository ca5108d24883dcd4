"""What a rank takes as a request to stop, and from whom; no torch, so a case takes a second."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from runtime.process import stop_signals
from runtime.process.service_thread import start_service
from runtime.process.stop_signals import StopRequest
from runtime.startup.claims import keep_alive
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
stop.listen(end, end)
if not {starting}:
    stop.begin_steps()
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
    (tmp_path / "launch.py").write_text(PARENT)
    started = []

    def start(runner_name: str, *, starting: bool = False) -> tuple[subprocess.Popen[bytes], Path]:
        (tmp_path / "rank.py").write_text(RANK.format(root=str(ROOT), answer=str(answer), starting=starting))
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


@pytest.mark.parametrize("name", ["deepspeed", "launch.torchrun.sh", "launch.mpirun.sh"])
def test_the_end_of_the_deepspeed_command_and_of_a_script_is_a_term(name: str, tree) -> None:
    runner, answer = tree(name)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_asks(tree, number: signal.Signals) -> None:
    _, answer = tree("deepspeed")
    os.kill(int(answer.with_suffix(".pid").read_text()), number)
    _until(answer.exists)
    assert answer.read_text() == number.name


def test_the_end_of_a_terminal_is_none_under_nohup(tree) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what it starts inherits it
    try:
        _, answer = tree("deepspeed")
    finally:
        signal.signal(signal.SIGHUP, before)
    rank = int(answer.with_suffix(".pid").read_text())
    os.kill(rank, signal.SIGHUP)
    time.sleep(1.5)
    assert not answer.exists()
    os.kill(rank, signal.SIGTERM)
    _until(answer.exists)
    assert answer.read_text() == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_there_are_steps_ends_the_rank_at_once(tree, number: signal.Signals) -> None:
    _, answer = tree("deepspeed", starting=True)
    os.kill(int(answer.with_suffix(".pid").read_text()), number)
    _until(answer.exists, timeout=3)
    assert answer.read_text() == f"ended: by {number.name} while the ranks were starting"


def test_usr2_is_a_term_which_mpirun_passes_on(tree) -> None:
    _, answer = tree("deepspeed", starting=True)
    os.kill(int(answer.with_suffix(".pid").read_text()), signal.SIGUSR2)
    _until(answer.exists, timeout=3)
    assert answer.read_text() == "ended: by SIGTERM while the ranks were starting"


def test_usr1_before_there_are_steps_waits_for_one_to_save(tree) -> None:
    _, answer = tree("deepspeed", starting=True)
    os.kill(int(answer.with_suffix(".pid").read_text()), signal.SIGUSR1)
    _until(answer.exists)
    assert answer.read_text() == "SIGUSR1"


@pytest.mark.parametrize("paused_s", [0.1, 1.5, pytest.param(4.0, marks=pytest.mark.slow)])
def test_a_rank_that_was_paused_still_hears_term(tree, paused_s: float) -> None:
    """SIGSTOP and SIGCONT, as Ctrl-Z and fg, Slurm's suspend and a debugger send them."""
    _, answer = tree("deepspeed")
    rank = int(answer.with_suffix(".pid").read_text())
    for _ in range(2):
        os.kill(rank, signal.SIGSTOP)
        time.sleep(paused_s)
        os.kill(rank, signal.SIGCONT)
        time.sleep(0.3)
    assert not answer.exists(), "a pause was taken for a request to stop"
    os.kill(rank, signal.SIGTERM)
    _until(answer.exists)
    assert answer.read_text() == "SIGTERM"


def test_a_rank_that_was_paused_still_notices_that_its_launcher_ended(tree) -> None:
    runner, answer = tree("deepspeed")
    rank = int(answer.with_suffix(".pid").read_text())
    os.kill(rank, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(rank, signal.SIGCONT)
    time.sleep(0.3)
    runner.kill()
    runner.wait()
    _until(answer.exists)
    assert answer.read_text() == "SIGTERM"


def test_a_pause_is_not_counted_as_time_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM, then a pause longer than the grace: the rank still has the grace to reach a step's end."""
    stop = StopRequest()
    stop.begin_steps()
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    waits = iter([(signal.SIGTERM, 0.5), (None, 300.0), *[(None, 1.0)] * 40])
    ended: list[tuple[float, str]] = []

    def wait(signals: object, timeout: float) -> SimpleNamespace | None:
        number, seconds = next(waits)
        clock[0] += seconds
        return None if number is None else SimpleNamespace(si_signo=number)

    def end(reason: str) -> NoReturn:
        ended.append((clock[0], reason))
        raise SystemExit

    monkeypatch.setattr(signal, "sigtimedwait", wait)
    monkeypatch.setattr(stop_signals, "start_service", lambda name, serve, fail_now: serve())
    with pytest.raises(SystemExit):
        stop.listen(end, end)
    # TERM at 100.5; a wait of 1 s that took 300 s; then the rest of the 20 s, by waits of 1 s.
    assert [moment for moment, _ in ended] == [420.5]


@pytest.mark.parametrize(
    ("serve", "how"),
    [
        ("raise ValueError('-2143245984 is not a valid signal')", "ValueError: -2143245984 is not a valid"),
        ("return", "it returned"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_service_thread_that_ends_takes_the_process_with_it(serve: str, how: str) -> None:
    program = (
        "import os, time\n"
        "from runtime.process.service_thread import start_service\n"
        f"def serve():\n    {serve}\n"
        "def end(reason):\n    print(reason, flush=True)\n    os._exit(3)\n"
        "start_service('stop-signals', serve, end)\n"
        "time.sleep(20)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=15, check=False
    )
    assert ended.returncode == 3
    assert f"SW953 the thread stop-signals ended ({how}" in ended.stdout


@pytest.mark.parametrize(
    "broken",
    [
        "signal.sigtimedwait",
        "runtime.process.launcher_watch.LauncherWatch.is_gone",
        "runtime.process.launcher_watch.LauncherWatch.is_abandoned",
    ],
)
def test_signals_and_the_launchers_watch_take_the_rank_with_them(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise ValueError("unexpected")

    monkeypatch.setattr(broken, fail)
    monkeypatch.setattr(stop_signals, "POLL_S", 0.05)
    reasons: list[str] = []
    StopRequest().listen(lambda reason: sys.exit(reason), reasons.append)  # type: ignore[arg-type]
    _until(lambda: bool(reasons))
    assert reasons[0].startswith("SW953 the thread stop-signals ended (ValueError: unexpected)")


def test_the_heartbeat_of_a_claim_takes_the_rank_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise ValueError("unexpected")

    monkeypatch.setattr(os, "utime", fail)
    reasons: list[str] = []
    start_service("claim", lambda: keep_alive(tmp_path, 1), reasons.append)  # type: ignore[arg-type]
    _until(lambda: bool(reasons))
    assert reasons[0].startswith("SW953 the thread claim ended (ValueError: unexpected)")


def test_every_thread_is_a_service_or_an_answer_that_is_waited_for() -> None:
    """The progress line has none; a store is asked, and a checkpoint written, by threads that are waited for:
    the failure of either is their caller's."""
    found = {
        (str(path.relative_to(ROOT)), line.strip().partition("Thread(")[2].partition(", daemon")[0])
        for folder in ("runtime", "model", "train.py")
        for path in ([ROOT / folder] if folder.endswith(".py") else (ROOT / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "Thread(" in line
    }
    assert found == {
        ("runtime/checkpoint/async_writer.py", 'target=run, name="checkpoint-writer"'),
        ("runtime/process/service_thread.py", "target=run, name=name"),
        ("runtime/startup/failure_reason.py", 'target=run, name="failure-reason"'),
        ("runtime/startup/rank_store.py", 'target=greet, name="greet-store"'),
    }


def test_an_interrupt_while_packages_are_loaded_prints_no_traceback(tmp_path: Path) -> None:
    """A package that takes long, in the place of one that the planner needs."""
    (tmp_path / "yaml.py").write_text(
        "from pathlib import Path\nimport time\n"
        f"Path({str(tmp_path / 'loading')!r}).touch()\ntime.sleep(60)\n"
    )
    rank = subprocess.Popen(
        [sys.executable, "train.py", "--strategy", "ds_configs/tiny_cpu.yaml"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Of whoever starts the tests in the background, INT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _until((tmp_path / "loading").exists)
    rank.send_signal(signal.SIGINT)
    _, told = rank.communicate(timeout=30)
    assert (rank.returncode, told) == (-signal.SIGINT, "")


def _until(is_there, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not is_there():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    time.sleep(0.1)  # the file is there; now it is written too
