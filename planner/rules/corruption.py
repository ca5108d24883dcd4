"""Rules on checks for silent corruption: what a replay of a micro-batch needs."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.strategy.schema import Strategy


def replay_is_reproducible(s: Strategy) -> Iterator[Problem]:
    """Kernels that add in another order each time differ from themselves, on healthy hardware."""
    if s.runtime.replay_every is not None and not s.cluster.gpu.is_cpu and not s.runtime.deterministic:
        yield Problem(
            code="SW267",
            path="runtime.replay_every",
            found=f"{s.runtime.replay_every} with runtime.deterministic false: on a GPU a kernel may add in "
            "another order each time, and a micro-batch that is computed twice differs on healthy hardware",
            expected="null, or runtime.deterministic true",
            fix="set runtime.deterministic to true, or runtime.replay_every to null",
        )


RULES = (replay_is_reproducible,)
