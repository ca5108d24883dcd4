"""Cluster section of a strategy: hosts, the device in each slot, the links between them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, SerializationInfo, WithJsonSchema

from planner.hardware.catalog import CPU, devices
from planner.strategy.field_types import (
    Bytes,
    BytesPerSecond,
    DollarsPerGpuHour,
    FlopPerSecond,
    NotNegative,
    Seconds,
    Section,
    is_text,
    make_error,
    show,
)
from planner.strategy.hosts import MAX_HOSTS, MAX_SLOTS, Hosts, parse_hosts
from planner.units import shorten


class Peak(Section):
    """Dense peak rate of a device in each precision; None: not known."""

    fp32: FlopPerSecond | None = Field(default=None, description="null: not known")
    bf16: FlopPerSecond | None = Field(default=None, description="null: not known")
    fp8: FlopPerSecond | None = Field(
        default=None, description="null: not known, or the device has no FP8 units"
    )


class Gpu(Section):
    """The device in a slot."""

    memory: Bytes = Field(description="memory of one device", examples=["64 GB"])
    peak: Peak

    @property
    def is_cpu(self) -> bool:
        return False


class NamedGpu(Gpu):
    """A device of devices.yaml."""

    name: str

    @property
    def is_cpu(self) -> bool:
        return self.name == CPU


def _parse_gpu(value: Any) -> Any:
    if not isinstance(value, str):
        if isinstance(value, (dict, Gpu)):
            return value
        raise make_error("SW136", f"{show(value)} is not a device", "a name or {memory: …, peak: {bf16: …}}")
    known = devices()
    if value not in known:
        names = {name.lower(): name for name in known}
        guess = names.get(value.lower())
        fix = (
            f"write {guess}" if guess else "write one of these, or {memory: 64 GB, peak: {bf16: 400 TFLOPS}}"
        )
        raise make_error("SW136", f"unknown device {shorten(value)!r}", ", ".join(known), fix)
    entry = {key: known[value][key] for key in ("memory", "peak")}
    return NamedGpu.model_validate({"name": value, **entry}, context={"text": True})


def _write_gpu(gpu: Gpu, info: SerializationInfo) -> Any:
    if is_text(info) and isinstance(gpu, NamedGpu):
        return gpu.name
    dumped = gpu.model_dump(context=info.context)
    return {**dumped, "peak": {k: v for k, v in dumped["peak"].items() if v is not None}}


def _write_hosts(hosts: Hosts, info: SerializationInfo) -> Any:
    return hosts.written() if is_text(info) else hosts.model_dump()


_HOSTS_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_HOSTS},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {
            "type": "object",
            "properties": {"hostfile": {"type": "string"}},
            "required": ["hostfile"],
            "additionalProperties": False,
        },
    ]
}


class Links(Section):
    """Bandwidth of a device's links, one way."""

    intra_host: BytesPerSecond = Field(
        description="per GPU, one way, to GPUs of the same host", examples=["100 Gbps"]
    )
    inter_host: BytesPerSecond = Field(description="per GPU, one way, to other hosts", examples=["100 Gbps"])


class Cluster(Section):
    """The hosts that a plan may use."""

    hosts: Annotated[
        Hosts, BeforeValidator(parse_hosts), PlainSerializer(_write_hosts), WithJsonSchema(_HOSTS_SCHEMA)
    ] = Field(description="list of names, {hostfile: FILE}, or a number (1: localhost)", examples=[16])
    gpus_per_host: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = Field(
        description="ranks per host; not a limit when gpu is cpu", examples=[8]
    )
    gpu: Annotated[Gpu, BeforeValidator(_parse_gpu), PlainSerializer(_write_gpu)] = Field(
        description="name in planner/hardware/devices.yaml, or memory and peak rates", examples=["H100"]
    )
    links: Links
    spare_hosts: NotNegative = Field(
        default=0, description="number of hosts, from the end of the list, that a plan leaves unused"
    )
    cost: DollarsPerGpuHour | None = Field(
        default=None, description="price of one GPU for an hour, from which a plan says what a run costs"
    )
    mtbf: Seconds | None = Field(
        default=None,
        description="mean time between failures of one GPU, with its share of the host and the network; from "
        "it a plan says the effective training time ratio",
    )

    @property
    def slots(self) -> tuple[int, ...]:
        """How many ranks each host may run, including spare hosts."""
        return tuple(self.gpus_per_host if slots is None else slots for slots in self.hosts.slots)
