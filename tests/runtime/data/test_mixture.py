"""The order in which a mixture's parts give sequences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.data.mixture import PERIOD, Mixture, make_mixture


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([1.0], (10_000,)),
        ([0.7, 0.2, 0.1], (7000, 2000, 1000)),
        ([1, 1, 1], (3334, 3333, 3333)),
        ([3e9, 1e9], (7500, 2500)),
        ([0.9999, 0.0001], (9999, 1)),
    ],
)
def test_weights_become_counts_of_a_period(weights: list[float], counts: tuple[int, ...]) -> None:
    assert make_mixture(weights).counts == counts


def test_halves_alternate_and_a_quarter_is_every_fourth() -> None:
    assert make_mixture([1, 1]).places(np.arange(6))[0].tolist() == [0, 1, 0, 1, 0, 1]
    parts = make_mixture([3, 1]).places(np.arange(40))[0]
    assert [int((parts[i : i + 4] == 1).sum()) for i in range(0, 40, 4)] == [1] * 10


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=6))
def test_every_prefix_has_each_share_within_one_sequence(weights: list[int]) -> None:
    parts, _ = make_mixture(weights).places(np.arange(PERIOD))
    for part, weight in enumerate(weights):
        given_so_far = np.cumsum(parts == part)
        wanted = np.arange(1, PERIOD + 1) * weight / sum(weights)
        # Rounding to 1/PERIOD adds up to one sequence in a period.
        assert np.abs(given_so_far - wanted).max() < 2


@pytest.mark.parametrize("weights", [[1], [5, 3, 1], [0.999, 0.001]])
def test_each_part_gives_its_sequences_once_and_in_order(weights: list[float]) -> None:
    mixture = make_mixture(weights)
    parts, numbers = mixture.places(np.arange(25_000))
    for part in range(len(weights)):
        here = numbers[parts == part]
        assert np.array_equal(here, np.arange(len(here)))
    for position in (0, 1, 9_999, 10_000, 24_321):
        assert mixture.num_before(position) == [
            int((parts[:position] == p).sum()) for p in range(len(weights))
        ]


def test_position_alone_decides_the_part() -> None:
    """What a resume and every layout rely on."""
    mixture = make_mixture([2, 1])
    parts, numbers = mixture.places(np.arange(30_000))
    some = np.array([29_999, 5, 10_001])
    again = Mixture(mixture.counts).places(some)
    assert np.array_equal(again[0], parts[some])
    assert np.array_equal(again[1], numbers[some])
