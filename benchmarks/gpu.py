"""A training step on one GPU: `python -m benchmarks.gpu`. One call, no network, no files but its own output.

The reference model, with all 16 layers on 140 GB and as many as fit on less, and Qwen3-30B-A3B's layer
shapes, as many as fit. Competitors run one after the other, because one fills the memory. Prints tokens/s,
MFU against the rate of a large product measured in the same run, peak memory and the kernels with the
largest shares; writes JSON. `--device cpu --tiny` runs the same code without a GPU.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import step_ranks
from benchmarks.competitors import SETTINGS
from benchmarks.setting import OURS, Setting, Shape, plan_of, step_flops
from benchmarks.step import TINY, prepare
from benchmarks.step_report import machine, versions
from benchmarks.worlds import World, WorldFailed
from planner import __version__
from planner.memory.fit import fits
from planner.problems import StrategyError
from runtime.process.usable_cores import num_usable_cores

# ds_configs/ep64_tp2_staged.yaml: 4.37 B parameters. Its experts have two matrices; the peers' have three.
REFERENCE = Shape(
    num_layers=16,
    hidden_size=1024,
    moe_intermediate_size=2048,
    num_experts=64,
    top_k=1,
    num_heads=16,
    num_key_value_heads=16,
    head_dim=64,
    vocab_size=4096,
    seq_length=1024,
    num_sequences=8,
    expert="mlp",
)
# config.json of Qwen/Qwen3-30B-A3B, whose 48 layers need 490 GB; its vocabulary of 151,936 is kept.
QWEN3 = Shape(
    num_layers=48,
    hidden_size=2048,
    moe_intermediate_size=768,
    num_experts=128,
    top_k=8,
    num_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    vocab_size=151936,
    seq_length=4096,
    num_sequences=1,
)
MODELS = {
    "reference": (REFERENCE, (OURS,)),
    "reference, SwiGLU": (replace(REFERENCE, expert="swiglu"), (OURS, "transformers", "deepspeed", "autoep")),
    "Qwen3-30B-A3B": (QWEN3, (OURS, "transformers", "deepspeed", "autoep")),
}
WARMUP_STEPS, STEPS = 3, 7
# Peers keep more than this program's plan has: whole logits, in fp32 too. Chosen, not measured.
_PEERS_SHARE = 0.8


def main(argv: Sequence[str]) -> int:
    """0 if every competitor was measured, else 1."""
    options = _options(argv)
    device = options.device
    prepare(device)
    memory, where = 0, machine()
    if device == "cuda":
        # Asked in a process of its own: one that has touched CUDA cannot be forked.
        world = World(1, 1)
        (about,) = world.call(step_ranks.about_gpu)
        world.close()
        if about is None:
            print("no GPU: --device cpu --tiny runs the same code without one", file=sys.stderr)
            return 1
        where, memory = about
    found = []
    for name, (full, competitors) in MODELS.items():
        shape = (
            replace(TINY, expert=full.expert, num_layers=min(2, full.num_layers)) if options.tiny else full
        )
        if device == "cuda":
            shape = _fitting(shape, memory * (1.0 if competitors == (OURS,) else _PEERS_SHARE))
        layers = f"{shape.num_layers} of {full.num_layers} layers"
        print(f"\n{name}: {layers}{', at a tiny size' if options.tiny else ''}", flush=True)
        for competitor in competitors:
            setting = Setting(
                competitor=competitor,
                shape=shape,
                precision="bf16",
                num_ranks=1,
                gpu=_gpu(memory) if device == "cuda" else "cpu",
                overrides=tuple(options.set) if competitor == OURS else (),
            )
            row = {"model": name, "layers": shape.num_layers, "competitor": competitor}
            row |= _measure(setting, device, 2 if options.tiny else STEPS)
            _print(row)
            found.append(row)
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    text = {"machine": where, "versions": versions(), "settings": SETTINGS, "rows": found}
    out.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    print(f"\n{where}; written to {out}")
    return int(any("error" in row for row in found))


def _measure(setting: Setting, device: str, num_steps: int) -> dict[str, Any]:
    """Figures of one competitor in a process of its own, or its error."""
    world = World(1, num_usable_cores() if device == "cuda" else 1, device)
    try:
        width = 8192 if device == "cuda" else 128
        (rate,) = world.call(step_ranks.gemm_rate, setting.precision, width)
        world.call(step_ranks.build, setting)
        world.call(step_ranks.forget_peak)
        for _ in range(WARMUP_STEPS if device == "cuda" else 1):
            world.call(step_ranks.step)
        steps = [world.call(step_ranks.step)[0] for _ in range(num_steps)]
        (peak,) = world.call(step_ranks.peak_bytes)
        (kernels,) = world.call(step_ranks.profile_step)
    except WorldFailed as failure:
        return {"error": str(failure)}
    finally:
        world.close()
    seconds, flops = statistics.median(one.seconds for one in steps), step_flops(setting)
    return {
        "loss": steps[-1].loss,
        "seconds": [one.seconds for one in steps],
        "tokens_per_s": setting.shape.num_tokens / seconds,
        "flops": flops,
        "gemm_flops_per_s": rate,
        "mfu": flops / seconds / rate,
        "peak_bytes": peak,
        "kernels": kernels,
    }


def _print(row: dict[str, Any]) -> None:
    if "error" in row:
        print(f"  {row['competitor']:14} failed: {row['error'].splitlines()[0]}", flush=True)
        return
    print(
        f"  {row['competitor']:14}{statistics.median(row['seconds']) * 1e3:9.1f} ms"
        f"{row['tokens_per_s']:12.0f} tokens/s  MFU {row['mfu']:6.1%} "
        f"of {row['gemm_flops_per_s'] / 1e12:.3g} "
        f"TFLOP/s  peak {row['peak_bytes'] / 1e9:.1f} GB",
        flush=True,
    )
    for name, share in row["kernels"][:5]:
        print(f"      {share:6.1%}  {name[:80]}")


def _fitting(shape: Shape, memory: float) -> Shape:
    """The model with as many of its layers as the planner expects to fit."""
    for num_layers in range(shape.num_layers, 0, -1):
        found = replace(shape, num_layers=num_layers)
        setting = Setting(
            competitor=OURS, shape=found, precision="bf16", num_ranks=1, gpu=_gpu(round(memory))
        )
        if fits(plan_of(setting)):
            return found
    raise SystemExit(f"not one layer fits into {memory / 1e9:.0f} GB")


def _gpu(memory: int) -> dict[str, Any]:
    """A device of so much memory; its rates are not used here, the bench measures them."""
    return {"memory": f"{memory} B", "memory_bandwidth": "2 TB/s", "peak": {"bf16": "400 TFLOPS"}}


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--version", action="version", version=f"switchyard {__version__}")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="a tiny size: does it all run?")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of this program's strategy"
    )
    parser.add_argument("--out", default="runs/bench_gpu.json", help="the results as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StrategyError as error:
        sys.exit(str(error))
