"""Machine of a new strategy: GPUs and links, from options, from this machine, or from data sheets."""

import os
from dataclasses import dataclass

from launch.remote.gpu_facts import gpu_facts
from planner import Problem, StrategyError
from planner.hardware.catalog import CPU
from planner.hardware.hardware_file import devices

# bytes/s of a GPU's links to the others of its host, one way, from data sheets; the beginning of a GPU's name
_INSIDE = {
    "H800": ("200 GB/s", "NVLink, 400 GB/s both ways (H800 data sheet)"),
    "H": ("450 GB/s", "NVLink 4, 900 GB/s both ways (H100 data sheet)"),
    "B": ("900 GB/s", "NVLink 5, 1.8 TB/s both ways (B200 data sheet)"),
    "GB": ("900 GB/s", "NVLink 5, 1.8 TB/s both ways (GB200 data sheet)"),
    "A100": ("300 GB/s", "NVLink 3, 600 GB/s both ways (A100 data sheet)"),
    "MI3": ("448 GB/s", "Infinity Fabric, 7 links of 64 GB/s one way (MI300X data sheet)"),
    "RTX 5": ("64 GB/s", "PCIe 5 x16"),
    "": ("32 GB/s", "PCIe 4 x16"),
}
_BETWEEN = ("50 GB/s", "NDR InfiniBand, 400 Gbps a GPU: assumed, set --links")
# A host of GB200 is a tray of four; a rack's trays are one NVLink domain.
_RACK_GPUS = 72
_IN_RACK = ("900 GB/s", "NVLink 5 among a rack's 72 GPUs: assumed to be one rack, else set --links")
_CPU_LINKS = ("2 GB/s", "memory of the host, an assumption; python -m benchmarks.calibrate measures it")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """GPUs and links, each with where it is known from."""

    gpu: str
    gpus_per_host: int
    hosts: int
    links: dict[str, tuple[str, str]]

    @property
    def num_gpus(self) -> int:
        return self.hosts * self.gpus_per_host


def option_problem(code: str, found: str, expected: str, fix: str) -> StrategyError:
    return StrategyError([Problem(code=code, found=found, expected=expected, fix=fix)])


def describe_machine(gpu: str | None, gpus_per_host: int | None, hosts: int, links: str | None) -> Machine:
    """What the options say, and for the rest what is known of this machine or of the GPU.

    Raises:
        StrategyError: if no GPU is named and this machine has none that is known.
    """
    if gpu is None:
        gpu, here = _gpu_here()
    else:
        here = min(8, os.cpu_count() or 1) if gpu == CPU else 4 if gpu.upper().startswith("GB") else 8
    written = {"intra_host": _CPU_LINKS, "inter_host": _CPU_LINKS}
    if gpu != CPU:
        inside = next(value for start, value in _INSIDE.items() if gpu.upper().startswith(start))
        is_rack = gpu.upper().startswith("GB") and hosts * (gpus_per_host or here) <= _RACK_GPUS
        written = {"intra_host": inside, "inter_host": _IN_RACK if is_rack else _BETWEEN}
    if links is not None:
        given = [part.strip() for part in links.split(",")]
        keys = ("inter_host",) if len(given) == 1 else ("intra_host", "inter_host")
        if len(given) > len(keys):
            raise option_problem(
                "SW493",
                f"--links: {len(given)} rates: {links}",
                "one or two rates",
                "--links NDR, or NVLink4,NDR",
            )
        written |= {key: (value, "as given") for key, value in zip(keys, given, strict=True)}
    return Machine(gpu=gpu, gpus_per_host=gpus_per_host or here, hosts=hosts, links=written)


def _gpu_here() -> tuple[str, int]:
    """The name that this machine's GPUs have in devices.yaml, and their number."""
    facts = gpu_facts()
    names = [str(device.get("name")) for device in facts["devices"] if device.get("name")]
    for name in sorted(devices(), key=len, reverse=True):
        parts = name.upper().replace("-", " ").split()
        if names and all(part in names[0].upper() for part in parts):
            return name, len(names)
    found = f"{names[0]} is not a known GPU" if names else f"no GPU on this machine ({facts['error']})"
    known = ", ".join(devices())
    raise option_problem(
        "SW492", f"--gpu is not given, and {found}", f"one of: {known}", "--gpu H100, or --gpu cpu"
    )
