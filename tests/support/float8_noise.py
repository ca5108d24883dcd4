"""How far FP8 runs part: the noise that whole FP8 runs in layouts are held to.

Rounding to e4m3 is not continuous. A sum in another order differs by 1e-7, a value near the border between
two codes then takes the other code, and the difference is 6e-2 of that value. So whole runs are compared with
one process that differs from itself by as little: its embedded tokens are changed by 3e-7 of their size.

All of these compute in fp32 between the FP8 products, where rounding hides nothing; what bf16 adds to it is
measured by tests/support/noise.py.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.linear import use_float8
from model.modeling_switchyard import SwitchyardForCausalLM
from planner import Strategy
from tests.support.equality import TOLERANCE
from tests.support.layout import run_layout
from tests.support.noise import spread
from tests.support.ranks import run_ranks
from tests.support.reference import Trajectory, run_reference
from tests.support.settled import one_process

PERTURBATION = 3e-7
LOTS = range(8)


def compute_in_float8() -> None:
    """From now on every model of this process multiplies in FP8, whatever its precision."""
    make: Callable[..., None] = SwitchyardForCausalLM.__init__

    def make_and_switch(self: SwitchyardForCausalLM, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        use_float8(self)

    SwitchyardForCausalLM.__init__ = make_and_switch  # type: ignore[method-assign]


def _perturb_embedding(lot: int) -> None:
    embed: Callable[..., Tensor] = SwitchyardForCausalLM.embed
    generator = torch.Generator().manual_seed(lot)

    def changed(self: SwitchyardForCausalLM, ids_BS: Tensor) -> Tensor:
        x_BSD = embed(self, ids_BS)
        return x_BSD * (1 + PERTURBATION * torch.randn(x_BSD.shape, generator=generator))

    SwitchyardForCausalLM.embed = changed  # type: ignore[method-assign]


def _run(strategy: Strategy, lot: int | None) -> Trajectory:
    compute_in_float8()
    if lot is not None:
        _perturb_embedding(lot)
    return run_reference(strategy)


def in_one_process(strategy: Strategy) -> tuple[Trajectory, dict[str, float]]:
    """An FP8 run in fp32, and the farthest of those that start 3e-7 beside it, by kind of quantity; 1e-5 at
    least, as without FP8, because in a model this small some lots change no code at all."""
    plain = one_process(strategy)
    (expected,) = run_ranks(1, _run, plain, None, timeout=120)
    worst: dict[str, float] = dict.fromkeys(spread(expected, expected), TOLERANCE)
    for lot in LOTS:
        (other,) = run_ranks(1, _run, plain, lot, timeout=120)
        for kind, value in spread(other, expected).items():
            worst[kind] = max(worst[kind], value)
    return expected, worst


def distance_of(strategy: Strategy, expected: Trajectory) -> dict[str, float]:
    """Of the layout from one process, both in FP8 and fp32."""
    return spread(run_layout(strategy, before=compute_in_float8), expected)
