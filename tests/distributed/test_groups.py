"""Process groups are the plan's; a mismatch with DeepSpeed's ends the run before step 1."""

from datetime import timedelta

import pytest
import torch.distributed as dist
from deepspeed.utils import groups as theirs

import runtime.training.engine
from planner import Plan, build_plan, load
from runtime.parallel.deepspeed_groups import GroupMismatch
from runtime.parallel.groups import make_groups
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny


def _plan() -> Plan:
    return build_plan(tiny(parallel={"ep": 2, "tp": 2, "dp": 2, "zero_stage": 1}, training__micro_batch=8))


def _tables(plan: Plan) -> dict[str, tuple[int, ...]]:
    groups = make_groups(plan, dist.get_rank())
    found = {axis: getattr(groups, axis) for axis in ("data", "tp", "ep", "edp")}
    for group in found.values():
        assert tuple(dist.get_process_group_ranks(group.process_group)) == group.ranks
    return {axis: group.ranks for axis, group in found.items()}


def test_groups_are_the_plans_tables() -> None:
    """DP2 × (EP2 folded over TP2) on four ranks, by hand."""
    ranks = run_ranks(4, _tables, _plan())
    assert [rank["tp"] for rank in ranks] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert [rank["data"] for rank in ranks] == [(0, 2), (1, 3), (0, 2), (1, 3)]
    assert [rank["ep"] for rank in ranks] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert [rank["edp"] for rank in ranks] == [(0, 2), (1, 3), (0, 2), (1, 3)]


def _start_with(plan: Plan, wrong: str) -> str:
    """Starts with one of DeepSpeed's groups swapped for another after ours were given to it."""
    give = runtime.training.engine.give_to_deepspeed
    # Every rank makes the group, as torch asks; it is the wrong one for all of them.
    other = dist.new_group([0, 1, 2, 3])

    def give_and_swap(groups: object) -> object:
        grid = give(groups)
        if wrong == "data":
            grid.get_data_parallel_group = lambda: other
        else:
            theirs._EXPERT_DATA_PARALLEL_GROUP["ep_size_2"] = other
        return grid

    runtime.training.engine.give_to_deepspeed = give_and_swap
    try:
        start(plan)
    except GroupMismatch as error:
        return str(error)
    return ""


@pytest.mark.parametrize("wrong", ["data", "edp"])
def test_a_group_mismatch_shows_both_tables(wrong: str) -> None:
    for rank, answer in enumerate(run_ranks(4, _start_with, _plan(), wrong)):
        assert answer.startswith(f"rank {rank}: ")
        planned = {0: "(0, 2)", 1: "(1, 3)", 2: "(0, 2)", 3: "(1, 3)"}[rank]
        plan_line, deepspeed_line = answer.splitlines()[1:]
        assert f"'{wrong}': {planned}" in plan_line
        assert f"'{wrong}': (0, 1, 2, 3)" in deepspeed_line


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_every_group_has_the_launch_timeout(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    waits = []

    def new_group(
        ranks: list[int], timeout: timedelta, backend: str | None, group_desc: str | None
    ) -> tuple[int, ...]:
        waits.append(timeout)
        return tuple(ranks)

    monkeypatch.setattr("torch.distributed.new_group", new_group)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: backend)
    plan = build_plan(load("ds_configs/ep64_tp2_staged.yaml", ["launch.timeout=90 s"]))
    make_groups(plan, 3)
    assert len(waits) >= 68
    assert set(waits) == {timedelta(seconds=90)}
