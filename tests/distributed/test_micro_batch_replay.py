"""Replay of a micro-batch: it changes no bit, and a flip in a pass is found on the rank where it was."""

from typing import Any

import pytest
import torch

from planner import Plan, Strategy, build_plan
from tests.support.flips import Course, Flip, run_flipped
from tests.support.layout import run_layout
from tests.support.ranks import kept
from tests.support.reference import Trajectory, tiny

# Layouts of four ranks with what passes between them: each kind of collective, transfer and recomputation.
LAYOUTS: dict[str, dict[str, Any]] = {
    "zero 0": {"parallel": {"ep": 2, "dp": 2, "zero_stage": 0}, "training__micro_batch": 4},
    "tp, recompute": {
        "parallel": {"ep": 4, "tp": 2, "zero_stage": 1},
        "training__micro_batch": 2,
        "runtime__recompute": "layer",
    },
    "pipeline": {
        "parallel": {"pp": 2, "ep": 2, "zero_stage": 2},
        "training__precision": "bf16",
        "training__micro_batch": 2,
    },
    "staged, fp8": {
        "parallel": {"placement": "staged", "ep": 2, "zero_stage": 2},
        "training__precision": "fp8",
        "training__micro_batch": 2,
        "runtime__fp8_payload": True,
    },
    "capacity, bias": {
        "parallel": {"ep": 2, "dp": 2, "zero_stage": 2},
        "model__dispatch": "capacity",
        "model__capacity_factor": 1.0,
        "training__balance": "bias",
        "training__bias_update_speed": 0.02,
        "training__micro_batch": 2,
    },
    "zero, tp": {
        "parallel": {"tp": 2, "dp": 2, "zero_stage": 1},
        "model__vocab_size": 47,
        "training__precision": "bf16",
        "training__micro_batch": 4,
    },
    "stock dispatch": {
        "parallel": {"ep": 2, "dp": 2, "zero_stage": 1},
        "model__dispatch": "deepspeed",
        "training__balance_loss": 0.0,
        "training__z_loss": 0.0,
        "training__micro_batch": 4,
    },
}

QUICK = ("pipeline", "zero, tp")


def _strategy(name: str, **changes: Any) -> Strategy:
    return tiny(**LAYOUTS[name], **changes)


def _tensors(course: Trajectory) -> list[dict[Any, torch.Tensor]]:
    return [*course.gradients, course.final, dict(enumerate(course.expert_tokens))]


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS],
)
def test_it_changes_no_bit(name: str) -> None:
    found = run_layout(_strategy(name, runtime__replay_every=1))
    expected = run_layout(_strategy(name))
    for what in ("losses", "aux_losses", "z_losses", "norms"):
        assert getattr(found, what) == getattr(expected, what), what
    for mine, theirs in zip(_tensors(found), _tensors(expected), strict=True):
        assert mine.keys() == theirs.keys()
        assert [key for key in theirs if not torch.equal(mine[key], theirs[key])] == []


def _plan(name: str, **changes: Any) -> Plan:
    """One micro-batch a step, which is the one that is computed twice."""
    width = {"zero 0": 4, "tp, recompute": 2, "pipeline": 2, "staged, fp8": 2}[name]
    changes |= {"training__micro_batch": 16 // width, "runtime__replay_every": 1}
    return build_plan(tiny(**{**LAYOUTS[name], **changes}))


def _courses(plan: Plan, flip: Flip) -> Course:
    first, *others = kept(4).run(run_flipped, plan, flip)
    for other in others:
        assert (other.code, other.ranks, other.whats) == (first.code, first.ranks, first.whats)
    return first


@pytest.mark.parametrize("name", ["zero 0", "tp, recompute", "pipeline", "staged, fp8"])
@pytest.mark.parametrize("kind", ["gradient", "activation"])
def test_a_flip_in_a_pass_is_found_on_its_rank(name: str, kind: Any) -> None:
    plan = _plan(name)
    for seed, rank in ((1, 1), (2, 2)):
        found = _courses(plan, Flip(kind, rank, 2, seed))
        assert (found.code, found.step, found.ranks) == ("SW908", 2, (rank,)), found
        assert len(found.losses) == 1, "the update was not made"


def test_the_parameter_is_named() -> None:
    name = "layers.1.mlp.experts.down_proj"
    found = _courses(_plan("zero 0"), Flip("gradient", 3, 1, 5, name))
    assert found.whats == (f"the gradient of model.{name} in micro-batch 0",)
    name = "layers.0.self_attn.q_proj"
    found = _courses(_plan("zero 0"), Flip("activation", 3, 1, 5, name))
    assert found.whats == (f"the output of model.{name} in micro-batch 0",)
