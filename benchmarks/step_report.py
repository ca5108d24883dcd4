"""Report of benchmarks.step: paired ratios with their intervals, bytes, memory, share of the floor."""

import json
import os
import platform
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.competitors import SETTINGS
from benchmarks.setting import OURS, Setting, Shape, step_flops
from benchmarks.step_ranks import Counts
from runtime.process.usable_cores import num_usable_cores

_RESAMPLES = 2000


@dataclass(kw_only=True)
class Row:
    """One competitor in one block. seconds: of each timed step, on the slowest rank; cpu_s: of all ranks.
    counts, peak_bytes: of each rank."""

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    loss: float = float("nan")
    counts: list[Counts] | None = None
    peak_bytes: list[int] | None = None


@dataclass(kw_only=True)
class Block:
    """Competitors that took turns. gemm_rate: FLOP/s of all ranks together, measured between the same steps.
    failed: error by competitor."""

    routing: str
    num_ranks: int
    threads: int
    precision: str
    capacity_factor: float | None
    gemm_rate: float
    experts_TK: np.ndarray
    setting: Setting
    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return len(self.experts_TK)

    @property
    def floor_s(self) -> float:
        """The step's matrix products at the measured rate, and nothing else."""
        return step_flops(self.setting) / self.gemm_rate if self.gemm_rate else float("nan")

    @property
    def least_row_bytes(self) -> float:
        """Mean over ranks of what must leave one: each token once for every other rank that has an expert of
        it, to it and back, forward and backward, in every layer."""
        ranks, shape = self.num_ranks, self.setting.shape
        rank_TK = self.experts_TK // (shape.num_experts // ranks)
        source_T = np.arange(len(rank_TK)) // (len(rank_TK) // ranks)
        has_TP = np.zeros((len(rank_TK), ranks), dtype=bool)
        np.put_along_axis(has_TP, rank_TK, True, axis=1)
        has_TP[np.arange(len(rank_TK)), source_T] = False
        width = 4 if self.precision == "fp32" else 2
        return float(has_TP.sum() / ranks * shape.hidden_size * width * 4 * shape.num_layers)

    def check_routes(self) -> None:
        """
        Raises:
            RuntimeError: if a competitor did not route as it was told: its figures would mean nothing.
        """
        wanted = np.bincount(self.experts_TK.reshape(-1), minlength=self.setting.shape.num_experts)
        for row in self.rows:
            found = np.sum([counts.rows_E for counts in row.counts or []], axis=0)
            if not np.array_equal(found, wanted):
                raise RuntimeError(
                    f"{row.name}, {self.routing}: routed {found.tolist()}, not {wanted.tolist()}"
                )


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Median of paired ratios and the bootstrap's 95 % interval of it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Theirs over ours, round by round: above 1 ours is faster. `theirs` may end after fewer rounds."""
    ratios = [t / o for t, o in zip(theirs, ours, strict=False)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return Ratio(
        median=statistics.median(ratios),
        low=medians[round(0.025 * (_RESAMPLES - 1))],
        high=medians[round(0.975 * (_RESAMPLES - 1))],
    )


class Report:
    """The table on stdout and the JSON in `out`, block by block: what was measured stays when the bench is
    stopped."""

    def __init__(self, shape: Shape, out: Path) -> None:
        self._out = out
        self._found: dict[str, Any] = {
            "machine": machine(),
            "versions": versions(),
            "settings": SETTINGS,
            "shape": asdict(shape),
            "blocks": [],
        }
        print(f"{machine()}; {', '.join(f'{name} {version}' for name, version in versions().items())}")
        print(
            f"{shape.num_layers} layers, hidden {shape.hidden_size}, FFN {shape.moe_intermediate_size}, "
            f"{shape.num_experts} experts, top-{shape.top_k}, vocabulary {shape.vocab_size}, "
            f"{shape.num_tokens} tokens a rank"
        )
        for name, text in SETTINGS.items():
            print(f"  {name}: {text}")
        out.parent.mkdir(parents=True, exist_ok=True)

    def add(self, block: Block) -> None:
        found = _block(block)
        self._found["blocks"].append(found)
        _print_block(found)
        self._out.write_text(json.dumps(self._found, indent=1) + "\n", encoding="utf-8")

    @property
    def is_complete(self) -> bool:
        """Whether no competitor failed."""
        return not any(block["failed"] for block in self._found["blocks"])


def _block(block: Block) -> dict[str, Any]:
    ours = next((row for row in block.rows if row.name == OURS), None)
    floor_s = block.floor_s
    rows = []
    for row in block.rows:
        assert row.counts is not None
        assert row.peak_bytes is not None
        median_s = statistics.median(row.seconds)
        is_compared = ours is not None and row is not ours
        rows.append(
            {
                "name": row.name,
                "num_steps": len(row.seconds),
                "num_tokens": block.num_tokens,
                "loss": row.loss,
                "seconds": row.seconds,
                "median_s": median_s,
                "tokens_per_s": block.num_tokens / median_s,
                "cpu_s": row.cpu_s,
                "ratio": asdict(paired_ratio(row.seconds, ours.seconds)) if is_compared and ours else None,
                "cpu_ratio": asdict(paired_ratio(row.cpu_s, ours.cpu_s)) if is_compared and ours else None,
                "dropped_share": statistics.fmean(c.dropped for c in row.counts),
                "sent_row_bytes": statistics.fmean(c.row_bytes for c in row.counts),
                "sent_list_bytes": statistics.fmean(c.list_bytes for c in row.counts),
                "sent_other_bytes": statistics.fmean(c.other_bytes for c in row.counts),
                "peak_bytes": max(row.peak_bytes),
                "floor_share": floor_s / median_s,
            }
        )
    return {
        "num_ranks": block.num_ranks,
        "threads_per_rank": block.threads,
        "precision": block.precision,
        "routing": block.routing,
        "capacity_factor": block.capacity_factor,
        "gemm_flops_per_s": block.gemm_rate,
        "floor_s": floor_s,
        "load_average": os.getloadavg()[0],
        "least_row_bytes": block.least_row_bytes if block.capacity_factor is None else None,
        "rows": rows,
        "failed": block.failed,
    }


def _print_block(block: dict[str, Any]) -> None:
    ranks, factor = block["num_ranks"], block["capacity_factor"]
    print(
        f"\n{ranks} rank{'s' if ranks > 1 else ''} of {block['threads_per_rank']} threads, "
        f"{block['precision']}, {block['routing']}, {f'capacity {factor}' if factor else 'dropless'}: "
        f"floor {block['floor_s'] * 1e3:.0f} ms ({block['gemm_flops_per_s'] / 1e9:.0f} GFLOP/s)"
        + (f", least rows {_mib(block['least_row_bytes'])} MiB" if block["least_row_bytes"] else "")
        + f"; load average {block['load_average']:.1f}"
    )
    print(
        f"  {'':18}{'n':>3}{'ms':>8}{'tokens/s':>10}  {'time over ours [95 %]':20}{'CPU time over ours':20}"
        f"{'floor':>6}{'rows':>8}{'lists':>7}{'other':>8}{'drop':>7}{'peak':>7}"
    )
    for row in block["rows"]:
        ratios = [f"{Ratio(**row[key])}" if row[key] else "1" for key in ("ratio", "cpu_ratio")]
        print(
            f"  {row['name']:18}{row['num_steps']:>3}{row['median_s'] * 1e3:>8.0f}"
            f"{row['tokens_per_s']:>10.0f}"
            f"  {ratios[0]:20}{ratios[1]:20}{row['floor_share']:>6.0%}{_mib(row['sent_row_bytes']):>8}"
            f"{_mib(row['sent_list_bytes']):>7}{_mib(row['sent_other_bytes']):>8}"
            f"{row['dropped_share']:>7.1%}{row['peak_bytes'] / 2**20:>7.0f}"
        )
    for name, error in block["failed"].items():
        print(f"  {name:18} failed: {error.splitlines()[0]}")
    sys.stdout.flush()


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:.2f}" if num_bytes < 2**20 else f"{num_bytes / 2**20:.1f}"


def machine() -> str:
    """The processor and its cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = (
            line.partition(":")[2].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        )
        model = next(names, model)
    return f"{model}, {num_usable_cores()} cores"


def versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in ("torch", "deepspeed", "transformers")}
    return {"Python": platform.python_version()} | found
