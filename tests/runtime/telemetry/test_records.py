"""What is kept of each step."""

import json
import os
import shutil
import time
from dataclasses import replace

import pytest

from planner.prediction.breakdown import PHASES
from runtime.files.json_lines import LineFileDeletedError, read_steps
from runtime.telemetry.expert_load import ExpertLoad, Overload
from runtime.telemetry.records import RankLine, StepLine, Telemetry, memory_bytes

PHASES_S = dict.fromkeys(PHASES, 0.0) | {"compute": 1.5, "all_to_all": 0.25, "other": 0.25}


def step_line(step: int, **changes) -> StepLine:
    fields = {
        "step": step,
        "loss": 6.5,
        "validation_loss": None,
        "learning_rate": 1e-3,
        "grad_norm": 0.75,
        "tokens": 2048,
        "targets": 1024,
        "model_flops": 3 * 10**9,
        "peak_flops": 10.0**10,
        "phases_s": PHASES_S,
        "dropped_tokens": 0,
    }
    return StepLine(**(fields | changes))


def rank_line(step: int) -> RankLine:
    return RankLine(step=step, phases_s=PHASES_S, memory_bytes=123, expert_tokens=[[5, 3], [0, 8]])


def test_a_step_has_every_key_of_the_interface(tmp_path):
    telemetry = Telemetry(tmp_path, 0, attempt=2)
    before = time.time()
    forced = {"kind": "hot_expert", "share": 0.3}
    telemetry.append_step(
        step_line(
            1,
            validation_loss=6.75,
            predicted={"compute": 1.0},
            force_routing=forced,
            load=ExpertLoad(
                tokens=[[5, 3]],
                balance=0.8,
                overload=Overload(mean=0.25, worst=0.25, cumulative=0.125),
            ),
            elapsed_s=2.5,
            checked={"replicas": True, "replayed": 3, "seconds": 0.25},
        )
    )
    telemetry.close()
    line = json.loads((tmp_path / "telemetry.jsonl").read_text())
    assert before <= line.pop("time") <= time.time()
    assert line == {
        "step": 1,
        "loss": 6.5,
        "validation_loss": 6.75,
        "learning_rate": 0.001,
        "grad_norm": 0.75,
        "tokens": 2048,
        "targets": 1024,
        "step_s": 2.0,
        "tokens_per_s": 1024.0,
        "mfu": 0.15,
        "phases_s": PHASES_S,
        "predicted": {"compute": 1.0},
        "dropped_tokens": 0,
        "balance": 0.8,
        "overload": {"mean": 0.25, "worst": 0.25, "cumulative": 0.125},
        "force_routing": {"kind": "hot_expert", "share": 0.3},
        "elapsed_s": 2.5,
        "checked": {"replicas": True, "replayed": 3, "seconds": 0.25},
        "attempt": 2,
    }
    experts = json.loads((tmp_path / "experts.jsonl").read_text())
    assert experts == {"step": 1, "tokens": [[5, 3]], "attempt": 2}


def test_each_rank_has_a_file_of_its_own(tmp_path):
    telemetry = Telemetry(tmp_path, 12, attempt=1)
    telemetry.append_rank_step(replace(rank_line(4), gpu={"utilization": 0.75}))
    telemetry.close()
    assert json.loads((tmp_path / "ranks" / "rank-0012.jsonl").read_text()) == {
        "step": 4,
        "phases_s": PHASES_S,
        "memory_bytes": 123,
        "communication_share": 0.125,
        "gpu": {"utilization": 0.75},
        "expert_tokens": [[5, 3], [0, 8]],
        "attempt": 1,
    }
    assert not (tmp_path / "telemetry.jsonl").exists()


def test_the_sum_of_the_phases_is_the_step(tmp_path):
    phases_s = {name: 0.1 * (number + 1) / 3 for number, name in enumerate(PHASES)}
    telemetry = Telemetry(tmp_path, 0, attempt=1)
    telemetry.append_step(step_line(1, phases_s=phases_s))
    telemetry.close()
    (line,) = read_steps(tmp_path / "telemetry.jsonl").values()
    assert sum(line["phases_s"].values()) == line["step_s"]


def test_other_ranks_keep_no_steps_of_the_run(tmp_path):
    with pytest.raises(AssertionError):
        Telemetry(tmp_path, 1, attempt=1).append_step(step_line(1))


def test_an_open_list_of_phases_is_a_mistake(tmp_path):
    with pytest.raises(AssertionError, match="thinking"):
        Telemetry(tmp_path, 0, attempt=1).append_step(step_line(1, phases_s={"thinking": 1.0}))


def test_a_resume_appends_and_the_last_attempt_counts(tmp_path):
    for attempt, steps in ((1, (1, 2, 3)), (2, (3, 4))):
        telemetry = Telemetry(tmp_path, 0, attempt=attempt)
        for step in steps:
            telemetry.append_step(step_line(step))
        telemetry.close()
    lines = read_steps(tmp_path / "telemetry.jsonl")
    assert [line["attempt"] for line in lines.values()] == [1, 1, 2, 2]


def test_tensorboard_has_the_losses_and_hides_what_was_done_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for attempt, first_step, loss in ((1, 1, 6.0), (2, 2, 5.0)):
        telemetry = Telemetry(tmp_path, 0, attempt=attempt, first_step=first_step, tensorboard=True)
        for step in range(first_step, 4):
            telemetry.append_step(step_line(step, loss=loss, validation_loss=loss if step == 3 else None))
        telemetry.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == [(1, 6), (2, 5), (3, 5)]
    assert [(event.step, event.value) for event in events.Scalars("loss/validation")] == [(3, 5)]
    assert "phases_s/all_to_all" in events.Tags()["scalars"]


def test_tensorboard_is_off_unless_asked_for(tmp_path):
    telemetry = Telemetry(tmp_path, 0, attempt=1)
    telemetry.append_step(step_line(1))
    telemetry.close()
    assert not (tmp_path / "tensorboard").exists()


def test_memory_is_what_is_resident():
    before = memory_bytes("cpu")
    block = bytearray(os.urandom(1 << 20) * 64)
    assert memory_bytes("cpu") - before > 32 << 20
    del block


def test_telemetry_costs_little(tmp_path):
    telemetry = Telemetry(tmp_path, 0, attempt=1, tensorboard=True)
    large = RankLine(step=1, phases_s=PHASES_S, memory_bytes=1, expert_tokens=[[100] * 64] * 16)
    started = time.process_time()  # of this process, whatever else the machine does
    for step in range(100):
        telemetry.append_step(step_line(step))
        telemetry.append_rank_step(large)
    telemetry.close()
    assert (time.process_time() - started) / 100 < 10e-3  # 1 % of a demo step of 1 s


def test_a_deleted_folder_of_events_is_told_once(tmp_path, capfd):
    records = Telemetry(tmp_path, 0, attempt=1, tensorboard=True)
    records.append_step(step_line(1))
    time.sleep(0.5)  # the thread of the events has written them
    shutil.rmtree(tmp_path / "tensorboard")
    with pytest.raises(LineFileDeletedError, match=f"SW963 {tmp_path}/tensorboard was deleted"):
        records.append_step(step_line(2))
    records.close()
    assert "Traceback" not in capfd.readouterr().err
