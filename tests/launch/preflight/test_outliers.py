"""The outlier test: names who is slow, and nobody where all are alike."""

from itertools import combinations

import pytest

from launch.preflight.outliers import Tolerance, slow_hosts, slow_links, slow_ones

TIGHT = Tolerance(factor=1.5, floor_s=1e-6)


def test_one_of_many_alike_is_named_with_its_multiple() -> None:
    seconds = {f"pair {i}": 0.010 + i * 1e-5 for i in range(9)} | {"bad": 0.0402}
    assert slow_ones(seconds, TIGHT) == {"bad": pytest.approx(4.0, rel=0.01)}


def test_noise_is_no_outlier() -> None:
    # Median 10, MAD 2: 5 robust deviations lie at 10 + 5·1.4826·2 = 24.8.
    seconds = dict(enumerate([6.0, 8.0, 9.0, 10.0, 11.0, 12.0, 24.0]))
    assert slow_ones(seconds, TIGHT) == {}
    assert slow_ones({**seconds, 6: 25.0}, TIGHT) == {6: 2.5}


def test_a_hair_among_equals_is_no_outlier() -> None:
    seconds = dict.fromkeys(range(8), 0.010) | {8: 0.0149}
    assert slow_ones(seconds, TIGHT) == {}
    assert slow_ones({**seconds, 8: 0.0151}, TIGHT) == {8: pytest.approx(1.51)}


def test_the_floor_of_the_tolerance_counts() -> None:
    seconds = {0: 1e-5, 1: 1e-5, 2: 1e-5, 3: 4e-5}
    assert slow_ones(seconds, Tolerance(factor=1.5, floor_s=50e-6)) == {}
    assert slow_ones(seconds, Tolerance(factor=1.5, floor_s=20e-6)) == {3: pytest.approx(4.0)}


def test_nearly_half_may_be_slow() -> None:
    seconds = dict.fromkeys(range(5), 1.0) | dict.fromkeys(range(5, 9), 3.0)
    assert set(slow_ones(seconds, TIGHT)) == {5, 6, 7, 8}


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 100.0]])
def test_fewer_than_three_cannot_be_compared(values: list[float]) -> None:
    seconds = dict(enumerate(values))
    assert slow_ones(seconds, TIGHT) == {}


def pairs(hosts: str, slow: dict[str, float]) -> dict[tuple[str, str], float]:
    return {(a, b): slow.get(a + b, 0.010) for a, b in combinations(hosts, 2)}


@pytest.mark.parametrize("hosts", ["abc", "abcd", "abcdefgh"])
def test_a_slow_host_is_told_from_its_links(hosts: str) -> None:
    seconds = pairs(hosts, {a + b: 0.050 for a, b in combinations(hosts, 2) if "b" in (a, b)})
    assert slow_hosts(seconds, TIGHT) == {"b": pytest.approx(5.0)}
    assert slow_links(seconds, TIGHT) == {}


@pytest.mark.parametrize("hosts", ["abc", "abcd", "abcdefgh"])
def test_a_slow_link_is_told_from_its_hosts(hosts: str) -> None:
    seconds = pairs(hosts, {"bc": 0.050})
    assert slow_hosts(seconds, TIGHT) == {}
    assert slow_links(seconds, TIGHT) == {("b", "c"): pytest.approx(5.0)}


def test_a_slow_host_and_a_slow_link_elsewhere_are_both_named() -> None:
    slow = {a + b: 0.050 for a, b in combinations("abcdef", 2) if "a" in (a, b)} | {"de": 0.030}
    seconds = pairs("abcdef", slow)
    assert set(slow_hosts(seconds, TIGHT)) == {"a"}
    assert set(slow_links(seconds, TIGHT)) == {("d", "e")}
