"""Execution sections of a strategy: runtime, limits, launch, operate, output; none affects the model."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from planner.strategy.field_types import (
    Bytes,
    NotNegative,
    Path,
    Positive,
    Scalar,
    Seconds,
    Section,
    Share,
    Text,
    VariableName,
    VariableValue,
    make_error,
    show,
)


class Runtime(Section):
    """How a rank does its work."""

    recompute: Literal["none", "layer"] = Field(
        default="none", description="layer: forget a layer's activations, compute them again in backward"
    )
    all_to_all: Literal["flat", "hierarchical"] = Field(
        default="flat", description="hierarchical: inside the hosts first, then between them"
    )
    fp8_without_gpu: Literal["emulate", "refuse"] = Field(
        default="emulate", description="what precision fp8 does where no GPU has FP8 units"
    )
    fp8_payload: bool = Field(default=False, description="send tokens to their experts in FP8")
    check_replicas_every: Positive = Field(
        default=100, description="steps between checks that replicated parameters are bit-equal"
    )
    deterministic: bool = Field(
        default=False, description="only kernels that give the same bits in every run"
    )


class Limits(Section):
    """What a run must keep."""

    utilization_min: Share = Field(default=0.95, description="(compute + optimizer) / step time")
    communication_share_max: Share = Field(
        default=0.08, description="waits for other ranks that compute did not hide / step time"
    )
    memory_max: Bytes = Field(default=64 * 10**9, description="of a device, at most")
    balance_min: Share = Field(
        default=0.9, description="mean / maximum over ranks of the expert tokens computed"
    )


class Launch(Section):
    """How the ranks are started."""

    launcher: Literal["deepspeed", "torchrun", "srun", "mpirun"] = Field(
        default="deepspeed", description="the program that starts the ranks"
    )
    python: Path | None = Field(
        default=None, description="the interpreter on the hosts; null: the one in use"
    )
    environment: dict[VariableName, VariableValue] = Field(
        default_factory=dict, description="variables for every rank"
    )
    ssh_config: Path | None = Field(
        default=None, description="an OpenSSH configuration file; null: the user's own"
    )
    network_interface: Text | None = Field(default=None, description="the interface that hosts meet on")
    timeout: Seconds = Field(default=600.0, description="how long ranks wait for each other")
    slurm: dict[str, Scalar] = Field(
        default_factory=dict, description="options of a batch job, as Slurm names them"
    )
    kubernetes: dict[str, Scalar] = Field(default_factory=dict, description="fields of a job on Kubernetes")


def _parse_hook(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, tuple)):
        raise make_error(
            "SW113", f"{show(value)} is not a command", "a program and its arguments as a list, or null"
        )
    return (value,) if isinstance(value, str) else value


class Operate(Section):
    """How a run is supervised and watched."""

    restarts_per_hour: NotNegative = Field(default=4, description="how often a supervisor may start it again")
    tensorboard: bool = Field(default=True, description="write TensorBoard's events")
    wandb: Text | None = Field(default=None, description="a Weights & Biases project")
    hook: Annotated[tuple[Text, ...] | None, BeforeValidator(_parse_hook)] = Field(
        default=None, description="a program and its arguments, run without a shell"
    )
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="where metrics are served; null: nowhere"
    )


class Output(Section):
    """Where results go and how often."""

    folder: Path = Field(default="runs", description="of all runs; one path that all hosts share")
    checkpoint_every: Positive = Field(default=100, description="steps; the last step is saved too")
    keep_last: Positive = Field(default=2, description="how many of the newest checkpoints stay")
    keep_every: Positive | None = Field(
        default=None, description="checkpoints of steps that are a multiple of it stay too"
    )
    validate_every: Positive = Field(default=50, description="steps; validated after the last step too")
    resume: Path = Field(
        default="auto", description="auto | never | require | the folder of a run or checkpoint to go on from"
    )
    branch: bool = Field(default=False, description="start another course from the folder that resume names")
