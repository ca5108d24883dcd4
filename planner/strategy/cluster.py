"""Cluster section of a strategy: hosts, the device in each slot, the links between them."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from planner.hardware.catalog import CPU, known_devices
from planner.hardware.device_names import guess_device
from planner.hardware.hardware_file import devices, find_name
from planner.hardware.presets import LinkPreset, find_link, known_links, shipped_links, suggest_link
from planner.hardware.scaling import bandwidth_of
from planner.strategy.field_types import (
    AS_TEXT,
    Bytes,
    BytesPerSecond,
    DollarsPerGpuHour,
    FlopPerSecond,
    NotNegative,
    Seconds,
    Section,
    Text,
    is_text,
    make_error,
    parse_bytes_per_s,
    show,
)
from planner.strategy.host_names import MAX_HOSTS, MAX_SLOTS
from planner.strategy.hosts import Hosts, parse_hosts
from planner.units import format_quantity, quantity_pattern, shorten


class Peak(Section):
    """Dense peak rate of a device in each precision; None: not known."""

    fp32: FlopPerSecond | None = Field(default=None, description="null: not known")
    bf16: FlopPerSecond | None = Field(default=None, description="null: not known")
    fp8: FlopPerSecond | None = Field(
        default=None, description="null: not known, or the device has no FP8 units"
    )


class Gpu(Section):
    """The device in a slot: named, or described by its memory, memory bandwidth and peak rates."""

    name: Text | None = Field(
        default=None, description="a device by name, whose figures the other keys override", examples=["H100"]
    )
    memory: Bytes = Field(description="memory of one device, as its driver reports it", examples=["64 GB"])
    memory_bandwidth: BytesPerSecond = Field(
        description="peak of the device's own memory", examples=["2 TB/s"]
    )
    peak: Peak

    @model_validator(mode="after")
    def _has_a_rate(self) -> "Gpu":
        if not self.peak.model_dump(exclude_none=True):
            raise make_error(
                "SW110",
                "peak has no rate",
                "a peak rate in at least one of fp32, bf16 and fp8",
                "write cluster.gpu.peak: {bf16: 400 TFLOPS}, or the rate of the device",
            )
        return self

    @property
    def is_cpu(self) -> bool:
        return self.name == CPU


_FIGURES = ("memory", "memory_bandwidth", "peak")


def _parse_gpu(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, Gpu):
        return value
    if not isinstance(value, (str, dict)):
        raise make_error("SW136", f"{show(value)} is not a device", f"a name or {_DESCRIBED}")
    written = {"name": value} if isinstance(value, str) else value
    text = written.get("name")
    if not isinstance(text, str):
        return written
    known = (info.context or {}).get("devices") or known_devices()
    name = find_name(text, known)
    if name is None:
        if all(written.get(key) is not None for key in _FIGURES):
            return written  # a device of another machine's file, as `generate` writes it
        guess: Any = guess_device(text, known)
        others = (
            f"write gpu: {_DESCRIBED} with its figures, or one of these names, or add it by --hardware FILE"
        )
        raise make_error(
            "SW136",
            f"unknown device {shorten(text)!r}",
            ", ".join(known),
            None if guess else others,
            meant=guess,
            hint=f", if that is meant, else {_DESCRIBED} with its figures, or add it by --hardware FILE",
        )
    return {"name": name, **_figures(known[name], written, is_text=is_text(info))}


_DESCRIBED = "{memory: 64 GB, memory_bandwidth: 2 TB/s, peak: {bf16: 400 TFLOPS}}"


def _figures(entry: Mapping[str, Any], written: Mapping[str, Any], *, is_text: bool) -> dict[str, Any]:
    """What is written, completed by the device's own figures."""
    own = Gpu.model_validate({key: _figure(entry, key) for key in _FIGURES}, context=AS_TEXT)
    figures = own.model_dump(context=AS_TEXT if is_text else None, exclude={"name"})
    found = {**figures, **{key: item for key, item in written.items() if key != "name"}}
    if isinstance(found["peak"], dict):
        found["peak"] = {**figures["peak"], **found["peak"]}
    return found


def _figure(entry: Mapping[str, Any], key: str) -> Any:
    if key == "memory_bandwidth":
        return format_quantity(bandwidth_of(entry), "bytes/s")
    return entry[key]


def _write_gpu(gpu: Gpu, info: SerializationInfo) -> Any:
    """In text a shipped device by its name, with the keys that are overridden; any other by all figures, so
    that hosts without the user's file read it too."""
    dumped = gpu.model_dump(context=info.context)
    dumped["peak"] = {key: rate for key, rate in dumped["peak"].items() if rate is not None}
    if gpu.name is None:
        del dumped["name"]
    if not is_text(info) or gpu.name not in devices():
        return dumped
    usual = Gpu.model_validate(_figures(devices()[gpu.name], {}, is_text=True), context=AS_TEXT)
    changed = {key: dumped[key] for key in _FIGURES if getattr(usual, key) != getattr(gpu, key)}
    return {"name": gpu.name, **changed} if changed else gpu.name


def _write_hosts(hosts: Hosts, info: SerializationInfo) -> Any:
    return hosts.written() if is_text(info) else hosts.model_dump()


_HOSTS_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_HOSTS},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "string", "pattern": r"\[[0-9,-]+\]"},
        {
            "type": "object",
            "properties": {"hostfile": {"type": "string"}},
            "required": ["hostfile"],
            "additionalProperties": False,
        },
    ]
}


class LinkRate(float):
    """Bandwidth of a link in bytes/s, one way; `preset`: the named link that it is, if it was named."""

    preset: LinkPreset | None = None

    @classmethod
    def of(cls, preset: LinkPreset) -> "LinkRate":
        rate = cls(preset.bytes_per_s)
        rate.preset = preset
        return rate


def _parse_link(value: Any, info: ValidationInfo) -> LinkRate:
    if isinstance(value, LinkRate):
        return value
    if isinstance(value, str) and not value[:1].isdigit():
        known = (info.context or {}).get("links") or known_links()
        preset = find_link(value, known)
        if preset is not None:
            return LinkRate.of(preset)
        if value[:1].isalpha():
            expected = f"a bandwidth, for example 100 Gbps, or one of: {', '.join(known)}"
            meant = suggest_link(value, known)
            fix: str | None = f"write {info.field_name}: 400 Gbps with the figure of the link, or a name"
            if meant or re.search(r"(?i)nv(link|switch|\d)", value):
                fix = None  # the generation of an NVLink is the GPU's
            raise make_error("SW138", f"unknown link {shorten(value)!r}", expected, fix, meant=meant)
    return LinkRate(parse_bytes_per_s(value, info))


def _write_link(value: LinkRate, info: SerializationInfo) -> Any:
    if not is_text(info):
        return float(value)
    preset = value.preset
    return preset.name if preset and preset.is_shipped else format_quantity(float(value), "bytes/s")


LinkBandwidth = Annotated[
    LinkRate,
    PlainValidator(_parse_link),
    PlainSerializer(_write_link),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": quantity_pattern("bytes/s"),
                    "examples": ["100 Gbps"],
                },
                {"type": "string", "enum": list(shipped_links())},
            ]
        }
    ),
]


class Links(Section):
    """Bandwidth of a device's links, one way: a quantity or a link by name."""

    intra_host: LinkBandwidth = Field(
        description="per GPU, one way, to GPUs of the same host", examples=["100 Gbps"]
    )
    inter_host: LinkBandwidth = Field(description="per GPU, one way, to other hosts", examples=["100 Gbps"])
    oversubscription: Annotated[float, Field(ge=1)] = Field(
        default=1.0, description="how many times less the network between hosts carries than their links"
    )
    per_host: BytesPerSecond | None = Field(
        default=None, description="of a host, one way, shared by its GPUs; null: each GPU has its own link"
    )

    def inter_host_rate(self, ranks_on_host: int) -> float:
        """Bytes/s of one GPU to other hosts while all GPUs of its host send."""
        shared = math.inf if self.per_host is None else self.per_host / ranks_on_host
        return min(self.inter_host, shared) / self.oversubscription


def _unwritten_links() -> Links:
    """What a plan of one GPU has, which uses no link; a rule asks all others to write them."""
    presets = shipped_links()
    return Links(intra_host=LinkRate.of(presets["PCIe4"]), inter_host=LinkRate.of(presets["RoCE-100"]))


class Cluster(Section):
    """The hosts that a plan may use."""

    hosts: Annotated[
        Hosts, BeforeValidator(parse_hosts), PlainSerializer(_write_hosts), WithJsonSchema(_HOSTS_SCHEMA)
    ] = Field(
        description="list of names or ranges (node[01-16]), {hostfile: FILE}, or a number (1: localhost)",
        examples=[16],
    )
    gpus_per_host: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = Field(
        description="ranks per host; not a limit when gpu is cpu", examples=[8]
    )
    gpu: Annotated[Gpu, BeforeValidator(_parse_gpu), PlainSerializer(_write_gpu)] = Field(
        description="name in planner/hardware/devices.yaml or in a file of one's own, or its figures",
        examples=["H100"],
    )
    links: Links = Field(default_factory=_unwritten_links, description="required unless a plan has one GPU")
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

    @model_validator(mode="before")
    @classmethod
    def _null_means_unwritten(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key != "links"}

    @property
    def slots(self) -> tuple[int, ...]:
        """How many ranks each host may run, including spare hosts."""
        return tuple(self.gpus_per_host if slots is None else slots for slots in self.hosts.slots)
