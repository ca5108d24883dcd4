"""Bit flips from a seed, in weights, moments, gradients and activations: none that a copy or a replay covers
passes in silence, whichever rank, parameter, element, bit and step it hits; and those that nothing covers are
those that the planner does not count as covered."""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytest

from planner import Plan, build_plan
from tests.support.flips import STEPS, Course, Flip, Kind, run_flipped
from tests.support.ranks import kept
from tests.support.reference import tiny

# Four ranks each, checked in every step, in which the one micro-batch is computed twice.
LAYOUTS: dict[str, dict[str, Any]] = {
    # Four copies of what is dense, two of each expert, and of their moments.
    "zero 0": {"parallel": {"ep": 2, "dp": 2, "zero_stage": 0}, "training__micro_batch": 4},
    # Copies of weights; TP partners share norms and routers, and their moments.
    "zero 2, tp": {
        "parallel": {"tp": 2, "dp": 2, "zero_stage": 2},
        "training__precision": "bf16",
        "training__micro_batch": 8,
    },
    "pipeline": {
        "parallel": {"pp": 2, "dp": 2, "zero_stage": 1},
        "training__micro_batch": 8,
        "runtime__recompute": "layer",
    },
}
# What has copies, or is computed twice.
COVERED: list[tuple[str, Kind, str]] = [
    ("zero 0", "weight", ""),
    ("zero 0", "moment", ""),
    ("zero 0", "gradient", ""),
    ("zero 0", "activation", ""),
    ("zero 2, tp", "weight", ""),
    ("zero 2, tp", "moment", "norm"),
    ("zero 2, tp", "gradient", ""),
    ("zero 2, tp", "activation", ""),
    ("pipeline", "gradient", ""),
    ("pipeline", "activation", ""),
]


def _plan(layout: str) -> Plan:
    checked = {"runtime__check_replicas_every": 1, "runtime__replay_every": 1, "training__steps": STEPS}
    return build_plan(tiny(**{**LAYOUTS[layout], **checked}))


@lru_cache
def _sound(layout: str) -> list[Course]:
    courses: list[Course] = kept(4).run(run_flipped, _plan(layout), None)
    assert {course.code for course in courses} == {""}
    return courses


def _flips(seed: int, number: int) -> list[tuple[str, Flip]]:
    chance = random.Random(seed)
    found = []
    for place in range(number):
        layout, kind, name = COVERED[place % len(COVERED)]
        rank = chance.randrange(4)
        if kind == "moment" and name:
            rank = chance.choice((2, 3))  # the ends of the partitions, where the norms are
        found.append((layout, Flip(kind, rank, chance.randint(2, STEPS), chance.randrange(10**6), name)))
    return found


def _outcome(layout: str, flip: Flip) -> tuple[str, list[Course]]:
    """found: a check ended the run. harmless: not a bit of losses, weights or moments is another. silent."""
    courses: list[Course] = kept(4).run(run_flipped, _plan(layout), flip)
    sound = _sound(layout)
    codes = {course.code for course in courses}
    assert len(codes) == 1, f"ranks disagree: {codes}"
    if codes != {""}:
        return "found", courses
    is_equal = all(
        (course.losses, course.final) == (other.losses, other.final)
        for course, other in zip(courses, sound, strict=True)
    )
    return ("harmless" if is_equal else "silent"), courses


def _check(flips: Sequence[tuple[str, Flip]]) -> None:
    outcomes = []
    for layout, flip in flips:
        outcome, courses = _outcome(layout, flip)
        assert outcome != "silent", (layout, flip, courses[flip.rank].flipped)
        if outcome == "found":
            assert courses[0].step == flip.step, (layout, flip)
            assert flip.rank in courses[0].ranks, (layout, flip, courses[0])
        outcomes.append(outcome)
    # A flip of a bit that rounding swallows changes nothing; most change something.
    assert outcomes.count("found") >= 0.8 * len(flips), outcomes


def test_a_flip_that_is_covered_does_not_pass() -> None:
    _check(_flips(seed=1, number=len(COVERED)))


@pytest.mark.slow  # a minute
def test_fifty_flips_that_are_covered_do_not_pass() -> None:
    _check(_flips(seed=2026, number=50))


def test_a_flip_without_a_copy_passes_in_silence() -> None:
    """An expert's moment under ZeRO lies on one rank; nothing sees it, and the planner counts it so."""
    outcome, courses = _outcome(
        "zero 2, tp", Flip("moment", 1, 2, 4, "exp_avg_sq model.model.layers.0.mlp.experts")
    )
    assert outcome == "silent", courses[1].flipped
