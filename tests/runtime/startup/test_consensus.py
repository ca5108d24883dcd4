"""One decision for all ranks, reached by threads over one store, and no wait for ranks that have ended."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from planner import Problem, StrategyError, build_plan, loads
from runtime.parallel.deepspeed_groups import GroupMismatch
from runtime.process.identity import Identity
from runtime.process.launchers import Launcher
from runtime.process.start import Start
from runtime.process.stop_signals import StopRequest
from runtime.startup import consensus
from runtime.startup.consensus import StartDecision, agree_on_groups, agree_on_start
from runtime.startup.context import RunContext
from runtime.startup.exit_reporter import ExitReporter
from tests.runtime.startup.test_resume import STRATEGY
from tests.support.launching import free_port

PLAN = build_plan(loads(STRATEGY, ["parallel.ep=2"]))
FAULT = Problem(code="SW999", path="x", found="found", expected="expected", fix="fix")


class AskedToStop(StopRequest):
    asked = "SIGTERM"


def context_of(rank: int, problems: tuple[Problem, ...] = (), **given: Any) -> RunContext:
    identity = Identity(rank=rank, local_rank=rank, world_size=2, host="here", launcher=Launcher.TORCHRUN)
    start = Start(identity=identity, plan=PLAN, problems=problems)
    return RunContext(**{"start": start, "folder": None, **given})


def decisions(
    monkeypatch: pytest.MonkeyPatch, folder: Path, is_asked: bool = False, fault_of: int | None = None
) -> tuple[list[StartDecision], float]:
    """What both ranks follow, and the seconds until they know."""
    store = dist.HashStore()
    monkeypatch.setattr(consensus, "connect", lambda *_: store)
    found = [StartDecision()] * 2

    def run(rank: int) -> None:
        context = context_of(
            rank,
            (FAULT,) if rank == fault_of else (),
            folder=folder,
            stop=AskedToStop() if is_asked else StopRequest(),
        )
        reporter = ExitReporter(context=context)
        found[rank] = agree_on_start(context, reporter, lambda context: StartDecision(horizon=7))

    began = time.monotonic()
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, time.monotonic() - began


def test_all_train_when_nobody_has_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert decisions(monkeypatch, tmp_path)[0] == [StartDecision(exit_code=None, horizon=7)] * 2


def test_the_problem_of_any_rank_ends_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, seconds = decisions(monkeypatch, tmp_path, fault_of=1)
    assert [decision.exit_code for decision in found] == [2, 2]
    assert capsys.readouterr().err.count("SW999 x: found") == 1
    assert seconds < 5


def test_a_stop_before_the_start_ends_all_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, seconds = decisions(monkeypatch, tmp_path, is_asked=True)
    assert [decision.exit_code for decision in found] == [130, 130]
    assert seconds < 10, "rank 0 waits for no reader that has left"


def test_a_rank_that_is_asked_to_stop_does_not_wait_for_a_rank_0_that_has_left(tmp_path: Path) -> None:
    """Asked by USR1, as Slurm asks near a time limit, whose grace has no end: nobody serves the store."""
    plan = build_plan(loads(STRATEGY, ["parallel.ep=2", "launch.timeout=15 s"]))
    context = context_of(1, folder=tmp_path, stop=AskedToStop())
    identity = replace(context.identity, master_addr="127.0.0.1", master_port=free_port())
    context = replace(context, start=replace(context.start, plan=plan, identity=identity))
    began = time.monotonic()
    decision = agree_on_start(context, ExitReporter(context=context), lambda _: StartDecision())
    assert decision.exit_code == 130
    assert time.monotonic() - began < 10


def test_a_rank_that_never_comes_costs_the_timeout_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = dist.HashStore()
    monkeypatch.setattr(consensus, "connect", lambda *_: store)
    plan = build_plan(loads(STRATEGY, ["parallel.ep=2", "launch.timeout=1 s"]))
    context = context_of(0, folder=tmp_path)
    context = replace(context, start=replace(context.start, plan=plan))
    began = time.monotonic()
    decision = agree_on_start(context, ExitReporter(context=context), lambda _: StartDecision())
    assert decision.exit_code == 2
    assert "SW611 rank 1 (on localhost by the plan) did not report within 1 s" in capsys.readouterr().err
    assert time.monotonic() - began < 20, "rank 0 waits for nobody to read its decision"


def test_ranks_of_other_code_end_with_the_others_in_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = consensus.make_report

    def report(plan: Any, identity: Identity, problems: Any) -> Any:
        own = honest(plan, identity, problems)
        return replace(own, holds={**own.holds, "code": "other"}) if identity.rank == 1 else own

    monkeypatch.setattr(consensus, "make_report", report)
    found, seconds = decisions(monkeypatch, tmp_path)
    assert [decision.exit_code for decision in found] == [2, 2]
    told = capsys.readouterr().err
    assert told.count("SW612 rank 1 on here has code other\n") == 1
    assert seconds < 10


def test_variables_that_contradict_the_plan_end_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXPERT_GPUS", "0-7")
    found, _ = decisions(monkeypatch, tmp_path)
    assert [decision.exit_code for decision in found] == [2, 2]
    assert "SW302 EXPERT_GPUS: 0-7" in capsys.readouterr().err


def ends(monkeypatch: pytest.MonkeyPatch, make: Callable[[int], str]) -> list[object]:
    """What `agree_on_groups` gives each of two ranks, or the first Problem that it raises there."""
    store, barrier, flags = dist.HashStore(), threading.Barrier(2), []

    def sum_over_world(value: int, device: torch.device) -> int:
        flags.append(value)
        barrier.wait(10)
        return sum(flags)

    monkeypatch.setattr(consensus, "sum_over_world", sum_over_world)
    results: list[object] = [None, None]

    def run(rank: int) -> None:
        context = context_of(rank, store=store)
        try:
            results[rank] = agree_on_groups(lambda: make(rank), context, torch.device("cpu"))
        except StrategyError as error:
            results[rank] = error.problems[0]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_engines_with_the_plans_groups_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ends(monkeypatch, lambda rank: f"engine {rank}") == ["engine 0", "engine 1"]


def test_other_groups_on_one_rank_end_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(rank: int) -> str:
        if rank == 1:
            raise GroupMismatch("plan (0, 1), DeepSpeed (1,)")
        return "engine"

    problem, same = ends(monkeypatch, make)
    assert problem == same
    assert isinstance(problem, Problem)
    assert problem.code == "SW621"
    assert "rank 1: plan (0, 1), DeepSpeed (1,)" in problem.found
