"""Tolerance of bf16 and fp8 runs: the distance of one process in that precision from itself in fp32.

In bf16 every sum has its own rounding, and of 640 routing decisions some always flip, so that single tensors
(an expert with three tokens) may differ by half. What is compared is therefore: the loss and the norm of each
step, and the gradients of a family (dense, experts, routers) together, ‖a−b‖/‖b‖ over all its tensors. Which
routes flip is chance: the noise is the worst of `SEEDS`, not that of the one seed a layout is run with.
"""

import torch

from planner import Strategy
from tests.support.equality import clip_factor, family
from tests.support.layout import run_layout
from tests.support.ranks import World, kept
from tests.support.reference import Trajectory, run_reference
from tests.support.settled import one_process, with_precision, with_seed

SEEDS = range(1, 9)
_MEASURED: dict[str, tuple[Trajectory, dict[str, float]]] = {}


def distance_in_bf16(
    strategy: Strategy, world: World | None = None, timeout: float = 120
) -> dict[str, float]:
    """Of the layout in bf16 from one process in bf16, by kind, the worst of all steps."""
    return distance_in("bf16", strategy, world, timeout)


def distance_in(
    precision: str, strategy: Strategy, world: World | None = None, timeout: float = 120
) -> dict[str, float]:
    """Of the layout from one process in the same precision, by kind, the worst of all steps."""
    expected = _measured(strategy, precision)[0]
    strategy = with_seed(with_precision(strategy, precision), SEEDS[0])
    return spread(run_layout(strategy, world=world, timeout=timeout), expected)


def noise(strategy: Strategy, precision: str = "bf16") -> dict[str, float]:
    """Of one process in `precision` from one process in fp32, by kind, the worst of all steps and `SEEDS`."""
    return _measured(strategy, precision)[1]


def beyond(found: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """The distances that are not within their limits; nan is not."""
    assert found.keys() == limits.keys()
    return {kind: value for kind, value in found.items() if not value <= limits[kind]}


def _measured(strategy: Strategy, precision: str) -> tuple[Trajectory, dict[str, float]]:
    strategy = with_precision(one_process(strategy), precision)
    key = repr(strategy)
    if key not in _MEASURED:
        _MEASURED[key] = kept(1).run(_measure, strategy, timeout=300)[0]
    return _MEASURED[key]


def _measure(strategy: Strategy) -> tuple[Trajectory, dict[str, float]]:
    worst: dict[str, float] = {}
    courses = []
    for seed in SEEDS:
        in_fp32, rounded = (
            run_reference(with_seed(with_precision(strategy, precision), seed))
            for precision in ("fp32", strategy.training.precision)
        )
        courses.append(rounded)
        for kind, value in spread(rounded, in_fp32).items():
            worst[kind] = max(worst.get(kind, 0.0), value)
    return courses[0], worst


def spread(found: Trajectory, expected: Trajectory) -> dict[str, float]:
    """The worst over all steps, by kind; parameters at the end."""
    worst: dict[str, float] = {}

    def note(kind: str, value: float) -> None:
        worst[kind] = max(worst.get(kind, 0.0), value)

    for step in range(len(expected.losses)):
        note("loss", abs(found.losses[step] / expected.losses[step] - 1.0))
        note("norm", abs(found.norms[step] / expected.norms[step] - 1.0))
        mine, theirs = found.gradients[step], expected.gradients[step]
        my_factor = clip_factor(found.norms[step], found.clipping)
        their_factor = clip_factor(expected.norms[step], expected.clipping)
        for kind in sorted({family(name) for name in theirs}):
            names = [name for name in theirs if family(name) == kind]
            a, b = (
                torch.cat([trajectory[name].double().reshape(-1) / factor for name in names])
                for trajectory, factor in ((mine, my_factor), (theirs, their_factor))
            )
            note(f"gradient of {kind}", ((a - b).norm() / b.norm()).item())
    return worst
