"""Where the processor time of a training step is: `python -m benchmarks.step_profile`.

The bench's model, in one process with one thread, by this program and by transformers without an engine, in
turn. Every operator is charged the processor time of its call below autograd, so that waiting for a core is
not counted. What is left is Python, autograd, DeepSpeed's bookkeeping and this clock. Linux only.
"""

import argparse
import gc
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import step_ranks
from benchmarks.setting import OURS, Setting, Shape, forced_experts
from benchmarks.step import ROUNDS, TINY, WARMUP_STEPS, prepare
from benchmarks.worlds import World
from planner import __version__

COMPETITORS = (OURS, "transformers")
# Operators by name, without aten:: and overload.
KINDS: dict[str, frozenset[str]] = {
    "matrix products of experts": frozenset(("_grouped_mm",)),
    "other matrix products": frozenset(("mm", "addmm", "bmm", "baddbmm", "linear")),
    "attention": frozenset(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention_for_cpu_backward",
        )
    ),
    "AdamW": frozenset(("_fused_adamw_",)),
    "copies and changes of dtype": frozenset(("copy_", "_foreach_copy_", "_to_copy", "clone", "cat")),
    "fills": frozenset(("zero_", "fill_", "zeros", "zeros_like", "full", "new_zeros", "ones_like")),
    "rows by index": frozenset(
        ("index", "index_select", "index_put_", "index_add_", "index_add", "gather", "scatter", "embedding")
    ),
}
OTHER, PYTHON = "other operators", "between operators"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Processor seconds of one step, and of its operators by name."""

    step_s: float
    operator_s: dict[str, float]

    def shares(self) -> dict[str, float]:
        """Of the step, by kind."""
        kinds: Counter[str] = Counter()
        for name, seconds in self.operator_s.items():
            kinds[kind_of(name)] += seconds  # type: ignore[assignment]  # typeshed: counts are integers
        between = self.step_s - sum(self.operator_s.values())
        return {kind: kinds[kind] / self.step_s for kind in (*KINDS, OTHER)} | {PYTHON: between / self.step_s}


class OperatorTimes(TorchDispatchMode):
    """Processor seconds of the operators that run while it is entered, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.seconds: dict[str, float] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        began = time.process_time()
        result = function(*args, **(kwargs or {}))
        name = str(function.overloadpacket).rpartition(".")[2]
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
        return result


def kind_of(operator: str) -> str:
    return next((kind for kind, names in KINDS.items() if operator in names), OTHER)


def profile_step(state: step_ranks.State) -> Profile:
    """One step of a rank's competitor."""
    gc.collect()
    with OperatorTimes() as times:
        began = time.process_time()
        state["competitor"].step()
        step_s = time.process_time() - began
    return Profile(step_s=step_s, operator_s=times.seconds)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description=__doc__)
    parser.add_argument("--version", action="version", version=f"switchyard {__version__}")
    parser.add_argument("--quick", action="store_true", help="a tiny model and two rounds: does it all run?")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="steps of each competitor")
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    options = parser.parse_args(argv)
    prepare()
    for precision in options.precision:
        shape, rounds = (TINY, 2) if options.quick else (Shape(), options.rounds)
        _print(precision, _profiles(shape, precision, rounds))
    return 0


def _profiles(shape: Shape, precision: str, rounds: int) -> dict[str, list[Profile]]:
    worlds: dict[str, World] = {}
    profiles: dict[str, list[Profile]] = {name: [] for name in COMPETITORS}
    try:
        for name in COMPETITORS:
            setting = Setting(competitor=name, shape=shape, precision=precision, num_ranks=1)
            world = worlds[name] = World(1, 1)
            world.call(step_ranks.build, setting)
            world.call(step_ranks.force, forced_experts(setting, "balanced", None))
            for _ in range(WARMUP_STEPS):
                world.call(step_ranks.step)
        for _ in range(rounds):
            for name, world in worlds.items():
                profiles[name] += world.call(profile_step)
    finally:
        for world in worlds.values():
            world.close()
    return profiles


def _print(precision: str, profiles: dict[str, list[Profile]]) -> None:
    """Shares of the step with the least processor time: what disturbs only adds some."""
    least = {name: min(found, key=lambda profile: profile.step_s) for name, found in profiles.items()}
    print(f"\n{precision:30}" + "".join(f"{name:>24}" for name in least))
    for kind in (*KINDS, OTHER, PYTHON):
        cells = ((profile.step_s, profile.shares()[kind]) for profile in least.values())
        print(
            f"{kind:30}" + "".join(f"{step_s * share * 1e3:12.1f} ms {share:7.1%}" for step_s, share in cells)
        )
    for label, choose in (("least step", min), ("median step", statistics.median)):
        steps = (choose([profile.step_s for profile in found]) for found in profiles.values())
        print(f"{label:30}" + "".join(f"{step_s * 1e3:12.1f} ms" + " " * 9 for step_s in steps))
    for name, profile in least.items():
        largest = sorted(profile.operator_s.items(), key=lambda each: -each[1])[:8]
        print(f"{name}: " + ", ".join(f"{op} {seconds / profile.step_s:.1%}" for op, seconds in largest))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
