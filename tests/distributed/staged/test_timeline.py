"""What each rank did when in one step: the trace, the picture, and that the pipeline fills."""

import json
from pathlib import Path

import numpy as np
import torch.distributed as dist

from planner import Plan, build_plan
from runtime.data.rows import Rows
from runtime.profiling.phase_clock import PhaseClock, TimeSpan
from runtime.telemetry.step_timeline import RankTimes, Timeline, chrome_trace, draw_timeline, shown_ranks
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of

STAGED = {"placement": "staged", "ep": 2, "tp": 1, "zero_stage": 1}


def caught(plan: Plan, folder: Path) -> dict[str, float]:
    """Two steps, of which the second, the plan's last, is caught; returns its phases."""
    engine, groups = start(plan)
    clock = PhaseClock()
    timeline = Timeline(plan=plan, rank=dist.get_rank(), folder=folder, attempt=4, done=0)
    phases_s: dict[str, float] = {}
    for step in (1, 2):
        rows = Rows(tokens_BS1=tokens_of(plan.strategy, step))
        if step == timeline.step:
            clock.record()
        clock.reset()
        batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
        totals = rows.totals()
        result = train_step(engine, groups, batches, totals, clock)
        phases_s = clock.reset()
        if step == timeline.step:
            timeline.write(result, clock.recorded())
    return phases_s


def test_a_step_of_three_stages(tmp_path: Path) -> None:
    plan = build_plan(tiny(parallel=STAGED, training__micro_batch=2, training__steps=2))
    assert plan.batch.accumulation == 4
    phases = run_ranks(plan.world_size, caught, plan, tmp_path)
    trace = json.loads((tmp_path / "timeline.json").read_text())
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert trace["otherData"] == {"name": "tiny", "plan": plan.fingerprint, "attempt": 4, "step": 2}
    assert min(event["ts"] for event in events) >= -1e6
    for rank in range(plan.world_size):
        passes = [e for e in events if e["tid"] == rank and e["cat"] == "pass"]
        assert len(passes) == 4 + 4 + 1
        assert passes[-1]["name"] == "update"
        starts = [event["ts"] for event in passes]
        assert starts == sorted(starts)
        # The phases of the trace are those of the clock, second for second, but for what comes after.
        spent = sum(e["dur"] for e in events if e["tid"] == rank and e["cat"] == "phase") / 1e6
        assert spent <= sum(phases[rank].values()) + 1e-3
        assert spent >= 0.5 * sum(phases[rank].values())

    def times(rank: int, name: str) -> tuple[float, float]:
        (event,) = [e for e in events if e["tid"] == rank and e["name"] == name]
        return event["ts"], event["ts"] + event["dur"]

    # It fills: the embedding's third micro-batch begins before the first one's gradient is back.
    assert times(0, "forward 2")[0] < times(0, "backward 0")[1]
    # And nothing comes before what it rests on (clocks of one host are the same).
    slack = 50_000  # us, for the alignment at the last collective
    assert times(3, "forward 0")[1] > times(1, "forward 0")[0] - slack
    assert times(1, "backward 0")[1] > times(3, "backward 0")[0] - slack
    picture = draw_timeline(tmp_path)
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_third_step_of_an_attempt_is_caught_or_the_last_there_is() -> None:
    plan = build_plan(tiny(training__steps=10))
    caught = [Timeline(plan=plan, rank=0, folder=Path(), attempt=1, done=done).step for done in (0, 5, 8, 9)]
    assert caught == [3, 8, 10, 10]


def test_the_trace_names_stages_and_ranks() -> None:
    plan = build_plan(tiny(parallel=STAGED, training__micro_batch=2))
    one = RankTimes(
        rank=3,
        passes=(TimeSpan(name="forward 0", start_ns=-9_000, end_ns=-4_000),),
        phases=(TimeSpan(name="compute", start_ns=-9_000, end_ns=-8_000),),
    )
    trace = chrome_trace(plan, 7, 1, [one])
    names = {(e["name"], e["pid"]): e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    assert names == {
        ("process_name", 0): "0 embedding",
        ("process_name", 1): "1 experts",
        ("process_name", 2): "2 aggregation",
        ("thread_name", 2): "rank 3",
    }
    spans = [(e["name"], e["ts"], e["dur"]) for e in trace["traceEvents"] if e["ph"] == "X"]
    assert spans == [("forward 0", 0.0, 5.0), ("compute", 0.0, 1.0)]


def test_a_large_world_shows_some_ranks_of_each_stage() -> None:
    plan = build_plan(tiny(parallel={"ep": 8, "dp": 32, "pp": 2}, training__global_batch=256))
    shown = shown_ranks(plan)
    assert len(shown) == 128
    assert all(len(shown & set(stage.ranks)) == 64 for stage in plan.stages)
    assert np.max(list(shown)) < plan.world_size


def test_nothing_is_drawn_of_a_run_that_caught_no_step(tmp_path: Path) -> None:
    assert draw_timeline(tmp_path) is None
