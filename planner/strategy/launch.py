"""Launch section of a strategy: launcher, environment of the ranks, container, Slurm, Kubernetes."""

from typing import Literal

from pydantic import Field

from planner.strategy.field_types import (
    Path,
    Scalar,
    Section,
    Text,
    VariableName,
    VariableValue,
    Wait,
)


class Container(Section):
    """Container image that the ranks run in, under Slurm and Kubernetes."""

    image: Text | None = Field(
        default=None,
        description="name as the engine takes it (pyxis: nvcr.io#nvidia/pytorch:25.08-py3) or path of an "
        "image file; null: no container",
    )
    engine: Literal["pyxis", "apptainer"] = Field(
        default="pyxis", description="what runs it under Slurm: enroot through pyxis, or Apptainer"
    )
    mounts: tuple[Text, ...] = Field(
        default=(),
        description="HOST_PATH or HOST_PATH:PATH beside the project, output.folder and the data, under Slurm",
    )


class Kubernetes(Section):
    """TrainJob of Kubeflow Trainer."""

    namespace: Text | None = Field(default=None, description="null: the one that kubectl is set to")
    volume_claim: Text | None = Field(
        default=None, description="PersistentVolumeClaim with the project, output.folder and the data"
    )
    mount_path: Path | None = Field(
        default=None, description="where the claim is mounted, here as in the pods; null: the project folder"
    )
    resources: dict[str, Scalar] = Field(
        default_factory=dict,
        description="of a pod beside its GPUs, requested and limited: {cpu: 96, memory: 900Gi, rdma/ib: 8}",
    )
    labels: dict[str, VariableValue] = Field(
        default_factory=dict, description="of the TrainJob: {kueue.x-k8s.io/queue-name: training}"
    )


class Launch(Section):
    """Launch of the ranks."""

    launcher: Literal["deepspeed", "torchrun", "srun", "mpirun"] = Field(
        default="deepspeed",
        description="program that starts the ranks: which files `generate` writes without --for",
    )
    python: Path | None = Field(
        default=None,
        description="Python interpreter on the hosts; null: the current one, in a container `python`",
    )
    modules: tuple[Text, ...] = Field(
        default=(), description="environment modules to load before the ranks start, in this order"
    )
    prologue: tuple[Text, ...] = Field(
        default=(),
        description="shell lines to run before the ranks start, after the modules; none may fail",
    )
    container: Container = Container()
    environment: dict[VariableName, VariableValue] = Field(
        default_factory=dict, description="environment variables of every rank"
    )
    ssh_config: Path | None = Field(default=None, description="OpenSSH configuration file; null: the user's")
    network_interface: Text | None = Field(default=None, description="network interface between hosts")
    timeout: Wait = Field(
        default=600.0, description="how long ranks wait for each other in a collective; at most 30 d"
    )
    slurm: dict[str, Scalar] = Field(
        default_factory=dict, description="options of the Slurm job, by their long names in sbatch"
    )
    srun: dict[str, Scalar] = Field(
        default_factory=dict,
        description="options of the job's step, by their long names in srun",
    )
    kubernetes: Kubernetes = Kubernetes()
