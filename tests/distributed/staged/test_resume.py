"""Checkpoints resume in another placement than they were saved in."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.equality import assert_equal
from tests.support.layout import run_relay
from tests.support.reference import tiny
from tests.support.settled import settled, with_seed

LAYOUTS: dict[str, dict[str, Any]] = {
    "staged": {"placement": "staged", "ep": 4, "tp": 2, "zero_stage": 1},
    "staged pp2": {"placement": "staged", "ep": 2, "tp": 2, "pp": 2, "zero_stage": 2},
    "pp2": {"ep": 2, "tp": 2, "pp": 2, "zero_stage": 0},
    "one stage": {"ep": 4, "tp": 2, "zero_stage": 1},
}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("staged", "staged"),
        ("staged", "one stage"),
        ("one stage", "staged pp2"),
        ("staged pp2", "pp2"),
        ("pp2", "staged"),
        ("pp2", "one stage"),
    ],
)
def test_resuming_in_another_layout_equals_one_process(tmp_path: Path, first: str, second: str) -> None:
    """Three steps in one, two more in the other, all held against one process that was not interrupted."""
    strategies = [tiny(parallel=LAYOUTS[name], training__micro_batch=2) for name in (first, second)]
    seed, expected = settled(strategies[0])
    found = run_relay(*(with_seed(strategy, seed) for strategy in strategies), folder=tmp_path, at=(3,))
    assert_equal(found, expected)


@pytest.mark.parametrize(
    "relay",
    [
        ({"ep": 2, "pp": 2, "layers_per_stage": (3, 1)}, {"ep": 2, "pp": 2, "layers_per_stage": (2, 2)}, {}),
        (
            {"placement": "staged", "ep": 2, "tp": 2, "pp": 2, "layers_per_stage": (1, 3), "zero_stage": 2},
            {"tp": 2, "pp": 3, "layers_per_stage": (1, 2, 1), "zero_stage": 0},
            {"ep": 2, "pp": 2, "layers_per_stage": (3, 1)},
        ),
    ],
    ids=["3+1, 2+2, one process", "staged 1+3, 1+2+1, 3+1"],
)
def test_resuming_with_other_cuts_of_the_layers_equals_one_process(
    tmp_path: Path, relay: tuple[dict[str, Any], ...]
) -> None:
    """Two steps in one, two in the next, the last in a third."""
    strategies = [
        tiny(
            parallel={"zero_stage": 1, **parallel},
            model__num_hidden_layers=4,
            training__micro_batch=2,
        )
        for parallel in relay
    ]
    seed, expected = settled(strategies[0])
    found = run_relay(*(with_seed(strategy, seed) for strategy in strategies), folder=tmp_path, at=(2, 4))
    assert_equal(found, expected)
