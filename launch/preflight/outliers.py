"""Outlier test (median and MAD) for slow hosts and slow links."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
Pair = tuple[str, str]

# Standard deviations of a normal distribution in one MAD (median absolute deviation).
_MAD_IN_SIGMAS = 1.4826
_SIGMAS = 5.0


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How much slower than the median is accepted: `factor` times, or `floor_s` seconds, or noise."""

    factor: float
    floor_s: float


# Measurements on GPUs repeat within some percent. Ranks on CPUs share cores: gloo's times varied threefold,
# and by tens of milliseconds where other programs ran too (2 cores, torch 2.13, 2026-11-25).
GPU = Tolerance(factor=1.5, floor_s=50e-6)
CPU = Tolerance(factor=3.0, floor_s=20e-3)


def slow_ones(seconds: Mapping[K, float], tolerance: Tolerance) -> dict[K, float]:
    """Those that take much longer than the others, with their multiple of the median.

    Slow means above the median by more than 5 robust standard deviations (1.4826·MAD) *and* by more than the
    tolerance: among nearly equal values MAD is close to 0, and tiny differences would be outliers. Median and
    MAD are robust until half of the values are slow (Rousseeuw and Croux 1993); mean and standard deviation
    would be shifted by the outlier itself. Fewer than three values cannot be compared.
    """
    if len(seconds) < 3:
        return {}
    middle = median(seconds.values())
    spread = _MAD_IN_SIGMAS * median(abs(value - middle) for value in seconds.values())
    limit = middle + max(_SIGMAS * spread, (tolerance.factor - 1) * middle, tolerance.floor_s)
    return {key: value / middle for key, value in seconds.items() if value > limit and middle > 0}


def slow_hosts(seconds: Mapping[Pair, float], tolerance: Tolerance) -> dict[str, float]:
    """Hosts whose fastest link is slow, with its multiple of the median over hosts.

    A host is judged by its fastest pair: a slow host has none, while a slow link affects only one pair of
    each of its ends. This works from three hosts on, where two of the three pairs are slow.
    """
    hosts = dict.fromkeys(host for pair in seconds for host in pair)
    best = {host: min(value for pair, value in seconds.items() if host in pair) for host in hosts}
    return slow_ones(best, tolerance)


def slow_links(seconds: Mapping[Pair, float], tolerance: Tolerance) -> dict[Pair, float]:
    """Slow pairs of hosts that are not slow themselves."""
    hosts = slow_hosts(seconds, tolerance)
    rest = {pair: value for pair, value in seconds.items() if not set(pair) & set(hosts)}
    return slow_ones(rest, tolerance)
