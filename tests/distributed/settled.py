"""One process's course of a model, computed once: the layout does not enter, and every route is clear."""

import contextlib

import numpy as np

from planner import Strategy
from planner.strategy import Training
from tests.distributed.equality import CLEAR, assert_equal
from tests.distributed.layout import run_layout
from tests.distributed.ranks import run_ranks
from tests.distributed.reference import STEPS, Course, UnclearRoute, run_reference, tiny

_SETTLED: dict[tuple[str, bool], tuple[int, Course]] = {}


def check(strategy: Strategy, masked: bool = False, reference: Strategy | None = None) -> dict[str, float]:
    """Holds a layout against one process, with the first seed whose routes are all clear.

    Args:
        masked: with padding. reference: what one process runs instead of the same strategy.

    Returns:
        The worst distance of each kind of quantity.
    """
    seed, expected = settled(reference or strategy, masked)
    strategy = with_seed(strategy, seed)
    return assert_equal(run_layout(strategy, padding(strategy) if masked else None), expected)


def settled(strategy: Strategy, masked: bool = False) -> tuple[int, Course]:
    """A seed with clear routes and one process's course with it, computed once a model."""
    plain = one_process(strategy)
    key = (repr(plain), masked)
    if key not in _SETTLED:
        _SETTLED[key] = run_ranks(1, _settle, plain, masked)[0]
    return _SETTLED[key]


def one_process(strategy: Strategy) -> Strategy:
    """The strategy without its layout: what is left is the same training."""
    plain = {"parallel": tiny().parallel, "training": _with(strategy, micro_batch=1)}
    return strategy.model_copy(update=plain)


def with_seed(strategy: Strategy, seed: int) -> Strategy:
    return strategy.model_copy(update={"training": _with(strategy, seed=seed)})


def with_precision(strategy: Strategy, precision: str) -> Strategy:
    return strategy.model_copy(update={"training": _with(strategy, precision=precision)})


def padding(strategy: Strategy) -> dict[int, np.ndarray]:
    """By step, right padding of every length, from none to the whole sequence."""
    training = strategy.training
    draw = np.random.default_rng(5)
    lengths = draw.integers(0, training.seq_length + 1, (STEPS, training.global_batch))
    lengths[:, :3] = [0, training.seq_length, 1]
    positions = np.arange(training.seq_length)
    return {step: positions < lengths[step][:, None] for step in range(STEPS)}


def _settle(strategy: Strategy, masked: bool) -> tuple[int, Course]:
    for seed in range(1, 200):
        trial = with_seed(strategy, seed)
        with contextlib.suppress(UnclearRoute):
            return seed, run_reference(trial, padding(trial) if masked else None, clearer_than=1.1 * CLEAR)
    raise AssertionError("no seed has clear routes")


def _with(strategy: Strategy, **changes: object) -> Training:
    return strategy.training.model_copy(update=changes)
