"""Run folders as a training leaves them, written by hand: what monitor and report read."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from planner import load
from planner.plan.serialization import full_strategy

TINY = "ds_configs/tiny_cpu.yaml"  # EP4_TP2: 4 ranks, 16 layers of 64 experts, 150 steps
STAGED = "ds_configs/tiny_staged_cpu.yaml"
BEGAN = 1_800_000_000.0  # seconds since 1970
PHASES = (
    "data",
    "compute",
    "all_to_all",
    "tensor_parallel",
    "stage_wait",
    "gradient_reduce",
    "optimizer",
    "other",
)
NUM_LAYERS, NUM_EXPERTS, NUM_RANKS = 16, 64, 4


def phases(**seconds: float) -> dict[str, float]:
    """0.1 s of compute but for what is given; the rest of a step of 0.2 s is the all-to-all."""
    found = {**dict.fromkeys(PHASES, 0.0), "compute": 0.1, **seconds}
    return {**found, "all_to_all": round(0.2 - sum(found.values()), 6)}


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]], *, mode: str = "a") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def write_strategy(folder: Path, path: str = TINY, *overrides: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "strategy.yaml").write_text(full_strategy(load(path, overrides)))


def step_line(step: int, *, attempt: int = 1, first_step: int = 1, **changes: Any) -> dict[str, Any]:
    elapsed = 0.25 * (step - first_step + 1)  # 0.05 s between two steps
    return {
        "step": step,
        "loss": 8.0 - step / 50,
        "validation_loss": 8.1 - step / 50 if step % 10 == 0 else None,
        "learning_rate": 1e-3,
        "grad_norm": 0.5,
        "tokens": 1000,
        "targets": 1000,
        "step_s": 0.2,
        "tokens_per_s": 5000.0,
        "mfu": 0.25,
        "phases_s": phases(),
        "predicted": {**phases(), "compute": 0.08, "all_to_all": 0.08, "step_s": 0.16},
        "dropped_tokens": 0,
        "balance": 0.8,
        "overload": {"mean": 0.25, "worst": 0.5, "cumulative": 0.125},
        "force_routing": None,
        "time": BEGAN + 100 * (attempt - 1) + elapsed,
        "elapsed_s": elapsed,
        "attempt": attempt,
        **changes,
    }


def rank_line(step: int, *, attempt: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "phases_s": phases(),
        "memory_bytes": 10**9,
        "communication_share": 0.5,
        "gpu": None,
        "expert_tokens": [[1] * NUM_EXPERTS] * NUM_LAYERS,
        "attempt": attempt,
        **changes,
    }


def even_experts(step: int) -> list[list[int]]:
    return [[100] * NUM_EXPERTS for _ in range(NUM_LAYERS)]


def write_run(
    folder: Path,
    *overrides: str,
    strategy: str = TINY,
    num_steps: int = 40,
    num_ranks: int = NUM_RANKS,
    rank_phases: Callable[[int, int], dict[str, float]] = lambda rank, step: phases(),
    experts: Callable[[int], list[list[int]]] = even_experts,
) -> Path:
    """One attempt of a run, which has ended after num_steps; done.json is not there.

    Args:
        rank_phases: of a rank in a step.
    """
    write_strategy(folder, strategy, *overrides)
    (folder / "attempts").mkdir(exist_ok=True)
    claim = {"attempt": 1, "pid": 1, "host": "node-a", "machine": "elsewhere", "started": BEGAN - 2.0}
    (folder / "attempts" / "0001.json").write_text(json.dumps(claim))
    steps = range(1, num_steps + 1)
    write_lines(folder / "telemetry.jsonl", [step_line(step) for step in steps])
    write_lines(folder / "experts.jsonl", [{"step": s, "tokens": experts(s), "attempt": 1} for s in steps])
    for rank in range(num_ranks):
        lines = [rank_line(step, phases_s=rank_phases(rank, step)) for step in steps]
        write_lines(folder / "ranks" / f"rank-{rank:04d}.jsonl", lines)
    return folder


def finish(folder: Path, step: int = 40) -> Path:
    (folder / "done.json").write_text(json.dumps({"attempt": 1, "step": step}))
    return folder


def heartbeats(folder: Path, ranks: Sequence[int], **changes: Any) -> None:
    """As of a host that watches all of them; a change makes another beat."""
    beat = {"pid": 1, "attempt": 1, "phase": "step", "step": 40, "beats": 7, "state": "sleeping"}
    path = folder / "heartbeats" / "node-a.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({str(rank): {**beat, "waits_in": None, **changes} for rank in ranks}))


def trace(step: int = 3) -> dict[str, Any]:
    """Two ranks of one stage, a micro-batch, with an all-to-all in its forward pass."""
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": "0 all"}}
    ]
    for rank in (0, 1):
        for name, category, start, duration in (
            ("forward 0", "pass", 0, 40_000),
            ("all_to_all", "phase", 10_000, 20_000),
            ("backward 0", "pass", 40_000, 80_000),
            ("gradient_reduce", "phase", 100_000, 15_000),
            ("update", "pass", 120_000, 10_000),
            ("compute", "phase", 0, 10_000),
        ):
            events.append(
                {
                    "name": name,
                    "cat": category,
                    "ph": "X",
                    "ts": start,
                    "dur": duration,
                    "pid": 0,
                    "tid": rank,
                }
            )
    return {"traceEvents": events, "otherData": {"name": "tiny", "attempt": 1, "step": step}}
