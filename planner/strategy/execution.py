"""Execution sections of a strategy: runtime, limits, operate, output; none affects the model."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from planner.strategy.field_types import (
    Bytes,
    NotNegative,
    Path,
    Positive,
    Section,
    Share,
    Text,
    Wait,
    make_error,
    show,
)
from planner.strategy.force_routing import ForceRouting, parse_force_routing, write_force_routing
from planner.strategy.recompute import RECOMPUTE_SCHEMA, Recompute, parse_recompute

Reduce = Literal["once", "every_micro_batch"]


class Runtime(Section):
    """Execution of a step on a rank."""

    kernels: Literal["eager", "fused"] = Field(
        default="eager",
        description="fused: norms, RoPE, router, permutation, activation and cross-entropy compiled by "
        "torch.compile, once for each host and user; needs a C++ compiler on CPUs and Triton on GPUs",
    )
    reduce: Reduce | None = Field(
        default=None,
        description="when gradients are reduced; null: once where its fp32 sums fit the memory",
    )
    overlap_reduce: bool = Field(
        default=False,
        description="reduce gradients beside the backward pass that makes them; trained under ZeRO 2",
    )
    overlap_all_to_all: bool = Field(
        default=False, description="run the all-to-alls of one micro-batch beside the compute of another"
    )
    recompute: Annotated[
        Recompute,
        BeforeValidator(parse_recompute),
        PlainSerializer(lambda recompute: recompute.written()),
        WithJsonSchema(RECOMPUTE_SCHEMA),
    ] = Field(
        default=Recompute(),
        json_schema_extra={"default": "none"},
        description="activations that backward computes again: of layers, of attention blocks, or of "
        "experts between dispatch and combine; {layers: N}: of the first N layers of each stage",
    )
    force_routing: Annotated[
        ForceRouting | None, BeforeValidator(parse_force_routing), PlainSerializer(write_force_routing)
    ] = Field(
        default=None,
        json_schema_extra={"default": "none"},
        description="experts chosen by a rule instead of by the router, for benchmarks and rehearsals",
    )
    all_to_all: Literal["flat", "hierarchical"] = Field(
        default="flat",
        description="of tokens. hierarchical: within hosts first, then between hosts, in larger messages",
    )
    fp8_without_gpu: Literal["emulate", "refuse"] = Field(
        default="emulate",
        description="precision fp8 on devices without FP8 units: bf16 on the same values, or refused",
    )
    fp8_payload: bool = Field(
        default=False,
        description="send tokens to their experts and between stages, and gradients back, in FP8: a byte an "
        "element and 4 a row",
    )
    check_replicas_every: Positive = Field(
        default=100,
        description="steps between checks that all copies of weights, masters and moments have the same bits",
    )
    replay_every: Positive | None = Field(
        default=None,
        description="steps between replays: one micro-batch is computed twice, and the bits of its loss and "
        "gradients compared; null: none",
    )
    on_corruption: Literal["stop", "replace"] = Field(
        default="stop",
        description="what `launch run` does when a check finds different bits: end the run, or take the "
        "hosts that it names out and resume from the last checkpoint",
    )
    deterministic: bool = Field(
        default=False,
        description="use only reproducible kernels and collectives; not run on a GPU yet",
    )


class Limits(Section):
    """Limits that a prediction is checked against; what is null is not checked, memory always is."""

    utilization_min: Share | None = Field(default=None, description="(compute + optimizer) / step time")
    communication_share_max: Share | None = Field(
        default=None, description="exposed communication (not hidden by compute) / step time"
    )
    memory_max: Bytes | None = Field(
        default=None, description="maximum memory of a rank; null: the GPU's own less 1 GiB"
    )
    balance_min: Share | None = Field(
        default=None, description="mean / maximum over ranks of the tokens that their experts process"
    )


def _parse_hook(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, tuple)):
        raise make_error(
            "SW113", f"{show(value)} is not a command", "a program and its arguments as a list, or null"
        )
    return (value,) if isinstance(value, str) else value


class Operate(Section):
    """Supervision and monitoring of a run."""

    restarts_per_hour: NotNegative = Field(
        default=4, description="restarts that a supervisor may make per hour"
    )
    hang_timeout: Wait = Field(
        default=60.0,
        description="a rank that begins nothing new for so long hangs; or 5 times the longest of its phase",
    )
    tensorboard: bool = Field(default=True, description="write TensorBoard events")
    wandb: Text | None = Field(
        default=None,
        description="Weights & Biases project that rank 0 logs to; needs the package wandb, and a login or "
        "WANDB_MODE=offline",
    )
    hook: Annotated[tuple[Text, ...] | None, BeforeValidator(_parse_hook)] = Field(
        default=None, description="program and arguments, run without a shell"
    )
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="port of 127.0.0.1 on which `monitor` and `run` serve OpenMetrics; null: none",
    )


class Output(Section):
    """Where and how often results are written."""

    folder: Path = Field(
        default="runs", description="folder of all runs, on a file system that all hosts share"
    )
    checkpoint_every: Positive = Field(
        default=100, description="steps between checkpoints; the last step is always saved"
    )
    keep_last: Positive = Field(default=2, description="number of newest checkpoints to keep")
    keep_every: Positive | None = Field(
        default=None, description="also keep checkpoints of steps divisible by this"
    )
    async_save: bool = Field(
        default=False,
        description="train while a checkpoint is written, from a copy in the host's memory",
    )
    validate_every: Positive = Field(
        default=50, description="steps between validations; also after the last step"
    )
    resume: Path = Field(
        default="auto", description="auto | never | require | folder of the run or checkpoint to resume from"
    )
    branch: bool = Field(
        default=False, description="start a new training recipe from the checkpoint that resume names"
    )
