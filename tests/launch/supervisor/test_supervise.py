"""The supervisor's loop against attempts that a script plays: which follow, on which hosts, how it ends.

Real ranks under it: tests/launch/over_ssh/.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launch.scripts.launch_files import build_launch_plan, launch_paths
from launch.supervisor import attempt as attempt_module
from launch.supervisor import lost_hosts as lost_hosts_module
from launch.supervisor import reaping as reaping_module
from launch.supervisor import supervise as supervise_module
from launch.supervisor import watch as watch_module
from launch.supervisor.cordon import write_cordoned
from launch.supervisor.job_link import make_link
from launch.supervisor.journal import Journal, read_journal
from launch.supervisor.run_lock import supervision
from launch.supervisor.stop_requests import stop_requests
from launch.supervisor.supervise import Supervisor
from planner import StrategyError, loads
from planner.plan.plan import Plan
from planner.strategy.changes import change_keys
from tests.support.holders import other_process_that_holds

STRATEGY = """
name: play
cluster: {{hosts: [a, b, c], spare_hosts: 1, gpus_per_host: 2, gpu: cpu,
          links: {{intra_host: 10 GB/s, inter_host: 10 GB/s}}}}
model: {{num_hidden_layers: 2, num_experts: 8, hidden_size: 32, moe_intermediate_size: 32,
        num_attention_heads: 4, vocab_size: 512}}
parallel: {{ep: 4}}
training: {{precision: fp32, seq_length: 32, global_batch: 8, steps: 12, warmup_steps: 3}}
operate: {{hang_timeout: 1 s, restarts_per_hour: 4}}
launch: {{timeout: 2 s}}
output: {{folder: {runs}}}
"""

# Plays its scene: claims the run, beats, waits, leaves an outcome, exits. Obeys TERM as launch.sh does.
PLAYER = """#!{python}
import json, pathlib, signal, sys, time
run = pathlib.Path({run!r})
number = len(list((run / "attempts").glob("*.json"))) + 1
scene = json.loads((run / "scenes.json").read_text())[number - 1]
(run / "attempts").mkdir(exist_ok=True)
(run / "attempts" / f"{{number:04d}}.json").write_text("{{}}")
(run / f"arguments-{{number}}").write_text(" ".join(sys.argv[1:]))
for name in ("done.json", "failed.json"):
    (run / name).unlink(missing_ok=True)
def leave(code):
    name = "done.json" if code == 0 else "failed.json"
    content = {{"attempt": number, "code": code, "problems": scene.get("problems", []), "checkpoint": 3}}
    (run / name).write_text(json.dumps(content))
    time.sleep(scene.get("lingers", 0))
    sys.exit(code)
signal.signal(signal.SIGTERM, lambda *_: leave(130))
(run / "heartbeats").mkdir(exist_ok=True)
for host, ranks in scene.get("heartbeats", {{}}).items():
    beats = {{rank: dict(pid=1, attempt=number, phase="step", step=5, beats=9, state=state, waits_in=wait)
             for rank, (state, wait) in ranks.items()}}
    (run / "heartbeats" / f"{{host}}.json").write_text(json.dumps(beats))
time.sleep(scene.get("seconds", 0))
if scene.get("code") is not None:
    leave(scene["code"])
sys.exit(7)
"""

WAIT = {"group": "world", "operation": "all_reduce", "number": 3}


class Parents:
    """In the place of warm parents: notes how they were ended."""

    def __init__(self, link: Path, hosts: tuple[str, ...]) -> None:
        self.link, self.hosts, self.end = link, hosts, ""
        self.codes: dict[str, int] = {}

    def missing(self) -> dict[str, int]:
        return self.codes

    def close(self) -> None:
        self.end = "with their attempt"

    def kill(self) -> None:
        self.end = "unused"


class Play:
    """A run whose attempts are scenes; `down`: hosts that do not answer."""

    def __init__(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.strategy = loads(STRATEGY.format(runs=runs))
        self.run = runs / "play"
        self.run.mkdir(parents=True)
        self.down: set[str] = set()
        self.fenced: list[tuple[str, ...]] = []
        self.hosts: list[tuple[str, ...]] = []
        self.parents: list[Parents] = []
        monkeypatch.setattr(supervise_module, "launch_files", self._files)
        monkeypatch.setattr(supervise_module, "unreachable", self._unreachable)
        monkeypatch.setattr(supervise_module, "WarmParents", self._warm_parents)
        monkeypatch.setattr(attempt_module, "END_WAIT_S", 0.1)
        monkeypatch.setattr(attempt_module, "fence", lambda paths, hosts, link: ())

    def supervise(self, *scenes: dict[str, Any]) -> int:
        (self.run / "scenes.json").write_text(json.dumps(scenes))
        supervisor = Supervisor(self.strategy, Journal(self.run, lambda entry: None), stdout=2)
        with supervision(self.run), stop_requests(supervisor):
            return supervisor.run()

    def events(self) -> list[str]:
        return [entry.event for entry in read_journal(self.run)]

    def last_text(self) -> str:
        return list(read_journal(self.run))[-1].text

    def _files(self, plan: Plan, paths: object, environ: object) -> dict[str, bytes]:
        self.hosts.append(tuple(host.name for host in plan.hosts))
        return {"launch.sh": PLAYER.format(python=sys.executable, run=str(self.run)).encode()}

    def _warm_parents(self, paths: object, link: Path, hosts: Sequence[str]) -> "Parents":
        self.parents.append(Parents(link, tuple(hosts)))
        return self.parents[-1]

    def _unreachable(self, paths: object, hosts: Sequence[str], timeout_s: float) -> tuple[str, ...]:
        return tuple(host for host in hosts if host in self.down)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    return Play(tmp_path / "runs", monkeypatch)


def beats(**states: str) -> dict[str, Any]:
    """Of ranks 0 to 3 on a and b; r1="gone". The others run and wait in a collective."""
    ranks = {str(rank): [states.get(f"r{rank}", "running"), WAIT] for rank in range(4)}
    for rank in range(4):
        if f"r{rank}" in states:
            ranks[str(rank)][1] = None
    return {"a": {rank: ranks[rank] for rank in "01"}, "b": {rank: ranks[rank] for rank in "23"}}


def test_a_run_that_is_done_needs_one_attempt(play: Play) -> None:
    assert play.supervise({"code": 0}) == 0
    assert play.events() == ["start", "end"]
    assert (play.run / "arguments-1").read_text().startswith("--job ")


def test_a_run_that_was_started_by_hand_and_lives_is_left_alone(play: Play) -> None:
    with other_process_that_holds(play.run) as other, pytest.raises(StrategyError) as refused:
        play.supervise({"code": 0})
    (problem,) = refused.value.problems
    assert (problem.code, f"pid {other.pid} on" in problem.found) == ("SW647", True)
    assert (play.hosts, play.events()) == ([], []), "nothing was started or written"


def test_a_killed_rank_s_host_is_replaced_in_its_place(play: Play) -> None:
    lost = {"heartbeats": beats(r1="gone"), "seconds": 30}
    (play.run / "heartbeats").mkdir()
    (play.run / "heartbeats" / ".b.json.4711").touch()  # a rank was killed while it wrote
    assert play.supervise(lost, {"code": 0}) == 0
    assert [path.name for path in (play.run / "heartbeats").iterdir() if path.name.startswith(".")] == []
    assert play.hosts == [("a", "b"), ("c", "b")]
    assert play.events() == ["start", "restart", "replace", "start", "end"]
    assert (play.run / "arguments-2").read_text().startswith("--take-over --job ")


def test_a_host_that_does_not_answer_is_replaced_whatever_its_ranks_said(play: Play) -> None:
    play.down = {"b"}
    broken = {"code": 3, "problems": [{"found": "[rank 0/4 a] SW631 a peer rank disappeared"}]}
    assert play.supervise(broken, {"code": 0}) == 0
    assert play.hosts == [("a", "b"), ("a", "c")]
    told = next(entry for entry in read_journal(play.run) if entry.event == "not fenced")
    assert told.text.startswith("b could not be reached: ranks of this attempt may still run there")


def test_what_ended_ranks_have_left_is_no_hang(play: Play) -> None:
    """launch.sh may take longer to end than operate.hang_timeout, which is 1 s here."""
    assert play.supervise({"heartbeats": beats(), "code": 0, "lingers": 3}, {"code": 0}) == 0
    assert play.events() == ["start", "end"]


def test_a_launcher_that_does_not_end_is_ended(play: Play) -> None:
    play.monkeypatch.setattr(watch_module, "FAILED_WAIT_S", 1.0)
    lasting = {"code": 3, "problems": [{"found": "[rank 0/4 a] ValueError: 7 (a.py:1)"}], "lingers": 60}
    assert play.supervise(lasting, {"code": 0}) == 0
    assert play.events() == ["start", "restart", "start", "end"]


def test_a_hang_is_told_with_its_rank_and_its_host_leaves(play: Play) -> None:
    assert play.supervise({"heartbeats": beats(r3="running"), "seconds": 60}, {"code": 0}) == 0
    assert play.hosts == [("a", "b"), ("a", "c")]
    restart = next(entry for entry in read_journal(play.run) if entry.event == "restart")
    assert "rank 3 has begun nothing new for" in restart.text


def test_without_a_spare_a_host_that_answers_is_used_again(play: Play) -> None:
    lost = {"heartbeats": beats(r1="gone"), "seconds": 30}
    assert play.supervise(lost, {**lost, "heartbeats": beats(r2="gone")}, {"code": 0}) == 0
    assert play.hosts == [("a", "b"), ("c", "b"), ("c", "b")]
    assert "keep" in play.events()


def test_without_a_spare_and_a_host_the_run_continues_on_what_is_left(play: Play) -> None:
    play.down = {"b", "c"}
    peer_gone = {"code": 3, "problems": [{"found": "[rank 0/4 a] SW631 a peer rank disappeared"}]}
    assert play.supervise(peer_gone, peer_gone, {"code": 0}) == 0
    assert play.hosts[0] == ("a", "b")
    assert play.hosts[-1] == ("a",)
    assert "fallback" in play.events()


def test_where_no_host_answers_they_are_asked_again_before_they_are_given_up(play: Play) -> None:
    """As when the supervisor's own network is away for a while: then nothing is wrong with the hosts."""
    play.monkeypatch.setattr(lost_hosts_module, "CUT_OFF_PAUSE_S", 0.1)
    answers = [("a", "b"), ("a", "b"), ()]
    play.monkeypatch.setattr(supervise_module, "unreachable", lambda *_: answers.pop(0))
    peer_gone = {"code": 3, "problems": [{"found": "[rank 0/4 a] SW631 a peer rank disappeared"}]}
    assert play.supervise(peer_gone, {"code": 0}) == 0
    assert play.hosts == [("a", "b"), ("a", "b")]
    assert play.events() == ["start", "cut off", "restart", "start", "end"]


def corrupt(*hosts: str) -> dict[str, Any]:
    return {"code": 3, "problems": [{"code": "SW902", "found": "step 4: copies differ", "hosts": hosts}]}


def test_silent_corruption_ends_the_run_where_it_is_to_stop(play: Play) -> None:
    assert play.supervise(corrupt("b")) == 3
    assert play.events() == ["start", "end"]
    assert play.last_text() == "step 4: copies differ: runtime.on_corruption is stop"


def test_the_host_of_silent_corruption_is_replaced_and_never_used_again(play: Play) -> None:
    """Without a spare, too, although ssh reaches it."""
    play.strategy = change_keys(play.strategy, {"runtime.on_corruption": "replace"})
    assert play.supervise(corrupt("b"), corrupt("a"), {"code": 0}) == 0
    assert play.hosts == [("a", "b"), ("a", "c"), ("c",)]
    texts = {entry.event: entry.text for entry in read_journal(play.run)}
    assert texts["replace"] == "b left (silent corruption); now on a, c"
    assert "no spare is left for a" in texts["fallback"]


def test_the_same_error_twice_ends_it(play: Play) -> None:
    error = {"code": 3, "problems": [{"found": "[rank 0/4 a] ValueError: 7 (a.py:1)"}]}
    assert play.supervise(error, error, {"code": 0}) == 3
    assert play.events().count("start") == 2
    assert "a second time" in play.last_text()


@pytest.mark.parametrize("code", [1, 2])
def test_what_no_other_attempt_mends_is_not_tried_again(play: Play, code: int) -> None:
    assert (
        play.supervise({"code": code, "problems": [{"code": "SW955", "found": "nan"}]}, {"code": 0}) == code
    )
    assert play.events().count("start") == 1


def test_too_many_restarts_within_an_hour_end_it(play: Play) -> None:
    stopped = {"code": 130}
    assert play.supervise(*[stopped] * 6) == 3
    assert play.events().count("start") == 5


def test_a_launcher_that_ends_without_a_word_is_an_error(play: Play) -> None:
    assert play.supervise({}, {}, {"code": 0}) == 3
    assert "code 7" in play.last_text()


def test_a_request_to_stop_is_passed_on_and_no_attempt_follows(play: Play) -> None:
    def ask() -> None:
        while not (play.run / "attempts" / "0001.json").exists():
            time.sleep(0.05)
        time.sleep(0.3)  # its handler is set by now
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=ask)
    thread.start()
    assert play.supervise({"seconds": 60}, {"code": 0}) == 130
    thread.join()
    assert play.events() == ["start", "end"]


def test_a_cordoned_host_is_left_at_a_checkpoint(play: Play) -> None:
    def cordon() -> None:
        while not (play.run / "attempts" / "0001.json").exists():
            time.sleep(0.05)
        time.sleep(0.3)
        write_cordoned(play.run.parent, ("a",))

    thread = threading.Thread(target=cordon)
    thread.start()
    assert play.supervise({"seconds": 60}, {"code": 0}) == 0
    thread.join()
    assert play.hosts == [("a", "b"), ("c", "b")]


def test_a_cordoned_host_is_not_used_from_the_start(play: Play) -> None:
    write_cordoned(play.run.parent, ("b",))
    assert play.supervise({"code": 0}) == 0
    assert play.hosts == [("a", "c")]


def test_what_a_killed_supervisor_left_is_ended_first(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = launch_paths(build_launch_plan(play.strategy))
    link, next_link = make_link(paths, "20261130-x-4711-1"), make_link(paths, "20261130-x-4711-2")
    make_link(paths, "20261130-x-47-1")  # of another supervisor
    Journal(play.run, lambda entry: None).write(
        "start", "attempt 1", pid=4712, jobs="20261130-x-4711", hosts=["a", "b"], spares=["c"]
    )
    fenced: list[tuple[Sequence[str], Path]] = []

    def fence(paths: object, hosts: Sequence[str], found: Path) -> tuple[str, ...]:
        fenced.append((hosts, found))
        return ("b",) if found == link else ()

    monkeypatch.setattr(reaping_module, "fence", fence)
    assert play.supervise({"code": 0}) == 0
    assert fenced == [(["a", "b", "c"], link), (["a", "b", "c"], next_link)]
    assert not next_link.parents[1].exists()
    reap = next(entry for entry in read_journal(play.run) if entry.event == "reap")
    assert "b could not be reached, ranks may still run there" in reap.text
    assert (play.run / "arguments-1").read_text().startswith("--take-over --job ")


def test_parents_are_warmed_up_for_the_next_attempt_on_all_hosts_and_spares(play: Play) -> None:
    lost = {"heartbeats": beats(r1="gone"), "seconds": 30}
    assert play.supervise(lost, {"heartbeats": beats(), "seconds": 2, "code": 0}) == 0
    assert [made.hosts for made in play.parents] == [("a", "b", "c"), ("c", "b")]
    assert [made.end for made in play.parents] == ["with their attempt", "unused"]
    job = play.parents[0].link.name.removeprefix("python-")
    assert (play.run / "arguments-2").read_text() == f"--take-over --job {job}"


def test_a_host_without_its_warm_parent_is_told(play: Play) -> None:
    made = play._warm_parents

    def failed(paths: object, link: Path, hosts: Sequence[str]) -> Parents:
        parents = made(paths, link, hosts)
        parents.codes = {"b": 1}
        return parents

    play.monkeypatch.setattr(supervise_module, "WarmParents", failed)
    assert play.supervise({"heartbeats": beats(r1="gone"), "seconds": 30}, {"code": 0}) == 0
    cold = next(entry for entry in read_journal(play.run) if entry.event == "cold")
    assert cold.text.startswith("no warm parent on b: its ranks start by themselves")


def test_a_recovery_is_told_with_its_parts(play: Play) -> None:
    lost = {"heartbeats": beats(r1="gone"), "seconds": 30}
    assert play.supervise(lost, {"heartbeats": beats(), "seconds": 2, "code": 0}) == 0
    told = next(entry for entry in read_journal(play.run) if entry.event == "recovered")
    assert told.text.startswith("recovered in ")
    parts = [told.facts[f"{name}_s"] for name in ("detect", "decide", "start", "load", "replay")]
    assert sum(parts) == pytest.approx(told.facts["total_s"], abs=0.05)


def test_a_rank_that_is_lost_twice_at_one_step_ends_the_run(play: Play) -> None:
    lost = {"heartbeats": beats(r1="gone"), "seconds": 30}
    assert play.supervise(lost, lost, {"code": 0}) == 3
    assert "a second time" in play.last_text()


def test_one_supervisor_of_a_run(play: Play) -> None:
    with supervision(play.run), pytest.raises(StrategyError) as raised, supervision(play.run):
        raise AssertionError("not reached")
    assert raised.value.problems[0].code == "SW451"
    assert f"pid {os.getpid()}" in raised.value.problems[0].found
