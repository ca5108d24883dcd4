"""Calibration of the planner's device entry on this machine: `python -m benchmarks.calibrate`.

Measures primitives only: GEMMs, elementwise operations, collectives between forked ranks; no training step.
The entry is written to the output folder (`runs/hardware.yaml`), where `plan`, `search` and train.py find it.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from benchmarks import collectives, contention, primitives
from benchmarks.primitives import Rates
from planner import __version__
from planner.hardware.catalog import CALIBRATION_NAME, CPU, device_named
from planner.hardware.hardware_file import devices, read_hardware
from planner.hardware.scaling import bandwidth_of
from planner.problems import StrategyError
from planner.standard_streams import run_program
from planner.yaml12_writer import section_yaml
from runtime.process.usable_cores import num_usable_cores

_GLOO = "measured with gloo between ranks of this host, after computation on each rank"


def main(argv: list[str]) -> int:
    """0 once the file is written."""
    options = _options(argv)
    cores = num_usable_cores()
    load_before = os.getloadavg()[0]
    print(f"GEMMs and operations, {cores if options.name == CPU else 1} at once …", flush=True)
    rates: Rates = _run(cores if options.name == CPU else 1, _primitives, options.name)
    measured: list[dict[str, Any]] = []
    crowded: list[dict[str, Any]] = []
    for ranks in sorted({1, cores, *options.ranks}) if options.name == CPU else []:
        print(f"{ranks} ranks beside each other …", flush=True)
        wall_s, busy_s, waits = _run(ranks, _contention, "")
        crowded.append({"ranks_on_host": ranks, "wall_s": wall_s, "busy_s": busy_s, "waits": waits})
    for ranks in options.ranks if options.name == CPU else []:
        for group in (size for size in (2, 4, 8, 16) if size <= ranks and ranks % size == 0):
            print(f"collectives of {group} on a host with {ranks} ranks …", flush=True)
            for kind, points in _run(ranks, _collectives, str(group)).items():
                measured.append({"kind": kind, "ranks_on_host": ranks, "group": group, "points": points})
    load = max(load_before, os.getloadavg()[0])
    path = Path(options.out)
    known = _known(path)
    links = known.pop(options.name, {})
    text = entry(options.name, rates, measured, crowded, cores=cores, load=load, before=links)
    text += "".join(section_yaml(name, other) for name, other in known.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {path}; load average while measuring {load:.1f} on {cores} cores")
    return 0


def _known(path: Path) -> dict[str, dict[str, Any]]:
    """The entries that the file has already; none if it cannot be read: it is then replaced."""
    try:
        return read_hardware(path) if path.exists() else {}
    except StrategyError as error:
        print(f"{error}\nit is replaced", file=sys.stderr)
        return {}


def entry(
    name: str,
    rates: Rates,
    measured: list[dict[str, Any]],
    crowded: list[dict[str, Any]],
    *,
    cores: int,
    load: float,
    before: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """The entry as YAML, in the form of planner/hardware/devices.yaml.

    Args:
        before: the entry that it replaces, whose links are kept: preflight measures those, not this.
    """
    is_cpu = name == CPU
    memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // cores} B"
    # A GPU's peaks are the data sheet's; a CPU's are the highest rates measured.
    peaks = rates.peaks if is_cpu else device_named(name).peak
    shipped = {} if is_cpu else devices()[name]
    links = before.get("links") or {}
    where = f"{platform.node()}, {date.today().isoformat()}, torch {torch.__version__}"
    lines = [
        f"# Measured by python -m benchmarks.calibrate on {where}; load average {load:.1f} on {cores} cores.",
        f"{name}:",
        f"  memory: {shipped.get('memory', memory)}",
        *([f"  memory_bandwidth: {bandwidth_of(shipped) / 1e9:.6g} GB/s"] if shipped else []),
        f"  peak: {{{', '.join(f'{p}: {rate / 1e9:.4g} GFLOPS' for p, rate in peaks.items())}}}",
        f"  source: measured, {where}",
        "  gemm:",
        *_curves(rates.gemm, peaks),
        *(
            f"    {precision}: {_points(points)}  # as shipped"
            for precision, points in shipped.get("gemm", {}).items()
            if precision not in rates.gemm
        ),
        "  grouped:",
        *_curves(rates.grouped, peaks),
        "  attention:",
        *_curves(rates.attention, peaks),
        "  elementwise: ["
        + ", ".join(f"[{moved:.0f} B, {rate / 1e9:.4g} GB/s]" for moved, rate in rates.elementwise)
        + "]",
        *([f"  fresh: {rates.fresh / 1e9:.4g} GB/s"] if rates.fresh is not None else []),
        f"  operation: {rates.operation_s * 1e6:.4g} us",
        *_network(name, measured, before),
        *([f"  links: {{{', '.join(f'{key}: {rate}' for key, rate in links.items())}}}"] if links else []),
        *([f"  cores: {cores}"] if name == CPU else []),
        *(["  collectives:"] if measured else []),
        *(
            f"    - {{kind: {m['kind']}, ranks_on_host: {m['ranks_on_host']}, group: {m['group']}, points: ["
            + ", ".join(f"[{size:.0f} B, {seconds * 1e6:.4g} us]" for size, seconds in m["points"])
            + "]}"
            for m in measured
        ),
        *(["  contention:"] if crowded else []),
        *_contention_lines(crowded, cores),
        "  sources:",
        "    gemm: measured, a product and the two of its backward pass"
        + ("; as many at once as there are cores" if is_cpu else ", without issuing them"),
        "    attention: measured, causal, forward and backward",
        "    elementwise: measured, a mixture of operations on tensors in turn, and first touch of memory",
        "    operation: measured, a chain of small operations and views through autograd",
        f"    network: {_GLOO if measured else 'as shipped'}",
        *([f"    links: {json.dumps(before['sources']['links'])}"] if links else []),
        "",
    ]
    return "\n".join(lines)


def _contention_lines(crowded: list[dict[str, Any]], cores: int) -> Iterator[str]:
    """The clock's time for work over a core's time for it as primitives are measured, a rank on every core;
    what cores are shared by is left out."""
    usual_s = next((each["busy_s"] for each in crowded if each["ranks_on_host"] == cores), 1.0)
    for each in crowded:
        ranks = each["ranks_on_host"]
        compute = each["wall_s"] / (usual_s * max(1.0, ranks / cores))
        waits = ", ".join(f"[{work * 1e3:.4g} ms, {wait * 1e6:.4g} us]" for work, wait in each["waits"])
        yield f"    - {{ranks_on_host: {ranks}, compute: {compute:.4g}, waits: [{waits}]}}"


def _network(name: str, measured: list[dict[str, Any]], before: Mapping[str, Any]) -> list[str]:
    """Links between hosts are not measured here: preflight's are kept, else the shipped ones."""
    shipped = device_named(name)
    smallest = [m["points"][0][1] for m in measured if m["kind"] == "all_reduce"]
    latency = {
        "intra_host": f"{shipped.intra_latency_s * 1e6:.4g} us",
        "inter_host": f"{shipped.inter_latency_s * 1e6:.4g} us",
    }
    if before.get("links"):
        latency |= before["latency"]
    if smallest:
        latency["intra_host"] = f"{min(smallest) * 1e6:.4g} us"
    return [
        f"  latency: {{{', '.join(f'{key}: {seconds}' for key, seconds in latency.items())}}}",
        f"  message: {shipped.message_s * 1e6:.4g} us",
        f"  link_share: {shipped.link_share}",
        f"  tile_rows: {shipped.tile_rows}",
    ]


def _curves(curves: dict[str, list[tuple[float, float]]], peaks: Mapping[str, float]) -> list[str]:
    """Rates as shares of the peak."""
    return [
        f"    {precision}: {_points([(size, rate / peaks[precision]) for size, rate in points])}"
        for precision, points in curves.items()
        if precision in peaks
    ]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return "[" + ", ".join(f"[{size:.4g}, {share:.4g}]" for size, share in sorted(points)) + "]"


# Forked ranks


def _run(ranks: int, work: Any, argument: str) -> Any:
    """The result of `work` on rank 0 of several processes with one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        context = processes.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        store = str(Path(folder) / "store")
        started = [
            context.Process(target=_rank, args=(rank, ranks, store, work, argument, sender), daemon=True)
            for rank in range(ranks)
        ]
        for process in started:
            process.start()
        sender.close()
        try:
            found = receiver.recv()
        except EOFError:
            raise RuntimeError("a rank ended without a result; see its output above") from None
        for process in started:
            process.join()
    return found


def _rank(rank: int, ranks: int, store: str, work: Any, argument: str, sender: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    found = work(rank, ranks, argument)
    if rank == 0:
        sender.send(found)
    dist.barrier()
    dist.destroy_process_group()


def _primitives(rank: int, ranks: int, name: str) -> Rates:
    return primitives.measure(torch.device("cpu" if name == CPU else "cuda"))


def _contention(rank: int, ranks: int, nothing: str) -> tuple[float, float, list[tuple[float, float]]]:
    return contention.measure()


def _collectives(rank: int, ranks: int, group: str) -> dict[str, list[tuple[float, float]]]:
    return collectives.measure(rank, ranks, int(group))


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__)
    parser.add_argument("--version", action="version", version=f"switchyard {__version__}")
    parser.add_argument(
        "--out", default=f"runs/{CALIBRATION_NAME}", help="the file (output.folder/hardware.yaml)"
    )
    parser.add_argument(
        "--name", default=CPU, choices=sorted(devices()), help="the device, as cluster.gpu names it"
    )
    parser.add_argument(
        "--ranks", type=int, nargs="*", default=[2, 4], help="ranks on this host, for collectives"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(lambda: sys.exit(main(sys.argv[1:])))
