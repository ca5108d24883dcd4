"""Table of operations beside GEMMs: `python -m benchmarks.count_ops`.

Counts the real decoder on shapes that vary each key, and fits bytes and operations of each module as sums of
planner.timing.op_sizes. Writes planner/timing/op_table.yaml, which the planner reads. No step is timed.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.op_counts import Count, Passes, count_passes
from benchmarks.op_shapes import SHAPES, Shape
from planner import Strategy, __version__
from planner.counts.head_chunk import head_chunk_tokens
from planner.counts.rank_workload import RankWorkload
from planner.counts.sent_rows import balanced_ranks
from planner.standard_streams import run_program
from planner.timing.op_sizes import MODULES, Terms, element_sizes, operation_counts
from planner.timing.op_table import PATH, counted_values

_HEADER = """\
# Operations of a micro-batch, counted on the decoder of model/ by `python -m benchmarks.count_ops`, which
# writes this file. By precision, module and pass: how many are issued, and the bytes that the memory-bound
# ones (no GEMMs, attention or collectives) read and write, for each element of the sizes of op_sizes.py. A
# tensor counts once for each operation that reads or writes it; a broadcast one by what it holds.
# ranges: the least and the largest value counted over.
"""
_LEAST_SHARE = 3e-3  # of a module's bytes in the shape where a term adds most
_LEAST_VALUE = 0.1  # bytes an element, or operations: no term is less than a whole one


@dataclass(frozen=True)
class Counted:
    """A shape and what was counted of it."""

    strategy: Strategy
    workload: RankWorkload
    passes: Passes


def workload(strategy: Strategy, tp: int, ep: int) -> RankWorkload:
    """The first rank's, its experts balanced."""
    model, training = strategy.model, strategy.training
    tokens = training.micro_batch * training.seq_length
    share = -(-tokens // tp)
    sent = share * model.num_experts_per_tok
    rows = round(share * balanced_ranks(model.num_experts, model.num_experts_per_tok, ep))
    return RankWorkload(
        model=model,
        num_sequences=training.micro_batch,
        seq_length=training.seq_length,
        tp=tp,
        ep=ep,
        element_bytes=training.element_bytes,
        sent=sent,
        received=sent,
        computed=sent,
        head_chunk_tokens=head_chunk_tokens(strategy, tp),
        sent_rows=rows,
        received_rows=rows,
    )


def parts(strategy: Strategy) -> list[tuple[int, str]]:
    """How often the complete model has which part."""
    dense = strategy.model.first_dense_layers
    layers = strategy.model.num_hidden_layers
    once = [(1, part) for part in ("embedding", "norm", "output")]
    return [(dense, "dense"), (layers - dense, "moe"), *once]


def terms(one: Counted, kind: Callable[[RankWorkload, str], Terms]) -> Terms:
    """Sizes of the complete model by module: `kind` is element_sizes or operation_counts."""
    total: Terms = {}
    for times, part in parts(one.strategy):
        for module, sizes in kind(one.workload, part).items() if times else ():
            found = total.setdefault(module, {})
            for name, size in sizes.items():
                found[name] = found.get(name, 0.0) + times * size
    return total


def fit(rows: Sequence[dict[str, float]], counted: Sequence[float]) -> dict[str, float]:
    """Coefficients of the least relative error; those that add next to nothing anywhere are left out."""
    names = sorted({name for row in rows for name, size in row.items() if size})
    weights = torch.tensor([1 / max(value, 1.0) for value in counted], dtype=torch.float64)
    target = torch.tensor(list(counted), dtype=torch.float64) * weights
    while names:
        matrix = torch.tensor([[row.get(name, 0.0) for name in names] for row in rows], dtype=torch.float64)
        matrix = matrix * weights[:, None]
        scale = matrix.abs().amax(0).clamp(min=1e-30)
        solution = torch.linalg.lstsq(matrix / scale, target[:, None], driver="gelsd").solution[:, 0]
        found = zip(names, solution, solution / scale, strict=True)
        kept = [name for name, share, value in found if share > _LEAST_SHARE and value > _LEAST_VALUE]
        if kept == names:
            return {name: round(float(v), 2) for name, v in zip(names, solution / scale, strict=True)}
        names = kept
    return {}


def fitted(counted: Sequence[Counted]) -> dict[str, Any]:
    """Coefficients by module and pass, of shapes of one precision."""
    found: dict[str, Any] = {}
    for module in MODULES:
        found[module] = {}
        for name in ("forward", "backward"):
            own = [one for one in counted if module in getattr(one.passes, name)]
            counts = [getattr(one.passes, name)[module] for one in own]
            sizes = [terms(one, element_sizes).get(module, {}) for one in own]
            times = [terms(one, operation_counts).get(module, {}) for one in own]
            found[module][name] = {
                "operations": fit(times, [count.operations for count in counts]),
                "bytes": fit(sizes, [count.num_bytes for count in counts]),
            }
    return found


def predicted(one: Counted, table: dict[str, Any], module: str, name: str) -> Count:
    """What the table says of a module's pass, for a shape that was counted."""
    own = table[module][name]
    sizes, times = (terms(one, kind).get(module, {}) for kind in (element_sizes, operation_counts))
    return Count(
        operations=sum(value * times.get(key, 0.0) for key, value in own["operations"].items()),
        num_bytes=sum(value * sizes.get(key, 0.0) for key, value in own["bytes"].items()),
    )


def write(tables: dict[str, dict[str, Any]], path: Path) -> None:
    lines = [_HEADER.rstrip(), "counted:"]
    lines += [f"  by: torch {torch.__version__}, {len(SHAPES)} shapes, {date.today().isoformat()}"]
    lines += ["  ranges:"]
    for key, values in ranges().items():
        lines.append(f"    {key}: [{', '.join(map(str, values))}]")
    for precision, table in tables.items():
        lines.append(f"{precision}:")
        for module, passes in table.items():
            lines.append(f"  {module}:")
            for name, own in passes.items():
                lines.append(f"    {name}:")
                lines += [f"      {kind}: {_inline(values)}" for kind, values in own.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _inline(values: dict[str, float]) -> str:
    return "{" + ", ".join(f"{key}: {value:g}" for key, value in values.items()) + "}"


def ranges() -> dict[str, tuple[Any, Any]]:
    """The least and the largest value of each number that was counted over."""
    found: dict[str, list[int]] = {}
    for shape in SHAPES:
        for key, value in counted_values(count_shape(shape, "fp32")[1]).items():
            found.setdefault(key, []).append(value)
    return {key: (min(values), max(values)) for key, values in found.items()}


def count_shape(shape: Shape, precision: str) -> tuple[Strategy, RankWorkload]:
    strategy = shape.strategy(precision)
    return strategy, workload(strategy, shape.tp, shape.ep)


def count(shape: Shape, precision: str) -> Counted:
    """Runs the decoder once."""
    strategy, rank = count_shape(shape, precision)
    passes = count_passes(strategy, tp=shape.tp, ep=shape.ep)
    return Counted(strategy=strategy, workload=rank, passes=passes)


def main(argv: list[str]) -> int:
    """0 once the table is written."""
    parser = argparse.ArgumentParser(
        description="Counts operations of the decoder; writes the planner's table."
    )
    parser.add_argument("--version", action="version", version=f"switchyard {__version__}")
    parser.add_argument("--out", type=Path, default=PATH, help="where the table is written")
    options = parser.parse_args(argv)
    tables: dict[str, dict[str, Any]] = {}
    for precision in ("fp32", "bf16"):
        counted = [count(shape, precision) for shape in SHAPES]
        tables[precision] = fitted(counted)
        print(f"{precision}: table against decoder, bytes forward and backward")
        for shape, one in zip(SHAPES, counted, strict=True):
            print(f"  {_differences(one, tables[precision])}  {shape.title}")
    write(tables, options.out)
    print(f"written to {options.out}")
    return 0


def _differences(one: Counted, table: dict[str, Any]) -> str:
    shown = []
    for name, counts in (("forward", one.passes.forward), ("backward", one.passes.backward)):
        whole = sum(count.num_bytes for count in counts.values())
        said = sum(predicted(one, table, module, name).num_bytes for module in MODULES)
        shown.append(f"{whole:14,.0f} {said / whole - 1:+7.2%}")
    return " ".join(shown)


if __name__ == "__main__":
    run_program(lambda: sys.exit(main(sys.argv[1:])))
