"""Replica check: one flipped bit is found, and the parameter named, on every rank of the group."""

import pytest
import torch
import torch.distributed as dist

from planner import Plan, build_plan
from runtime.training.replica_check import ReplicasDiverged, check_replicas
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny

NORM = "model.model.norm.weight"
EXPERT = "model.model.layers.0.mlp.experts.down_proj"
HEAD = "model.lm_head.weight"


def _flip(plan: Plan, name: str | None) -> str:
    """Flips the last bit of one element on rank 1; returns what the check says."""
    engine, groups = start(plan)
    if name is not None and dist.get_rank() == 1:
        bits = dict(engine.module.named_parameters())[name].data.view(torch.int32).view(-1)
        bits[3] ^= 1
    try:
        check_replicas(engine.module, groups)
    except ReplicasDiverged as error:
        return str(error)
    return ""


def _plan(**degrees: int) -> Plan:
    width = degrees.get("dp", 1) * max(degrees.get("ep", 1), degrees.get("tp", 1)) // degrees.get("tp", 1)
    return build_plan(tiny(parallel=degrees | {"zero_stage": 0}, training__micro_batch=16 // width))


@pytest.mark.parametrize("degrees", [{"ep": 4, "tp": 2}, {"ep": 1, "tp": 2, "dp": 2}], ids=str)
def test_sound_replicas_pass(degrees: dict[str, int]) -> None:
    assert run_ranks(4, _flip, _plan(**degrees), None) == [""] * 4


def test_a_tp_partner_that_diverged_is_named() -> None:
    answers = run_ranks(4, _flip, _plan(ep=4, tp=2), NORM)
    assert all(NORM in answer for answer in (answers[0], answers[1], answers[3]))
    assert "SW902" in answers[0]
    assert "(tp group)" in answers[0]


def test_a_split_parameter_is_compared_over_data_only() -> None:
    answers = run_ranks(4, _flip, _plan(ep=1, tp=2, dp=2), HEAD)
    assert [HEAD in answer for answer in answers] == [False, True, False, True]
    assert "(data group)" in answers[1]


def test_an_expert_is_compared_over_its_own_peers() -> None:
    answers = run_ranks(4, _flip, _plan(ep=2, dp=2), EXPERT)
    assert [EXPERT in answer for answer in answers] == [False, True, False, True]
    assert "(edp group)" in answers[1]
