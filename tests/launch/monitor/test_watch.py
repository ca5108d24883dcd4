"""What a look at a run's folder finds, also where the folder is not as it should be."""

import json
import os
from pathlib import Path

import pytest

from launch.monitor.snapshot import State
from launch.monitor.watch import RunWatch
from planner.prediction.breakdown import PHASES
from tests.support import recorded_runs as runs


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def look(folder: Path, **options):
    return RunWatch(folder, **options).look()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; tests only read it."""
    return runs.finish(runs.write_run(tmp_path_factory.mktemp("recorded") / "run"))


def test_the_phases_are_those_of_the_interface():
    assert runs.PHASES == PHASES


def test_a_finished_run(recorded: Path):
    found = look(recorded)
    assert found.state is State.DONE
    assert (found.last.step, found.num_steps, found.attempt) == (40, 150, 1)
    assert (found.last.loss, found.validation_loss) == (pytest.approx(7.2), pytest.approx(7.3))
    assert found.throughput.tokens_per_s == 5000.0
    assert found.throughput.step_s == 0.2
    assert found.throughput.predicted_step_s == 0.16
    assert [view.rank for view in found.ranks] == [0, 1, 2, 3]
    assert {view.stage for view in found.ranks} == {"all"}
    assert found.alarms == ()
    assert found.notes == ()


def test_goodput_is_trained_time_over_all_time(recorded: Path):
    """40 steps of 0.2 s; 2 s from the claim to the first step, and 40 × 0.25 s."""
    assert look(recorded).goodput == pytest.approx(8.0 / 12.0)


def test_a_restart_costs_goodput_and_repeated_steps_count_once(tmp_path: Path):
    folder = runs.write_run(tmp_path / "run", num_steps=20)
    lines = [runs.step_line(step, attempt=2, first_step=11) for step in range(11, 31)]
    runs.write_lines(folder / "telemetry.jsonl", lines)
    found = look(runs.finish(folder))
    assert (found.last.step, found.attempt) == (30, 2)
    # The first attempt ends 5 s after its beginning, the second begins 100 s after it and trains 5 s.
    assert found.goodput == pytest.approx(30 * 0.2 / (2.0 + 100.0 + 5.0))


def test_limits_are_read_beside_what_was_measured(tmp_path: Path):
    limits = (
        "limits={utilization_min: 0.4, communication_share_max: 0.08, balance_min: 0.9, memory_max: 2 GB}"
    )
    found = look(runs.finish(runs.write_run(tmp_path / "run", limits)))
    read = {limit.name: (limit.measured, limit.holds) for limit in found.limits}
    assert read == {
        "communication_share_max": (pytest.approx(0.5), False),
        "utilization_min": (pytest.approx(0.5), True),
        "memory_max": (10**9, True),
        "balance_min": (0.8, False),
    }
    assert [alarm.split(",")[0] for alarm in found.alarms] == [
        "limit missed: communication_share_max 8.0%",
        "limit missed: balance_min 90.0%",
    ]


def test_no_limit_that_is_not_asked_for(recorded: Path):
    assert look(recorded).limits == ()


def test_the_worst_stage_is_judged(tmp_path: Path):
    """Staged: ranks 0 and 1 embed, 2 to 5 hold the experts, 6 and 7 are the output."""

    def phases(rank: int, step: int):
        return runs.phases(compute=0.02 if rank < 2 else 0.15)

    folder = runs.write_run(
        tmp_path / "run",
        "limits={utilization_min: 0.5}",
        strategy=runs.STAGED,
        num_ranks=8,
        rank_phases=phases,
    )
    (limit,) = look(runs.finish(folder)).limits
    assert (limit.stage, limit.measured, limit.holds) == ("embedding", pytest.approx(0.1), False)


def test_a_straggler_is_an_alarm(tmp_path: Path):
    folder = runs.write_run(
        tmp_path / "run", rank_phases=lambda rank, step: runs.phases(compute=0.15 if rank == 2 else 0.1)
    )
    found = look(runs.finish(folder))
    assert found.slowest.rank == 2
    assert any(alarm.startswith("straggler: rank 2 took 1.50") for alarm in found.alarms)


def test_dead_and_overloaded_experts_are_named(tmp_path: Path):
    def experts(step: int):
        tokens = runs.even_experts(step)
        tokens[3][17], tokens[5][2] = 0, 450
        return tokens

    found = look(runs.finish(runs.write_run(tmp_path / "run", experts=experts)))
    assert [(e.layer, e.expert) for e in found.experts.dead] == [(3, 17)]
    assert [(e.layer, e.expert) for e in found.experts.overloaded] == [(5, 2)]
    assert "1 dead expert: layer 3 expert 17 (0.00×)" in found.alarms


# -- a folder that is not as it should be


def test_without_telemetry(tmp_path: Path):
    runs.write_strategy(tmp_path / "run")
    found = look(tmp_path / "run")
    assert (found.state, found.last, found.goodput) == (State.NOT_STARTED, None, None)
    assert "telemetry.jsonl is missing: no step was recorded" in found.notes


def test_without_a_strategy(tmp_path: Path):
    folder = runs.finish(runs.write_run(tmp_path / "run"))
    (folder / "strategy.yaml").unlink()
    found = look(folder)
    assert found.last.step == 40
    assert found.num_steps is None
    assert any(note.startswith("strategy.yaml is missing") for note in found.notes)


def test_with_a_strategy_of_another_version(tmp_path: Path):
    folder = runs.finish(runs.write_run(tmp_path / "run"))
    (folder / "strategy.yaml").write_text("name: x\nfuture: 1\n")
    assert any("strategy.yaml cannot be read: SW" in note for note in look(folder).notes)


def test_a_torn_last_line_is_said_and_read_when_it_is_complete(tmp_path: Path):
    folder = runs.write_run(tmp_path / "run")
    watch = RunWatch(folder)
    line = json.dumps(runs.step_line(41))
    with (folder / "telemetry.jsonl").open("a") as file:
        file.write(line[:100])
    found = watch.look()
    assert found.last.step == 40
    assert any("the last line of telemetry.jsonl is not complete" in note for note in found.notes)
    with (folder / "telemetry.jsonl").open("a") as file:
        file.write(line[100:] + "\n")
    found = watch.look()
    assert found.last.step == 41
    assert found.notes == ()


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[1]",
        "{}",
        '{"step": "6"}',
        '{"step": 41, "step_s": 0}',
        '{"step": -1, "step_s": 1.0}',
        '{"step": 41, "step_s": 1e999}',
        "{" * 5000,
        "\x00\x00",
    ],
)
def test_a_damaged_line_is_counted(tmp_path: Path, line: str):
    folder = runs.finish(runs.write_run(tmp_path / "run"))
    with (folder / "telemetry.jsonl").open("a") as file:
        file.write(line + "\n")
    found = look(folder)
    assert found.last.step == 40
    assert "left out, because it cannot be read as a step: 1 line" in found.notes


def test_values_of_other_kinds_are_unknown(tmp_path: Path):
    folder = runs.finish(runs.write_run(tmp_path / "run", num_steps=10))
    odd = {"loss": "low", "phases_s": [1], "predicted": None, "overload": 3, "time": "now", "balance": True}
    runs.write_lines(folder / "telemetry.jsonl", [runs.step_line(11, **odd)])
    last = look(folder).last
    assert (last.step, last.loss, last.balance, last.phases_s) == (11, None, None, {})


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_clock_that_jumped_is_said_and_goodput_is_not_fooled(tmp_path: Path, seconds: float):
    folder = runs.write_run(tmp_path / "run", num_steps=20)
    lines = [runs.step_line(step, time=runs.step_line(step)["time"] + seconds) for step in range(21, 41)]
    runs.write_lines(folder / "telemetry.jsonl", lines)
    found = look(runs.finish(folder))
    way = "forward" if seconds > 0 else "back"
    assert found.notes == (
        f"the clock of rank 0's host jumped {way} by 3,600 s before step 21; times of day on the two sides "
        "cannot be compared, seconds of steps are not affected",
    )
    assert found.goodput == pytest.approx(8.0 / 12.0)


def test_a_rank_that_never_wrote(tmp_path: Path):
    found = look(runs.finish(runs.write_run(tmp_path / "run", num_ranks=3)))
    assert found.ranks[3].record is None
    assert found.alarms[0] == "rank 3 never wrote a step, and rank 0 is at step 40"


def test_no_rank_that_ever_wrote(tmp_path: Path):
    found = look(runs.finish(runs.write_run(tmp_path / "run", num_ranks=0)))
    assert "no rank has a file in ranks/: nothing is known of single ranks" in found.notes
    assert found.alarms == ()


def test_a_rank_that_stopped_writing(tmp_path: Path):
    folder = runs.write_run(tmp_path / "run")
    path = folder / "ranks" / "rank-0002.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:30]))
    assert (
        look(runs.finish(folder)).alarms[0] == "rank 2 stopped writing at step 30, and rank 0 is at step 40"
    )


def test_ranks_gathered_by_their_host(tmp_path: Path):
    folder = runs.write_run(tmp_path / "run", num_ranks=0)
    lines = [
        {
            "step": step,
            "ranks": [0, 1, 2, 3],
            "phases_s": {name: [seconds] * 4 for name, seconds in runs.phases().items()},
            "memory_bytes": [1, 2, 3, 4],
            "communication_share": [0.5] * 4,
            "gpu": [None] * 4,
            "expert_tokens": {},
            "attempt": 1,
        }
        for step in range(1, 41)
    ]
    runs.write_lines(folder / "ranks" / "host-node-a.jsonl", lines)
    found = look(runs.finish(folder))
    assert [view.record.memory_bytes for view in found.ranks] == [1, 2, 3, 4]
    assert {view.record.step for view in found.ranks} == {40}


def test_a_failed_run_says_why(tmp_path: Path):
    folder = runs.write_run(tmp_path / "run")
    problems = [{"code": "SW955", "found": "the loss of step 40 is not finite (nan)"}]
    (folder / "failed.json").write_text(json.dumps({"attempt": 1, "code": 1, "problems": problems}))
    found = look(folder)
    assert (found.state, found.state_detail) == (State.FAILED, "the loss of step 40 is not finite (nan)")


def test_a_loss_that_is_not_finite(tmp_path: Path):
    folder = runs.write_run(tmp_path / "run", num_steps=10)
    odd = {"loss": None, "grad_norm": None, "not_finite": {"loss": "nan", "grad_norm": "nan"}}
    runs.write_lines(folder / "telemetry.jsonl", [runs.step_line(11, **odd)])
    alarms = look(runs.finish(folder)).alarms
    assert alarms[0] == "the loss of step 11 is not finite"
    assert alarms[1].startswith("1 step of the last 10 skipped")


# -- whether it lives, by the reader's own clock


def test_heartbeats_that_change_are_life_and_old_ones_are_not(tmp_path: Path):
    """The files are of another machine: neither its processes nor its clock can be asked."""
    now = Clock()
    folder = runs.write_run(tmp_path / "run")
    runs.heartbeats(folder, range(4))
    watch = RunWatch(folder, now=now)
    assert watch.look().state is State.SILENT
    now.seconds += 1
    runs.heartbeats(folder, range(4), beats=8)
    os.utime(folder / "heartbeats" / "node-a.json", (1, 1))  # an hour of its own
    found = watch.look()
    assert (found.state, found.state_detail) == (State.TRAINING, "step")
    now.seconds += 11
    found = watch.look()
    assert found.state is State.SILENT
    assert found.state_detail == "nothing has changed in 11 s of watching"
    assert found.alarms[0] == "no sign of life: nothing has changed in 11 s of watching"


def test_a_rank_that_begins_nothing_new_is_an_alarm(tmp_path: Path):
    now = Clock()
    folder = runs.write_run(tmp_path / "run")
    wait = {"group": "data", "operation": "all_reduce", "number": 9}
    runs.heartbeats(folder, range(4), waits_in=wait)
    watch = RunWatch(folder, now=now)
    watch.look()
    now.seconds += 61
    runs.heartbeats(folder, range(4), waits_in=wait, state="running")  # the thread that writes lives
    alarm = next(alarm for alarm in watch.look().alarms if "began nothing new" in alarm)
    assert alarm == "ranks 0, 1, 2, 3 began nothing new for 61 s, in all_reduce 9 of data"


def test_a_build_and_a_save_may_take_longer_than_a_step(tmp_path: Path):
    """Until launch.timeout, 10 minutes."""
    now = Clock()
    folder = runs.write_run(tmp_path / "run")
    runs.heartbeats(folder, range(4), phase="save")
    watch = RunWatch(folder, now=now)
    watch.look()
    for seconds, is_alarm in ((300, False), (301, True)):
        now.seconds += seconds
        runs.heartbeats(folder, range(4), phase="save", state="running")
        assert any("began nothing new" in alarm for alarm in watch.look().alarms) is is_alarm


@pytest.mark.parametrize("state", ["stopped", "gone"])
def test_the_state_of_a_process(tmp_path: Path, state: str):
    folder = runs.write_run(tmp_path / "run")
    runs.heartbeats(folder, [0, 1, 2], state="running")
    (folder / "heartbeats" / "node-b.json").write_text(
        json.dumps(
            {
                "3": {
                    "pid": 1,
                    "attempt": 1,
                    "phase": "step",
                    "step": 40,
                    "beats": 7,
                    "state": state,
                    "waits_in": None,
                }
            }
        )
    )
    assert f"rank 3: the process is {state}" in look(folder).alarms


def test_a_restart_is_seen_while_one_watches(tmp_path: Path):
    folder = runs.write_run(tmp_path / "run", num_steps=20)
    watch = RunWatch(folder)
    assert watch.look().last.step == 20
    runs.write_lines(
        folder / "telemetry.jsonl", [runs.step_line(s, attempt=2, first_step=11) for s in (11, 12)]
    )
    found = watch.look()
    assert (found.last.step, found.attempt) == (12, 2)


def test_after_a_restart_the_ranks_are_judged_by_what_they_do_now(tmp_path: Path):
    """Rank 2 was slow before it, on a host that has left."""
    folder = runs.write_run(
        tmp_path / "run", rank_phases=lambda rank, step: runs.phases(compute=0.15 if rank == 2 else 0.1)
    )
    runs.write_lines(
        folder / "telemetry.jsonl", [runs.step_line(s, attempt=2, first_step=11) for s in range(11, 21)]
    )
    for rank in range(4):
        lines = [runs.rank_line(step, attempt=2) for step in range(11, 21)]
        runs.write_lines(folder / "ranks" / f"rank-{rank:04d}.jsonl", lines)
    found = look(folder)
    assert found.last.step == 20
    assert found.slowest.ratio == pytest.approx(1.0)
    assert not any("straggler" in alarm for alarm in found.alarms)
