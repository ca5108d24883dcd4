"""Configurations of other programs, as people write them: told by content, read, and what is wrong said."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from planner import StrategyError, load, loads
from planner.yaml12_writer import flow_yaml
from tests.support.examples import TEXT

MEGATRON = """\
tensor_model_parallel_size: 2
expert-model-parallel-size: 4
num_layers: 16
hidden_size: 1024
moe_ffn_hidden_size: 2048
num_attention_heads: 16
num_experts: 32
moe_router_topk: 2
seq_length: 512
global_batch_size: 64
train_iters: 500
lr: 2.0e-4
attention_dropout: 0.0
bf16: true
"""
NEMO = """\
trainer: {devices: 8, num_nodes: 2, precision: bf16-mixed, max_steps: 700, max_epochs: -1}
exp_manager: {explicit_log_dir: out}
model:
  micro_batch_size: 1
  global_batch_size: 64
  tensor_model_parallel_size: 2
  encoder_seq_length: 512
  num_layers: 16
  hidden_size: 1024
  num_moe_experts: 32
  activations_checkpoint_granularity: full
  optim: {name: fused_adam, lr: 2.0e-4, sched: {name: CosineAnnealing, warmup_steps: 20, min_lr: 1.0e-5}}
"""
TORCHTITAN = """\
job: {dump_folder: ./outputs}
model: {name: llama4, flavor: debugmodel}
optimizer: {name: AdamW, lr: 2.0e-4, eps: 1.0e-8}
lr_scheduler: {warmup_steps: 20}
training: {local_batch_size: 2, seq_len: 512, max_norm: 1.0, steps: 700}
parallelism: {tensor_parallel_degree: 2, expert_parallel_degree: 4}
activation_checkpoint: {mode: full}
"""
AXOLOTL = """\
base_model: models/mixtral
sequence_len: 512
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 3
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 2.0e-4
bf16: auto
flash_attention: true
"""
LLAMA_FACTORY = """\
model_name_or_path: models/mixtral
stage: sft
finetuning_type: full
cutoff_len: 512
per_device_train_batch_size: 2
learning_rate: 2.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
bf16: true
"""
TRAINER = """\
{"per_device_train_batch_size": 2, "num_train_epochs": 3, "learning_rate": 2e-4, "bf16": true,
 "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "adam_beta1": 0.9}
"""
# file -> what it is called, and some of what it says here
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "megatron": (
        MEGATRON,
        "a Megatron-LM configuration",
        {"parallel.tp": 2, "parallel.ep": 4, "model.num_experts": 32, "training.steps": 500},
    ),
    "nemo": (
        NEMO,
        "a NeMo configuration",
        {
            "cluster.gpus_per_host": 8,
            "training.precision": "bf16",
            "training.learning_rate": 2e-4,
            "training.warmup_steps": 20,
            "runtime.recompute": "layer",
            "model.num_experts": 32,
        },
    ),
    "torchtitan": (
        TORCHTITAN,
        "a torchtitan configuration",
        {"training.micro_batch": 2, "training.seq_length": 512, "parallel.ep": 4, "training.steps": 700},
    ),
    "axolotl": (AXOLOTL, "an Axolotl configuration", {"training.seq_length": 512}),
    "llama_factory": (LLAMA_FACTORY, "a LLaMA-Factory configuration", {"training.micro_batch": 2}),
    "trainer": (TRAINER, "a file of Hugging Face's TrainingArguments", {"training.precision": "bf16"}),
}


def written(folder: Path, text: str) -> str:
    path = folder / "given"
    path.write_text(text, encoding="utf-8")
    return str(path)


def ask(path: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["plan", "--from", path, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_as_a_strategy_is_told_what_it_is(name: str, tmp_path: Path) -> None:
    text, title, _ = FILES[name]
    path = written(tmp_path, text)
    with pytest.raises(StrategyError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.found) == ("SW109", f"this is {title}, not a strategy")
    assert problem.fix == f"python -m launch plan --from {path}"


@pytest.mark.parametrize("name", FILES)
def test_what_it_says_loads_in_a_strategy_and_the_rest_is_listed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, title, expected = FILES[name]
    found = ask(written(tmp_path, text), capsys)
    assert found["program"] == title
    said = {
        f"{section}.{key}": value
        for section, keys in found["strategy"].items()
        for key, value in keys.items()
    }
    assert {key: said.get(key) for key in expected} == expected
    assert loads(TEXT, [f"{key}={flow_yaml(value)}" for key, value in said.items() if key[:6] != "model."])
    assert not any("attention_dropout" in key for key in found["left_out"])  # 0.0 is what it is here


def test_epochs_need_the_tokens_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = ask(written(tmp_path, TRAINER), capsys)["left_out"]
    assert "3 × the tokens of your data" in left["num_train_epochs"]
    assert "0.999" in left["adam_beta1"]
    assert "0 there" in left["weight_decay"]


BATCHES = {"train_batch_size": 100, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 8}


@pytest.mark.parametrize(
    ("config", "path", "line"),
    [
        ({"zero_optimization": {"stage": 7}}, "zero_optimization", 2),
        ({"zero_optimization": {"stage": True}}, "zero_optimization", 2),
        (BATCHES, "gradient_accumulation_steps", 4),
        ({"train_batch_size": "many"}, "train_batch_size", 2),
    ],
)
def test_what_is_not_legal_is_a_problem_at_its_line(
    config: dict[str, Any], path: str, line: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, json.dumps(config, indent=1))
    (problem,) = ask(file, capsys, 2)["problems"]
    assert (problem["code"], problem["path"], problem["line"]) == ("SW156", path, line)


DEEPSPEED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"train_batch_size": "auto", "zero_optimization": {"stage": 1}}, {"parallel.zero_stage": 1}),
    ({"train_batch_size": 64, "tensor_parallel": {"autotp_size": 2}}, {"parallel.tp": 2}),
    (
        {"gradient_clipping": 0.5, "zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
        {"parallel.zero_stage": 2, "training.gradient_clipping": 0.5},
    ),
    ({"train_batch_size": 64, "fp16": {"enabled": True, "loss_scale": 0}}, {"training.global_batch": 64}),
    ({"train_batch_size": 64, "activation_checkpointing": {"partition_activations": True}}, {}),
    ({"train_batch_size": 64, "curriculum_learning": {"enabled": True, "min_difficulty": 8}}, {}),
    (
        {"train_batch_size": 64, "scheduler": {"type": "OneCycle", "params": {"cycle_max_lr": 1e-3}}},
        {"training.global_batch": 64},
    ),
]


@pytest.mark.parametrize(("config", "expected"), DEEPSPEED)
def test_deepspeed_configurations_are_read(
    config: dict[str, Any], expected: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ask(written(tmp_path, json.dumps(config)), capsys)
    for key, value in expected.items():
        section, _, last = key.partition(".")
        assert found["strategy"][section][last] == value
    assert not any("cos_min_ratio" in key or "warmup_type" in key for key in found["left_out"])


def test_from_given_twice_is_one_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, MEGATRON)
    assert main(["plan", "--from", path, "--from", path, "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["found"] == "--from is given 2 times"
