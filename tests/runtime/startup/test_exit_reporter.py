"""Exit of a run: what failed.json says, also when the start failed or the disk is full."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from planner import Problem, build_plan, load
from planner.exit_codes import ExitCode
from runtime.checkpoint.commit import step_name
from runtime.process.identity import Identity
from runtime.process.launchers import Launcher
from runtime.process.start import Start
from runtime.startup.claims import claim
from runtime.startup.context import RunContext
from runtime.startup.exit_reporter import ExitReporter
from runtime.startup.outcome_files import record_failure, write_done, write_failed
from tests.runtime.startup.test_resume import STRATEGY

PROBLEM = Problem(
    code="SW201", path="parallel.ep", line=3, found="6", expected="a divisor of 64", fix="set it to 8"
)


def reporter(folder: Path, rank: int = 0, store: Any = None, **start: Any) -> ExitReporter:
    identity = Identity(rank=rank, local_rank=rank, world_size=2, host="here", launcher=Launcher.TORCHRUN)
    started = Start(**{"identity": identity, "plan": None, "problems": (), **start})
    return ExitReporter(context=RunContext(start=started, folder=folder, store=store))


def failed(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "failed.json").read_text())


def test_a_start_that_came_to_nothing_replaces_what_an_older_failure_said(tmp_path: Path) -> None:
    assert reporter(tmp_path).invalid_input([PROBLEM]) == 2
    assert reporter(tmp_path).stopped("by SIGTERM before training started") == 130
    assert failed(tmp_path)["code"] == 130
    assert failed(tmp_path)["attempt"] == 2


def test_a_start_that_came_to_nothing_leaves_a_finished_run(tmp_path: Path) -> None:
    write_done(tmp_path, {"attempt": claim(tmp_path, {})})
    assert reporter(tmp_path).invalid_input([PROBLEM]) == 2
    assert (tmp_path / "done.json").exists()
    assert not (tmp_path / "failed.json").exists()


def test_a_start_that_came_to_nothing_leaves_a_run_that_may_be_alive(tmp_path: Path) -> None:
    claim(tmp_path, {})
    assert reporter(tmp_path).invalid_input([PROBLEM]) == 2
    assert sorted(path.name for path in (tmp_path / "attempts").iterdir()) == ["0001.json"]
    assert not (tmp_path / "failed.json").exists()


@pytest.mark.parametrize(
    ("saved", "after_step", "words"),
    [
        (None, None, "stopped by SIGTERM; no checkpoint was written"),
        (14, 14, "stopped by SIGTERM, saved at step 14"),
        (10, 14, "stopped by SIGTERM after step 14; the last checkpoint is step 10"),
        (10, None, "stopped by SIGTERM; the last checkpoint is step 10"),
    ],
)
def test_a_stop_says_what_was_saved(
    tmp_path: Path, saved: int | None, after_step: int | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = reporter(tmp_path)
    told.context.checkpoint = saved
    assert told.stopped("by SIGTERM", after_step=after_step) == 130
    assert capsys.readouterr().err == f"{words}\n"
    assert failed(tmp_path)["stopped"] == words
    assert told.stopped("by a second SIGTERM") == 130  # from the other thread
    assert capsys.readouterr().err == ""


def test_a_host_that_was_lost_is_the_reason_and_no_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """launch.sh ends the ranks of the other hosts with a TERM."""
    link = tmp_path / "bin" / "python-1"
    link.parent.mkdir()
    monkeypatch.setattr("sys.executable", str(link))
    (link.parent / "host-ended").write_text(json.dumps(PROBLEM.as_json()))
    assert reporter(tmp_path / "one").stopped("by SIGTERM") == 130, "the host may have been asked to stop too"
    (link.parent / "guarded").touch()
    assert reporter(tmp_path / "two").stopped("by SIGTERM") == 3
    assert "a divisor of 64" in capsys.readouterr().err
    assert failed(tmp_path / "two")["problems"] == [PROBLEM.as_json()]
    assert failed(tmp_path / "two")["code"] == 3


def test_a_package_that_is_missing_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert reporter(tmp_path).failed(error) == 3
    assert "SW608" in capsys.readouterr().err
    assert failed(tmp_path)["problems"][0]["code"] == "SW608"
    assert reporter(tmp_path, rank=2).failed(error) == 3
    assert capsys.readouterr().err == "", "one rank of the host has said it"
    # Once the ranks have met, those of the other hosts are told too.
    store = dist.HashStore()
    assert reporter(tmp_path, rank=1, store=store).failed(error) == 3
    assert "SW608" in store.get("failure").decode()


def test_a_cpp_stack_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As torch 2.13 builds the text of a DistNetworkError."""
    said = (
        "The client socket has failed.\nException raised from connect at socket.cpp:1 (most recent call):\n"
    )
    assert reporter(tmp_path).failed(ValueError(said + "frame #0: c10::Error + 0x98\n")) == 3
    told = capsys.readouterr().err
    assert "ValueError: The client socket has failed." in told
    assert "frame #0" not in told
    assert "Exception raised" not in told


@pytest.mark.parametrize("has_outcome", [True, False])
def test_the_launch_records_a_failure_that_no_rank_could(
    tmp_path: Path, has_outcome: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt of ranks that were killed keeps its number; ranks that never started get one."""
    monkeypatch.setattr("runtime.startup.claims.launch_of_rank", lambda: "python-1")
    monkeypatch.setattr("runtime.startup.outcome_files.launch_of_rank", lambda: "python-1")
    attempt = claim(tmp_path, {})
    if has_outcome:
        write_failed(tmp_path, code=130, problems=[], checkpoint=None, attempt=attempt)
    assert record_failure(tmp_path, PROBLEM, code=ExitCode.INTERNAL_ERROR)
    assert failed(tmp_path)["problems"] == [PROBLEM.as_json()]
    assert (failed(tmp_path)["code"], failed(tmp_path)["attempt"]) == (3, 2 if has_outcome else 1)


def test_the_launch_records_no_failure_of_a_run_that_is_done_or_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.startup.claims.launch_of_rank", lambda: "python-2")
    attempt = claim(tmp_path, {})
    monkeypatch.setattr("runtime.startup.outcome_files.launch_of_rank", lambda: "python-1")
    assert not record_failure(tmp_path, PROBLEM, code=ExitCode.INTERNAL_ERROR)
    write_done(tmp_path, {"attempt": attempt})
    assert not record_failure(tmp_path, PROBLEM, code=ExitCode.INTERNAL_ERROR)
    assert not (tmp_path / "failed.json").exists()


def test_a_lost_peer_of_a_rank_that_was_asked_to_stop_is_a_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer heard the signal first and has ended already."""
    told = reporter(tmp_path)
    monkeypatch.setattr(told.context.stop, "_asked", "SIGTERM")
    assert told.failed(RuntimeError("gloo/transport/tcp/pair.cc: Connection closed by peer")) == 130
    assert capsys.readouterr().err == "stopped by SIGTERM; no checkpoint was written\n"


def test_a_service_thread_that_ended_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os._exit", codes.append)
        reporter(tmp_path).fail_now("SW953 the thread stop-signals ended (it returned)")
    assert codes == [3]
    assert "SW953 the thread stop-signals ended" in capsys.readouterr().err
    assert failed(tmp_path)["code"] == 3


def test_an_attempt_that_lost_the_run_reports_no_success(tmp_path: Path) -> None:
    """The done.json that is there, or appears, is not of this attempt."""
    told = reporter(tmp_path)
    told.context.attempt = claim(tmp_path, {})
    write_done(tmp_path, {"attempt": claim(tmp_path, {}), "step": 9})
    assert told.done({"step": 3}) == 3
    assert json.loads((tmp_path / "done.json").read_text())["step"] == 9


def test_the_checkpoint_of_older_attempts_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints" / step_name(7)).mkdir(parents=True)
    reporter(tmp_path).stopped("by SIGTERM")
    assert failed(tmp_path)["checkpoint"] == 7
    assert "the last checkpoint is step 7" in capsys.readouterr().err


def test_a_problem_of_a_key_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data and devices are only looked at when the strategy has long been read."""
    path = tmp_path / "s.yaml"
    path.write_text(STRATEGY + "data:\n  path: empty.txt\n")
    line = STRATEGY.count("\n") + 2
    start = reporter(tmp_path / "run", plan=build_plan(load(path)))
    start.invalid_input(
        [Problem(code="SW201", path="data.path", found="no text", expected="text", fix="give some")]
    )
    assert capsys.readouterr().err.startswith(f"{path}:{line}: SW201 data.path: no text\n")
    problem = failed(tmp_path / "run")["problems"][0]
    assert (problem["file"], problem["line"]) == (str(path), line)


def test_only_rank_0_writes(tmp_path: Path) -> None:
    reporter(tmp_path, rank=1).failed(OSError("gone"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_changes_no_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert reporter(tmp_path / "file" / "run").invalid_input([PROBLEM]) == 2
    told = capsys.readouterr().err
    assert told.count("parallel.ep") == 1
    assert "failed.json could not be written" in told


def test_a_peer_that_disappears_without_a_reason_has_a_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.startup.exit_reporter.ECHO_WAIT_S", 0.0)
    one = reporter(tmp_path, store=dist.HashStore())
    assert one.failed(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")) == 3
    assert "] SW631 " in failed(tmp_path)["problems"][0]["found"]
    assert "gloo" not in capsys.readouterr().err


def test_a_network_interface_that_is_not_there_is_no_lost_peer(tmp_path: Path) -> None:
    said = (
        "[enforce fail at gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to find address for: eth9"
    )
    assert reporter(tmp_path).failed(RuntimeError(said)) == 3
    assert "Unable to find address for: eth9" in failed(tmp_path)["problems"][0]["found"]


def test_a_peers_own_reason_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = dist.HashStore()
    one, other = reporter(tmp_path, store=store), reporter(tmp_path, rank=1, store=store)
    assert other.failed(MemoryError("no more")) == 3
    assert one.failed(RuntimeError("gloo/transport: Connection reset by peer")) == 3
    assert "MemoryError: no more" in failed(tmp_path)["problems"][0]["found"]
    told = capsys.readouterr().err
    assert told.count("MemoryError") == 1
    assert "SW631" not in told


def test_a_store_that_never_answers_keeps_no_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.startup.failure_reason.STORE_WAIT_S", 0.2)
    store = SimpleNamespace(check=lambda keys: threading.Event().wait(30), compare_set=None)
    rank = reporter(tmp_path, rank=1, store=store)
    began = time.monotonic()
    assert rank.failed(RuntimeError("gloo/transport: Connection reset by peer")) == 3
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(("rank", "says"), [(1, True), (2, False)])
def test_when_rank_0_was_killed_one_rank_says_so_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rank: int, says: bool
) -> None:
    def gone(keys: list[str]) -> bool:
        raise dist.DistNetworkError("Connection reset by peer")

    peer = reporter(tmp_path, rank=rank, store=SimpleNamespace(check=gone, compare_set=gone))
    peer.context.attempt = claim(tmp_path, {})
    assert peer.failed(RuntimeError("gloo/transport: Connection closed by peer")) == 3
    assert ("SW637 rank 0 on " in capsys.readouterr().err) == says
    assert (tmp_path / "failed.json").exists() == says


def test_when_rank_0_left_its_reason_the_others_are_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(keys: list[str]) -> bool:
        raise dist.DistNetworkError("Connection reset by peer")

    attempt = claim(tmp_path, {})
    first = reporter(tmp_path)
    first.context.attempt = attempt
    assert first.failed(MemoryError("no more")) == 3
    peer = reporter(tmp_path, rank=1, store=SimpleNamespace(check=gone, compare_set=gone))
    peer.context.attempt = attempt
    assert peer.failed(RuntimeError("gloo/transport: Connection closed by peer")) == 3
    assert capsys.readouterr().err.count("[rank ") == 1
    assert "MemoryError: no more" in failed(tmp_path)["problems"][0]["found"]


def test_an_operator_without_a_deterministic_kernel_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch's own words, of an operator that has none on any device."""
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(False)
    assert reporter(tmp_path).failed(caught.value) == 3
    told = capsys.readouterr().err
    assert "SW954 runtime.deterministic is true, and the operator put_ has no deterministic kernel" in told
    assert "set runtime.deterministic to false" in told
