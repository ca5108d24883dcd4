"""Configurations of other programs, as people write them: told by content, read, and what is wrong said."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from planner import StrategyError, load, loads
from planner.loading.foreign_defaults import DEFAULTS
from planner.loading.programs import TRAINER as PROGRAM_TRAINER
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
# As it is published beside a model: a class under model_type, adapters, empty values.
AXOLOTL_QLORA = """\
base_model: models/mixtral
model_type: AutoModelForCausalLM
tokenizer_type: LlamaTokenizer
load_in_8bit: false
load_in_4bit: true
datasets: [{path: tatsu-lab/alpaca, type: alpaca}]
output_dir: ./outputs/qlora-out
adapter: qlora
lora_dropout: 0.05
sequence_len: 4096
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
cosine_min_lr_ratio: 0.1
learning_rate: 0.0002
bf16: auto
fp16:
gradient_checkpointing: true
flash_attention: true
warmup_steps: 10
weight_decay: 0.0
"""
NEMO_GPT = """\
trainer: {devices: 8, num_nodes: 4, precision: bf16, max_epochs: -1, max_steps: 600, gradient_clip_val: 0.5}
exp_manager: {explicit_log_dir: null, name: megatron_gpt}
model:
  micro_batch_size: 4
  global_batch_size: 256
  expert_model_parallel_size: 4
  encoder_seq_length: 2048
  max_position_embeddings: 2048
  num_layers: 12
  hidden_size: 1024
  ffn_hidden_size: 3072
  num_attention_heads: 16
  init_method_std: 0.023
  kv_channels: null
  normalization: rmsnorm
  activation: fast-swiglu
  bias: false
  num_moe_experts: 8
  moe_router_topk: 2
  rotary_percentage: 1.0
  share_embeddings_and_output_weights: false
  optim:
    name: distributed_fused_adam
    lr: 6.0e-4
    betas: [0.9, 0.95]
    sched: {name: CosineAnnealing, warmup_steps: 63, min_lr: 6.0e-5}
"""
LLAMA_FACTORY_FULL = """\
model_name_or_path: models/mixtral
stage: sft
finetuning_type: full
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
output_dir: saves/full
save_steps: 500
per_device_train_batch_size: 1
learning_rate: 1.0e-4
max_steps: -1
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
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
    "axolotl_qlora": (
        AXOLOTL_QLORA,
        "an Axolotl configuration",
        {"training.min_learning_rate": 2e-5, "training.warmup_steps": 10, "runtime.recompute": "layer"},
    ),
    "nemo_gpt": (
        NEMO_GPT,
        "a NeMo configuration",
        {
            "model.hidden_act": "silu",
            "model.expert": "swiglu",
            "model.num_experts": 8,
            "model.moe_intermediate_size": 3072,
            "training.steps": 600,
            "training.gradient_clipping": 0.5,
        },
    ),
    "llama_factory_full": (
        LLAMA_FACTORY_FULL,
        "a LLaMA-Factory configuration",
        {"launch.timeout": "30 d", "training.seq_length": 2048, "data.path": None},
    ),
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
    assert loads(TEXT, [f"{key}={flow_yaml(value)}" for key, value in said.items()])
    assert not any("attention_dropout" in key for key in found["left_out"])  # 0.0 is what it is here


def test_epochs_need_the_tokens_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = ask(written(tmp_path, TRAINER), capsys)["left_out"]
    assert "3 × the tokens of your data" in left["num_train_epochs"]
    assert "0.999" in left["adam_beta1"]
    assert "0 there" in left["weight_decay"]


def test_what_another_program_has_by_default_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers 5.23's TrainingArguments, Megatron-LM's arguments.py."""
    left = ask(written(tmp_path, LLAMA_FACTORY), capsys)["left_out"]
    assert "0.999 there; training.optimizer.betas is [0.9, 0.95]" in left["adam_beta2"]
    assert "0 there; training.warmup_steps is 50" in left["warmup_steps"]
    assert "is not written" not in left["lr_scheduler_type"]
    left = ask(written(tmp_path, MEGATRON), capsys)["left_out"]
    assert left["lr_decay_style"] == (
        "is not written, which is linear there; here it is a linear warm-up and a cosine"
    )


def test_the_defaults_of_the_trainer_are_those_of_transformers() -> None:
    """Fails when transformers changes one of them."""
    transformers = pytest.importorskip("transformers")
    theirs = {field.name: field.default for field in fields(transformers.TrainingArguments)}
    for key, default, _ in DEFAULTS[PROGRAM_TRAINER]:
        assert theirs[key] == default, key


def test_what_has_no_meaning_here_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = ask(written(tmp_path, AXOLOTL_QLORA), capsys)["left_out"]
    assert "adapters (LoRA) and frozen layers are not supported" in left["adapter"]
    assert "data.path" in left["datasets"]
    assert "states of 32 bits" in left["optimizer"]
    left = ask(written(tmp_path, LLAMA_FACTORY_FULL), capsys)["left_out"]
    assert "dataset_info.json" in left["dataset"]
    assert "30 d is the longest" in left["ddp_timeout"]
    assert left["max_steps"] == "-1: -1 is no bound"
    left = ask(written(tmp_path, NEMO_GPT), capsys)["left_out"]
    assert "-1 is no bound" in left["trainer.max_epochs"]


AUTO = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
    "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "offload_optimizer": {"device": "none"}},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}


def test_auto_throughout_is_left_to_the_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Hugging Face's documentation of DeepSpeed writes it."""
    found = ask(written(tmp_path, json.dumps(AUTO)), capsys)
    assert found["strategy"] == {"parallel": {"zero_stage": 2}}
    left = found["left_out"]
    for key in ("fp16", "bf16", "gradient_clipping", "gradient_accumulation_steps", "train_batch_size"):
        assert "auto leaves it to the Hugging Face Trainer" in left[key], key
    assert not any("is not legal" in why for why in left.values())


def test_experts_of_deepspeed_examples_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moe = {"ep_size": 4, "num_experts": [64], "top_k": 2, "capacity_factor": 1.5, "eval_capacity_factor": 2}
    config = {"train_batch_size": 64, "zero_optimization": {"stage": 2}, "moe": moe, "moe_param_group": True}
    found = ask(written(tmp_path, json.dumps(config)), capsys)
    assert found["strategy"]["model"] == {
        "num_experts": 64,
        "num_experts_per_tok": 2,
        "dispatch": "capacity",
        "capacity_factor": 1.5,
    }
    assert found["strategy"]["parallel"] == {"zero_stage": 2, "ep": 4}
    assert "capacity of training" in found["left_out"]["moe.eval_capacity_factor"]


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
