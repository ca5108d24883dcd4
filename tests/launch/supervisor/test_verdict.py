"""How an attempt ended, from what it left and what was seen of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.supervisor.verdict import Cause, Outcome, Verdict, judge, read_outcome


def outcome(code: int, found: str = "", problem_code: str | None = None) -> Outcome:
    problems = [{"code": problem_code, "found": found}] if found else []
    return Outcome(attempt=1, code=code, problems=problems)


@pytest.mark.parametrize(
    ("code", "found", "problem_code", "cause"),
    [
        (0, "", None, Cause.DONE),
        (1, "the loss of step 41 is not finite", "SW955", Cause.DIVERGED),
        (2, "20 is not divisible by 8", "SW201", Cause.WRONG_INPUT),
        (130, "", None, Cause.STOPPED),
        (3, "port 29500 is in use by pid 7", "SW632", Cause.PROGRAM),  # the ranks had met
        (3, "the ranks of node2 ended with exit code 1: x", "SW445", Cause.RANK_LOST),
        (3, "the ranks ended without a reason; their launcher …", "SW447", Cause.RANK_LOST),
        (3, "[rank 1/4 a] RuntimeError: x (router.py:81)", None, Cause.PROGRAM),
        (3, "[rank 0/4 a] SW631 a peer rank disappeared", None, Cause.RANK_LOST),
        (3, "[rank 0/4 a] SW636 a collective did not end", None, Cause.HANG),
        (3, "[rank 0/4 a] SW637 rank 0 on b ended without a reason", None, Cause.RANK_LOST),
    ],
)
def test_what_rank_0_wrote_decides(code: int, found: str, problem_code: str | None, cause: Cause) -> None:
    assert judge(outcome(code, found, problem_code)).cause is cause


@pytest.mark.parametrize("code", ["SW446", "SW608", "SW611", "SW632", "SW633", "SW634", "SW638"])
def test_ranks_that_never_met_are_no_reason_to_try_again(code: str) -> None:
    assert judge(outcome(3, "why", code), has_met=False).cause is Cause.NO_MEETING


@pytest.mark.parametrize(
    ("found", "host"),
    [
        ("the ranks of node2 ended with exit code 1: ModuleNotFoundError: x", "node2"),
        ("the connection to gpu-7.rack was lost, or its ssh failed", "gpu-7.rack"),
    ],
)
def test_the_host_whose_ranks_ended_is_the_one_that_failed(found: str, host: str) -> None:
    assert judge(outcome(3, found, "SW445")).hosts == (host,)


@pytest.mark.parametrize(
    ("stall", "hosts"),
    [
        ("rank 3 on node2 did not take part", ("node2",)),
        ("ranks 2,4-6 on node2, gpu-7.rack did not take part", ("node2", "gpu-7.rack")),
        ("all ranks wait for each other", ()),
    ],
)
def test_a_collective_that_timed_out_is_a_hang_of_the_hosts_that_were_not_in_it(
    stall: str, hosts: tuple[str, ...]
) -> None:
    text = (
        f"[rank 0/8 node1] SW636 a collective did not end within launch.timeout (600 s): {stall}\n  it hangs"
    )
    verdict = judge(outcome(3, text))
    assert (verdict.cause, verdict.hosts) == (Cause.HANG, hosts)


def test_a_start_that_fails_alike_on_another_host_is_the_same_error() -> None:
    first, second = (
        judge(outcome(3, f"the ranks of {host} ended with exit code 1: no psutil", "SW445"), has_met=False)
        for host in ("node2", "node3")
    )
    assert first.signature == second.signature is not None


def test_a_rank_that_is_lost_twice_at_one_step_is_lost_by_the_program() -> None:
    assert judge(None, gone=(1,), step=7).signature == judge(None, gone=(1,), step=7).signature is not None
    assert judge(None, gone=(1,), step=7).signature != judge(None, gone=(1,), step=8).signature
    assert judge(None, gone=(1,), step=7).signature != judge(None, gone=(2,), step=7).signature


def test_an_unknown_step_and_a_hang_prove_nothing_of_the_program() -> None:
    assert judge(outcome(3, "[rank 0/4 a] SW631 a peer rank disappeared")).signature is None
    assert Verdict(cause=Cause.HANG, reason="rank 3 …").signature is None


def test_a_rank_that_was_seen_to_go_is_the_cause_not_what_its_peers_say() -> None:
    for left in (outcome(130), outcome(3, "[rank 0/4 a] RuntimeError: Broken pipe"), None):
        verdict = judge(left, gone=(3, 2))
        assert (verdict.cause, verdict.ranks) == (Cause.RANK_LOST, (2, 3))
        assert verdict.reason.startswith("ranks 2, 3 ended without a reason")


def test_a_rank_that_gave_its_reason_and_went_at_once_was_not_killed() -> None:
    verdict = judge(outcome(3, "[rank 2/8 node2] RuntimeError: x (heartbeats.py:81)"), gone=(2,))
    assert (verdict.cause, verdict.ranks) == (Cause.PROGRAM, (2,))
    assert judge(outcome(3, "[rank 2/8 node2] SW631 a peer disappeared"), gone=(2,)).cause is Cause.RANK_LOST


def test_a_run_that_is_done_is_done_whoever_went_first() -> None:
    assert judge(outcome(0), gone=(1,)).cause is Cause.DONE


def test_without_an_outcome_the_launcher_s_code_is_told() -> None:
    verdict = judge(None, exit_code=127)
    assert verdict.cause is Cause.PROGRAM
    assert "127" in verdict.reason


def test_the_rank_of_an_error_is_named() -> None:
    assert judge(outcome(3, "[rank 13/64 a] ValueError: x (a.py:1)")).ranks == (13,)


def test_the_same_error_of_another_rank_has_the_same_signature() -> None:
    first = judge(outcome(3, "[rank 1/4 node-a] RuntimeError: token 17 at 0x7f00 (router.py:81)"))
    second = judge(outcome(3, "[rank 3/4 node-b] RuntimeError: token 9 at 0x7fab (router.py:81)"))
    other = judge(outcome(3, "[rank 1/4 node-a] ValueError: token 17 (router.py:81)"))
    assert first.signature == second.signature != other.signature


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def test_only_a_newer_attempt_s_outcome_counts(tmp_path: Path) -> None:
    write(tmp_path, "failed.json", {"attempt": 3, "code": 3, "problems": [], "checkpoint": 20})
    assert read_outcome(tmp_path, after=3) is None
    found = read_outcome(tmp_path, after=2)
    assert found is not None
    assert (found.attempt, found.code, found.checkpoint) == (3, 3, 20)
    write(tmp_path, "done.json", {"attempt": 4, "step": 40})
    done = read_outcome(tmp_path, after=2)
    assert done is not None
    assert (done.attempt, done.code) == (4, 0)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"attempt": 9}', '{"attempt": 9, "code": 3, "problems": [1]}']
)
def test_a_broken_outcome_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "failed.json").write_text(content)
    assert read_outcome(tmp_path, after=0) is None


@pytest.mark.parametrize("code", ["SW902", "SW908"])
def test_silent_corruption_names_the_hosts_and_is_no_error_of_the_program(code: str) -> None:
    problems = [{"code": code, "found": "step 7: copies differ", "hosts": ["b", "c", "b"], "ranks": [2, 3]}]
    verdict = judge(Outcome(attempt=1, code=3, problems=problems), gone=[1])
    assert (verdict.cause, verdict.hosts) == (Cause.CORRUPTED, ("b", "c"))
    assert verdict.signature is None
    assert judge(outcome(3, "step 7: copies differ", code)).hosts == ()


@pytest.mark.parametrize("content", ["[" * 100_000, '{"attempt": Infinity}', '{"attempt": NaN}', "[1]", ""])
@pytest.mark.parametrize("name", ["done.json", "failed.json"])
def test_an_outcome_that_cannot_be_read_is_none(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_outcome(tmp_path, after=0) is None
