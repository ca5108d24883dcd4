"""`--from`: a DeepSpeed configuration read into a strategy; files judged by content; others are a Problem."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from planner import StrategyError, load, loads
from planner.loading.ds_config_file import convert_ds_config
from planner.loading.source_file import read_source
from tests.support.examples import TEXT
from tests.support.fixes import Written, settle

# As the Hugging Face Trainer is given it: some values are left to it.
ZERO_2 = {
    "train_batch_size": 256,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 8,
    "gradient_clipping": 1.0,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 2e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
    },
    "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 2000}},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 2,
        "overlap_comm": True,
        "reduce_bucket_size": 2e8,
        "offload_optimizer": {"device": "cpu"},
    },
    "steps_per_print": 100,
}


def file_of(folder: Path, content: Any, name: str = "ds_config.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    return str(path)


def answer(capsys: pytest.CaptureFixture[str], path: str) -> dict[str, Any]:
    assert main(["plan", "--from", path, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_deepspeed_configuration_is_read_and_the_rest_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, file_of(tmp_path, ZERO_2))
    assert found["strategy"] == {
        "training": {
            "global_batch": 256,
            "micro_batch": 4,
            "gradient_clipping": 1.0,
            "learning_rate": 2e-4,
            "optimizer": {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
            "warmup_steps": 2000,
        },
        "parallel": {"zero_stage": 2, "dp": 8},  # 256 = 4 × 8 × 8
    }
    assert set(found["left_out"]) >= {"bf16", "zero_optimization.offload_optimizer", "steps_per_print"}
    assert "Trainer" in found["left_out"]["bf16"]
    assert "offloading is not supported" in found["left_out"]["zero_optimization.offload_optimizer"]


def test_what_is_printed_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--from", file_of(tmp_path, ZERO_2), "--plain"]) == 0
    printed = capsys.readouterr().out
    sections = printed.partition("\n\n")[2].partition("\n\nleft out:")[0]
    training = (
        sections.partition("parallel:")[0].removeprefix("training:\n").replace("  global_batch: 256\n", "")
    )
    parallel = "parallel:" + sections.partition("parallel:")[2]
    pasted = TEXT.replace("global_batch: 128", "global_batch: 256") + training + parallel
    strategy = loads(pasted)
    assert (strategy.parallel.dp, strategy.parallel.zero_stage, strategy.training.warmup_steps) == (
        8,
        2,
        2000,
    )
    assert strategy.training.learning_rate == 2e-4


def test_a_strategy_takes_the_keys_of_a_deepspeed_configuration(tmp_path: Path) -> None:
    """dp follows from the batch and the strategy's own ep: 256 = 4 × 8 × dp 4 × ep 2."""
    strategy = loads(TEXT + "parallel: {ep: 2}\n", model_from=file_of(tmp_path, ZERO_2))
    assert (strategy.training.global_batch, strategy.training.micro_batch) == (256, 4)
    assert (strategy.parallel.ep, strategy.parallel.dp, strategy.parallel.zero_stage) == (2, 4, 2)
    assert strategy.model.num_experts == 64
    assert any("offload_optimizer" in text for text in strategy.sources.left_out)


@pytest.mark.parametrize("parallel", ["EP2_TP1", "{ep: 2, tp: 1}"])
def test_degrees_of_a_short_name_are_kept(tmp_path: Path, parallel: str) -> None:
    strategy = loads(TEXT + f"parallel: {parallel}\n", model_from=file_of(tmp_path, ZERO_2))
    assert (strategy.parallel.short_name, strategy.parallel.zero_stage) == ("EP2_TP1_PP1_DP4", 2)


@pytest.mark.parametrize(
    ("section", "code"),
    [("parallel: ep8_tp2", "SW137"), ("parallel: 8", "SW113"), ("runtime: full", "SW113")],
)
def test_what_is_no_section_is_told_and_not_replaced(tmp_path: Path, section: str, code: str) -> None:
    """Once it is mended, the file's keys are put into it."""
    given = file_of(tmp_path, {**ZERO_2, "activation_checkpointing": True})
    with pytest.raises(StrategyError) as caught:
        loads(f"{TEXT}{section}\n", model_from=given, file="f.yaml")
    name, _, value = section.partition(": ")
    assert [(p.code, p.path) for p in caught.value.problems if value in p.found] == [(code, name)]


def test_a_conversion_knows_the_degrees_of_a_short_name() -> None:
    """128 sequences are 4 × 8 × ep 4 × dp 1, in either form of the degrees."""
    for parallel in ("EP4", "{ep: 4}"):
        written = Written.of(f"{TEXT}parallel: {parallel}\n", "training.gradient_accumulation_steps=8")
        (problem,) = written.problems()
        assert problem.fix == "write training.micro_batch=4"


def test_a_problem_of_a_value_that_was_taken_over_names_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"train_batch_size": 127, "zero_optimization": {"stage": 1}})
    with pytest.raises(StrategyError) as caught:
        loads(TEXT + "parallel: {dp: 2}\n", model_from=path)
    assert [(p.code, p.override) for p in caught.value.problems] == [("SW241", f"--from {path}")]


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ({"zero_optimization": {"stage": 3}}, ("parallel", "zero_stage"), 2),
        ({"bf16": {"enabled": True}}, ("training", "precision"), "bf16"),
        ({"bf16": {"enabled": False}}, ("training", "precision"), "fp32"),
        (
            {
                "scheduler": {
                    "type": "WarmupCosineLR",
                    "params": {"cos_min_ratio": 0.1, "total_num_steps": 90},
                }
            },
            ("training", "min_learning_rate"),
            2e-5,
        ),
    ],
)
def test_values_are_converted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    key: tuple[str, str],
    value: Any,
) -> None:
    found = answer(capsys, file_of(tmp_path, {**ZERO_2, **change}))["strategy"]
    assert found[key[0]][key[1]] == value


def test_fp16_is_listed_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {**ZERO_2, "fp16": {"enabled": True}, "bf16": {"enabled": False}}
    found = answer(capsys, file_of(tmp_path, config))
    assert "precision" not in found["strategy"]["training"]
    assert "fp16" in found["left_out"]


@pytest.mark.parametrize("name", ["ds_config.json", "zero.txt", "anything"])
def test_a_file_is_judged_by_its_content(tmp_path: Path, name: str) -> None:
    assert read_source(file_of(tmp_path, ZERO_2, name)).kind == "deepspeed"
    assert read_source(file_of(tmp_path, {"model_type": "mixtral"}, name)).kind == "model"


def test_a_folder_is_judged_by_its_files(tmp_path: Path) -> None:
    file_of(tmp_path, ZERO_2)
    assert read_source(str(tmp_path)).kind == "deepspeed"
    file_of(tmp_path, {"model_type": "mixtral"}, "config.json")
    assert read_source(str(tmp_path)).kind == "model"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (TEXT, "SW155"),
        ("{}", "SW152"),
        ("", "SW151"),
        ("just text", "SW151"),
        ("# A page\n\n- of: [text\n", "SW151"),
        ("[1, 2]", "SW151"),
        ('{"weight_map": {}, "metadata": {}}', "SW155"),
        ('{"added_tokens": [], "version": "1.0"}', "SW155"),
        ('{"a": 1}', "SW155"),
        ('{"model_type": "mixtral",', "SW102"),
        ('{"train_batch_size": 8,', "SW102"),
    ],
)
def test_anything_else_is_one_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, code: str
) -> None:
    path = file_of(tmp_path, content, "file")
    assert main(["plan", "--from", path, "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["code"], problem["file"]) == (code, path)


@pytest.mark.parametrize("path", ["/nowhere", "/dev/zero", "a\0b", "/"])
def test_what_is_no_file_is_one_problem(capsys: pytest.CaptureFixture[str], path: str) -> None:
    assert main(["plan", "--from", path, "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["code"] == "SW151"


def test_the_folder_of_a_run_names_its_strategy(tmp_path: Path) -> None:
    (tmp_path / "strategy.yaml").write_text(TEXT)
    file_of(tmp_path, ZERO_2)
    with pytest.raises(StrategyError, match=r"python -m launch plan .*strategy\.yaml"):
        read_source(str(tmp_path))


def test_a_deepspeed_configuration_is_not_the_model_that_init_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of(tmp_path, ZERO_2)
    assert main(["init", "--model", path, "--gpu", "cpu"]) == 2
    assert "SW155" in capsys.readouterr().err


def test_a_deepspeed_configuration_as_a_strategy_is_told_every_key(tmp_path: Path) -> None:
    """Its fixes, one after the other, lead to a strategy with its values."""
    path = file_of(tmp_path, ZERO_2)
    with pytest.raises(StrategyError) as caught:
        load(path)
    first, *others = sorted(caught.value.problems, key=lambda problem: problem.code != "SW109")
    assert first.code == "SW109"
    assert {problem.path for problem in others} >= set(ZERO_2)
    assert not any("remove" in problem.fix for problem in others)
    strategy = settle(Written.of(json.dumps(ZERO_2)))
    training = strategy.training
    assert (training.global_batch, training.micro_batch, strategy.parallel.dp) == (256, 4, 8)
    assert (training.learning_rate, training.warmup_steps, strategy.parallel.zero_stage) == (2e-4, 2000, 2)


def test_the_config_of_a_model_as_a_strategy_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(StrategyError) as caught:
        load(file_of(tmp_path, {"model_type": "mixtral", "num_local_experts": 8}))
    (problem,) = caught.value.problems
    assert problem.code == "SW109"


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["foo", "--help"], "python -m launch --help"),
        (["plam", "-h"], "python -m launch plan --help"),
        (["plam", "x.yaml"], "python -m launch plan STRATEGY"),
    ],
)
def test_an_unknown_command_is_never_told_to_run_itself(
    capsys: pytest.CaptureFixture[str], arguments: list[str], fix: str
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "SW481" in printed
    assert printed.strip().endswith(fix)


@pytest.mark.parametrize("order", [("optimizer", "scheduler"), ("scheduler", "optimizer")])
def test_a_schedulers_rate_replaces_the_optimizers_and_is_said(
    order: tuple[str, str], tmp_path: Path
) -> None:
    """DeepSpeed 0.19.8 sets the rate of every group from warmup_max_lr (lr_schedules.py:738)."""
    sections = {
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.999], "weight_decay": 0.1}},
        "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_max_lr": 3e-4, "warmup_num_steps": 10}},
    }
    file = file_of(tmp_path, {key: sections[key] for key in order})
    found = convert_ds_config(read_source(file), {})
    assert found.writes["training.learning_rate"] == 3e-4
    assert found.left_out["optimizer.params.lr"] == (
        "0.0001: scheduler.params.warmup_max_lr sets training.learning_rate"
    )


def test_never_is_what_a_key_has_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last of 700 steps is always saved; -1 is no validation on the way in nanotron."""
    text = (
        "train-iters: 700\nsave-interval: 0\nclip-grad: 1.0\ntensor-model-parallel-size: 2\nnum-layers: 4\n"
    )
    found = answer(capsys, file_of(tmp_path, text, "megatron.yaml"))
    assert found["strategy"]["output"] == {"checkpoint_every": 700}
    assert "at the end only" in found["left_out"]["save-interval"]


def test_a_number_in_quotes_is_told_without_them(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"train_batch_size": "64", "zero_optimization": {"stage": 1}})
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, model_from=path)
    assert [p.fix for p in caught.value.problems] == ["write train_batch_size: 64 in ds_config.json"]
