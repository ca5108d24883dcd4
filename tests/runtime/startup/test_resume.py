"""Where a run resumes from: `output.resume` against the contents of the folders."""

import hashlib
import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner import Plan, StrategyError, build_plan, loads
from runtime.checkpoint.compatibility import Fingerprints
from runtime.checkpoint.manifest import Meta
from runtime.checkpoint.store import write
from runtime.startup.open_run import horizon_of
from runtime.startup.resume import find_start
from tests.support.states import META, full_state, one_rank

PRINTS = Fingerprints(model=META.model_fingerprint, recipe=META.recipe_fingerprint)
STRATEGY = """
name: tiny
cluster:
  {hosts: 1, gpus_per_host: 2, gpu: cpu, links: {intra_host: 1 GB/s, inter_host: 1 GB/s}}
model: {num_hidden_layers: 2, num_experts: 4, hidden_size: 16, moe_intermediate_size: 16,
  num_attention_heads: 2, vocab_size: 300}
training: {seq_length: 32, global_batch: 4, steps: 20, precision: fp32}
"""


def plan(*overrides: str) -> Plan:
    return build_plan(loads(STRATEGY, overrides))


def save(run: Path, *steps: int, meta: Meta = META) -> None:
    for step in steps:
        write(run / "checkpoints", step, one_rank(full_state())[0], meta)


def refusal(plan: Plan, run: Path, prints: Fingerprints = PRINTS) -> str:
    with pytest.raises(StrategyError) as error:
        find_start(plan, run, prints)
    (problem,) = error.value.problems
    assert problem.path == "output.resume"
    return f"{problem.code} {problem.found}; {problem.fix}"


def test_auto_takes_the_newest_intact_checkpoint_and_warns_of_the_damaged_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 5, 10)
    (tmp_path / "checkpoints" / "step-00000010" / "rank-0000.safetensors").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        assert find_start(plan(), tmp_path, PRINTS).step == 5
    assert re.search("SW806 .*step-00000010: SW804 rank-0000", caplog.text)


def test_a_checkpoint_of_manifest_version_1_still_resumes(tmp_path: Path) -> None:
    """Version 1 called the recipe's fingerprint `course_fingerprint`."""
    save(tmp_path, 5)
    path = tmp_path / "checkpoints" / "step-00000005" / "manifest.json"
    fields = json.loads(path.read_text())
    assert fields.pop("schema_version") == 2
    del fields["sha256"]
    old = {**fields, "schema_version": 1}
    old["meta"]["course_fingerprint"] = old["meta"].pop("recipe_fingerprint")
    canonical = json.dumps(old, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**old, "sha256": hashlib.sha256(canonical).hexdigest()}))
    assert find_start(plan(), tmp_path, PRINTS).step == 5
    other = Fingerprints(model=PRINTS.model, recipe="x")
    assert "training recipe" in refusal(plan(), tmp_path, other)


def test_auto_starts_afresh_where_there_is_nothing(tmp_path: Path) -> None:
    assert find_start(plan(), tmp_path / "none", PRINTS) is None


@pytest.mark.parametrize(
    ("written", "is_done", "said"),
    [
        ('{"step": 100}\n{"step": 101}\n', False, "trained to step 101"),
        ('{"step": 101}\n{"ste', False, "trained to step 101"),
        ('{"step": 2}\n', True, "trained to step 2"),
        ("", True, "trained to its end"),
        ('{"step": 100}\n', False, ""),  # it may have been ended while it saved its first checkpoint
        ("", False, ""),
    ],
)
def test_a_start_from_step_1_after_checkpoints_were_lost_is_told(
    written: str, is_done: bool, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "telemetry.jsonl").write_text(written)
    if is_done:
        (tmp_path / "done.json").write_text("{}")
    assert find_start(plan("output.checkpoint_every=100"), tmp_path, PRINTS) is None
    assert ("SW829" in caplog.text) == bool(said)
    assert said in caplog.text


def test_another_model_or_recipe_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5)
    assert "SW824" in refusal(plan(), tmp_path, Fingerprints(model="x", recipe=PRINTS.recipe))
    assert "SW825" in refusal(plan(), tmp_path, Fingerprints(model=PRINTS.model, recipe="x"))


def test_never_wants_an_empty_folder_and_require_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "full", 5)
    assert "SW821" in refusal(plan("output.resume=never"), tmp_path / "full")
    assert "SW822" in refusal(plan("output.resume=require"), tmp_path / "empty")


def test_a_checkpoint_is_resumed_only_with_steps_left(tmp_path: Path) -> None:
    save(tmp_path / "other", 20)
    resume = f"output.resume={tmp_path / 'other'}"
    assert find_start(plan(resume, "training.steps=21"), tmp_path / "new", PRINTS).step == 20
    text = refusal(plan(resume), tmp_path / "new")
    assert text.startswith("SW826")
    assert "set training.steps above 20" in text
    tokens = plan(resume, "training.steps=null", "training.tokens=2560")  # 20 steps of 4 × 32
    text = refusal(tokens, tmp_path / "new")
    assert "training.steps is 20 (from training.tokens); set training.tokens above 2560" in text
    longer = plan(resume, "training.steps=null", "training.tokens=2561")
    assert find_start(longer, tmp_path / "new", PRINTS).step == 20


@pytest.mark.parametrize("counters", [{"horizon": 20}, {"horizon": "x", "optimizer_steps": 1}, {}])
def test_a_checkpoint_without_a_runs_counters_is_refused(tmp_path: Path, counters: dict[str, Any]) -> None:
    save(tmp_path, 5, meta=replace(META, counters=counters))
    assert refusal(plan(), tmp_path).startswith("SW802")


def test_resuming_from_a_run_whose_checkpoints_are_not_mounted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoints").symlink_to("/not mounted")
    assert "SW818" in refusal(plan(f"output.resume={tmp_path / 'other'}"), tmp_path / "new")


def test_a_branch_may_be_another_recipe_but_not_another_model(tmp_path: Path) -> None:
    save(tmp_path / "other", 5)
    branch = plan(f"output.resume={tmp_path / 'other'}", "output.branch=true")
    assert find_start(branch, tmp_path / "new", Fingerprints(model=PRINTS.model, recipe="x")).step == 5
    assert "SW824" in refusal(branch, tmp_path / "new", Fingerprints(model="x", recipe="x"))


def test_an_older_step_of_the_same_run_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5, 10)
    older, newest = (tmp_path / "checkpoints" / name for name in ("step-00000005", "step-00000010"))
    assert "SW827" in refusal(plan(f"output.resume={older}"), tmp_path)
    assert find_start(plan(f"output.resume={newest}"), tmp_path, PRINTS).step == 10
    assert find_start(plan(f"output.resume={tmp_path}"), tmp_path, PRINTS).step == 10


def test_the_horizon_stays_that_of_the_first_attempt(tmp_path: Path) -> None:
    save(tmp_path, 5)
    start = find_start(plan(), tmp_path, PRINTS)
    longer = plan("training.steps=30", "output.resume=other", "output.branch=true")
    assert horizon_of(longer, None, is_own=False) == 30
    assert horizon_of(longer, start, is_own=True) == META.counters["horizon"], "also of a resumed branch"
    assert horizon_of(longer, start, is_own=False) == 30, "a branch begins a horizon of its own"
    assert horizon_of(plan("training.schedule_steps=60"), start, is_own=True) == 60


def test_a_refusal_names_the_keys_that_differ(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "strategy.yaml").write_text(STRATEGY)
    other = Fingerprints(model=PRINTS.model, recipe="x")
    changed = plan("training.learning_rate=1e-3", "training.steps=30")
    assert ": training.learning_rate was 0.0003, now 0.001;" in refusal(changed, tmp_path, other)
    assert ": the files of the data changed;" in refusal(plan("training.steps=30"), tmp_path, other)
    moved = plan("data.text_field=content")
    mixed = plan("data.mix=[{path: a, weight: 7}]")
    assert ": data.mix was null, now [{path: a, weight: 7}];" in refusal(mixed, tmp_path, other)
    assert ": data.text_field was text, now content;" in refusal(moved, tmp_path, other)
    other = Fingerprints(model="x", recipe="x")
    smaller = plan("model.num_experts=2")
    assert ": model.num_experts was 4, now 2;" in refusal(smaller, tmp_path, other)


def test_another_forced_routing_is_named_with_the_ranks_it_means(tmp_path: Path) -> None:
    save(tmp_path, 5)
    assert "runtime:" not in STRATEGY
    (tmp_path / "strategy.yaml").write_text(
        f"{STRATEGY}\nruntime: {{force_routing: {{kind: hot_rank, share: 0.5, ep: 2}}}}\n"
    )
    other = Fingerprints(model=PRINTS.model, recipe="x")
    assert "force_routing was {kind: hot_rank, share: 0.5, ep: 2}, now none" in refusal(
        plan(), tmp_path, other
    )


def test_other_payloads_are_told(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "strategy.yaml").write_text(f"{STRATEGY}\nruntime: {{fp8_payload: true}}\n")
    other = Fingerprints(model=PRINTS.model, recipe="x")
    assert "runtime.fp8_payload was true, now false" in refusal(plan(), tmp_path, other)


def test_data_that_grew_under_a_trained_tokenizer_name_the_cause_and_the_branch(tmp_path: Path) -> None:
    save(tmp_path / "old", 5)
    (tmp_path / "old" / "strategy.yaml").write_text(STRATEGY)
    other = Fingerprints(model="x", recipe="x")
    text = refusal(plan(), tmp_path / "old", other)
    assert text.startswith("SW828")
    assert "trained on the data, and the files of the data changed" in text
    old = tmp_path / "old"
    command = f"data.tokenizer={old}/tokenizer.json output.resume={old} output.branch=true name=NEW"
    assert text.endswith(command)
    assert refusal(plan("training.steps=5"), old, other).endswith(f"{command} training.steps=10")


def test_another_tokenizer_file_is_named(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "strategy.yaml").write_text(STRATEGY)
    text = refusal(plan("data.tokenizer=tok"), tmp_path, Fingerprints(model="x", recipe="x"))
    assert "the tokenizer tok has other tokens: data.tokenizer was null, now tok" in text
