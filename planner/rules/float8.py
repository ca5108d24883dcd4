"""Rules on `training.precision: fp8`: where it runs on FP8 units."""

from collections.abc import Iterator

from planner.hardware.catalog import device_of
from planner.problems import Problem
from planner.strategy.schema import Strategy


def fp8_has_units(s: Strategy) -> Iterator[Problem]:
    """What a catalogue knows; each rank asks its own device when a run starts."""
    if s.training.precision != "fp8" or s.runtime.fp8_without_gpu == "emulate":
        return
    device = device_of(s.cluster.gpu)
    if "fp8" not in device.peak:
        yield Problem(
            code="SW265",
            path="runtime.fp8_without_gpu",
            found=f"refuse with training.precision fp8: {device.name} has no FP8 units",
            expected="emulate, or a GPU with a peak in fp8",
            fix="set runtime.fp8_without_gpu to emulate, or training.precision to bf16",
        )


RULES = (fp8_has_units,)
