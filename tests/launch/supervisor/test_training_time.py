"""Effective training time from a run's own lines; expected values from the formula, by hand."""

import json
from pathlib import Path

import pytest

from launch.supervisor.recovery import Recovery
from launch.supervisor.training_time import describe_training_time, save_stalls_s
from planner import build_plan, loads

STRATEGY = """
name: time
cluster: {hosts: 1, gpus_per_host: 4, gpu: cpu, links: {intra_host: 10 GB/s, inter_host: 10 GB/s}, mtbf: 4 h}
model: {num_hidden_layers: 2, num_experts: 8, hidden_size: 32, moe_intermediate_size: 32,
        num_attention_heads: 4, vocab_size: 512}
parallel: {ep: 4}
training: {precision: fp32, seq_length: 32, global_batch: 8, steps: 12, warmup_steps: 3}
output: {checkpoint_every: 2}
"""
RECOVERY = Recovery(detect_s=2, decide_s=3, start_s=14, load_s=1, replay_s=9, replayed_steps=3)


def line(step: int, time: float, attempt: int = 1, validation_loss: float | None = None) -> dict[str, object]:
    return {"step": step, "time": time, "step_s": 1.0, "attempt": attempt, "validation_loss": validation_loss}


LINES = [line(1, 0.0), line(2, 1.0), line(3, 2.5), line(4, 3.5), line(5, 5.1), line(6, 6.1)]


def test_a_save_is_what_lies_between_two_steps_beside_the_second() -> None:
    assert list(save_stalls_s(LINES, 2)) == pytest.approx([0.5, 0.6])


def test_another_attempt_and_a_validation_between_two_steps_count_no_save() -> None:
    assert list(save_stalls_s([line(2, 0.0), line(3, 90.0, attempt=2)], 2)) == []
    assert list(save_stalls_s([line(2, 0.0), line(3, 9.0, validation_loss=1.0)], 2)) == []


def test_the_ratio_is_told_for_three_rates_of_failures(tmp_path: Path) -> None:
    text = "".join(json.dumps(made) + "\n" for made in LINES)
    (tmp_path / "telemetry.jsonl").write_text(text + '{"step": 7, "ti')  # cut off by a kill
    told = describe_training_time(build_plan(loads(STRATEGY)), tmp_path, [RECOVERY])
    assert told is not None
    assert [facts["mtbf_s"] for facts in told[1]] == [600, 10_800, 3_600]
    # s = w = 0.55, T = 2 steps of 1 s, R = 20: 1 / (1 + 0.55/2 + (20 + 1 + 0.55)/600)
    assert told[1][0]["effective_training_time_ratio"] == pytest.approx(1 / (1 + 0.275 + 21.55 / 600))
    assert told[1][0]["best_interval_s"] == pytest.approx((2 * 0.55 * 600) ** 0.5)
    assert "0.55 s for a save and 20.0 s for a restart" in told[0]


def test_a_save_beside_the_steps_is_whole_when_the_next_is_due(tmp_path: Path) -> None:
    (tmp_path / "telemetry.jsonl").write_text("".join(json.dumps(made) + "\n" for made in LINES))
    plan = build_plan(loads(STRATEGY, ["output.async_save=true"]))
    told = describe_training_time(plan, tmp_path, [RECOVERY])
    assert told is not None
    assert told[1][0]["effective_training_time_ratio"] == pytest.approx(1 / (1 + 0.275 + 23 / 600))


def test_without_a_recovery_nothing_is_told(tmp_path: Path) -> None:
    assert describe_training_time(build_plan(loads(STRATEGY)), tmp_path, []) is None
