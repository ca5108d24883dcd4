"""Rules on FP8: where `training.precision: fp8` runs on FP8 units, whose rows `runtime.fp8_payload` packs."""

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


def fp8_payload_is_ours(s: Strategy) -> Iterator[Problem]:
    if s.runtime.fp8_payload and s.model.dispatch == "deepspeed":
        yield Problem(
            code="SW266",
            path="runtime.fp8_payload",
            found="true with model.dispatch deepspeed, whose all-to-all is DeepSpeed's own",
            expected="false with model.dispatch deepspeed",
            fix="set runtime.fp8_payload to false, or model.dispatch to dropless",
        )


RULES = (fp8_has_units, fp8_payload_is_ours)
