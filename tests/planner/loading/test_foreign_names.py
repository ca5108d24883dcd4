"""Names of other programs: the key and the value that each becomes here."""

from typing import Any

import pytest

from planner import StrategyError, load, loads
from planner.generated import FOREIGN_NAMES
from planner.loading.foreign_names import foreign_names
from planner.loading.json_schema import list_paths
from planner.report.foreign_names_page import foreign_names_page
from tests.support.examples import TEXT
from tests.support.fixes import Written, settle

# name and value as people write them -> keys and values here, by the programs' own documentation.
# The base: 16 layers, global_batch 128, seq_length 1024, 100 steps, learning rate 3e-4, one expert a token.
CASES: list[tuple[str, Any, dict[str, Any]]] = [
    # DeepSpeed
    ("ep_size", 8, {"parallel.ep": 8}),
    ("autotp_size", 2, {"parallel.tp": 2}),
    ("zero_optimization", {"stage": 2}, {"parallel.zero_stage": 2}),
    ("train_micro_batch_size_per_gpu", 4, {"training.micro_batch": 4}),
    ("gradient_accumulation_steps", 32, {"training.micro_batch": 4}),  # 128 / 32 on one rank
    ("bf16", {"enabled": True}, {"training.precision": "bf16"}),
    ("bf16", False, {"training.precision": "fp32"}),
    ("lr", 1e-4, {"training.learning_rate": 1e-4}),
    ("warmup_num_steps", 7, {"training.warmup_steps": 7}),
    ("cos_min_ratio", 0.05, {"training.min_learning_rate": 1.5e-5}),  # of 3e-4
    ("eps", 1e-6, {"training.optimizer.eps": 1e-6}),
    ("betas", [0.8, 0.9], {"training.optimizer.betas": (0.8, 0.9)}),
    ("weight_decay", 0.05, {"training.optimizer.weight_decay": 0.05}),
    ("moe_loss_coeff", 0.02, {"training.balance_loss": 0.02}),
    ("num_gpus", 4, {"cluster.gpus_per_host": 4}),
    ("drop_tokens", False, {"model.dispatch": "dropless"}),
    # Megatron-LM
    ("tensor_model_parallel_size", 2, {"parallel.tp": 2}),
    ("pipeline-model-parallel-size", 2, {"parallel.pp": 2}),
    ("expert_model_parallel_size", 4, {"parallel.ep": 4}),
    ("data_parallel_size", 4, {"parallel.dp": 4}),
    ("use_distributed_optimizer", True, {"parallel.zero_stage": 1}),
    ("micro_batch_size", 2, {"training.micro_batch": 2}),
    ("train_samples", 12800, {"training.tokens": 12800 * 1024}),
    ("min_lr", 1e-5, {"training.min_learning_rate": 1e-5}),
    ("lr_warmup_iters", 9, {"training.warmup_steps": 9}),
    ("lr_warmup_fraction", 0.1, {"training.warmup_steps": 10}),  # of 100 steps
    ("lr_decay_iters", 90, {"training.schedule_steps": 90}),
    ("adam_beta1", 0.8, {"training.optimizer.betas": (0.8, 0.95)}),
    ("adam_beta2", 0.99, {"training.optimizer.betas": (0.9, 0.99)}),
    ("adam_eps", 1e-7, {"training.optimizer.eps": 1e-7}),
    ("clip_grad", 0.5, {"training.gradient_clipping": 0.5}),
    ("params_dtype", "torch.bfloat16", {"training.precision": "bf16"}),
    ("moe_aux_loss_coeff", 0.001, {"training.balance_loss": 0.001}),
    ("moe_z_loss_coeff", 0.0001, {"training.z_loss": 0.0001}),
    ("moe_router_enable_expert_bias", True, {"training.balance": "bias"}),
    ("moe_router_load_balancing_type", "none", {"training.balance_loss": 0}),
    ("moe_router_bias_update_rate", 0.002, {"training.bias_update_speed": 0.002}),
    ("moe_router_topk", 2, {"model.num_experts_per_tok": 2}),
    ("moe_router_pre_softmax", True, {"model.norm_topk_prob": False}),
    ("num_query_groups", 4, {"model.num_key_value_heads": 4}),
    ("kv_channels", 128, {"model.head_dim": 128}),
    ("moe_shared_expert_intermediate_size", 4096, {"model.num_shared_experts": 2}),  # of 2048 each
    ("swiglu", True, {"model.expert": "swiglu"}),
    ("activation_func", "gelu", {"model.hidden_act": "gelu"}),
    ("qk_layernorm", True, {"model.qk_norm": "head"}),
    ("rotary_base", 1e6, {"model.rope_theta": 1e6}),
    ("norm_epsilon", 1e-5, {"model.rms_norm_eps": 1e-5}),
    ("init_method_std", 0.01, {"model.initializer_range": 0.01}),
    ("moe_expert_capacity_factor", 1.25, {"model.dispatch": "capacity", "model.capacity_factor": 1.25}),
    ("recompute_granularity", "full", {"runtime.recompute": "layer"}),
    ("save_interval", 20, {"output.checkpoint_every": 20}),
    ("eval_interval", 30, {"output.validate_every": 30}),
    ("save", "/ckpt", {"output.folder": "/ckpt"}),
    ("load", "runs/old", {"output.resume": "runs/old"}),
    ("data_path", "my/text", {"data.path": "my/text"}),
    ("tokenizer_model", "tok", {"data.tokenizer": "tok"}),
    ("distributed_timeout_minutes", 30, {"launch.timeout": 1800.0}),
    ("wandb_project", "moe", {"operate.wandb": "moe"}),
    ("wandb_exp_name", "try2", {"name": "try2"}),
    # Hugging Face
    ("per_device_train_batch_size", 2, {"training.micro_batch": 2}),
    ("warmup_ratio", 0.03, {"training.warmup_steps": 3}),
    ("max_grad_norm", 2.0, {"training.gradient_clipping": 2.0}),
    ("adam_epsilon", 1e-7, {"training.optimizer.eps": 1e-7}),
    ("torch_dtype", "float32", {"training.precision": "fp32"}),
    ("router_aux_loss_coef", 0.16, {"training.balance_loss": 0.01}),  # × 1 choice / 16 layers
    ("router_z_loss_coef", 0.002, {"training.z_loss": 0.002}),
    ("first_k_dense_replace", 0, {"model.first_dense_layers": 0}),
    ("n_shared_experts", 1, {"model.num_shared_experts": 1}),
    ("gradient_checkpointing", True, {"runtime.recompute": "layer"}),
    ("save_steps", 11, {"output.checkpoint_every": 11}),
    ("save_total_limit", 3, {"output.keep_last": 3}),
    ("output_dir", "out", {"output.folder": "out"}),
    ("run_name", "try3", {"name": "try3"}),
    # torchtitan
    ("expert_parallel_degree", 4, {"parallel.ep": 4}),
    ("tensor_parallel_degree", 2, {"parallel.tp": 2}),
    ("pipeline_parallel_degree", 4, {"parallel.pp": 4}),
    ("data_parallel_shard_degree", 2, {"parallel.dp": 2}),
    ("local_batch_size", 8, {"training.micro_batch": 8}),
    ("max_norm", 0.3, {"training.gradient_clipping": 0.3}),
    ("n_kv_heads", 8, {"model.num_key_value_heads": 8}),
    ("norm_eps", 1e-5, {"model.rms_norm_eps": 1e-5}),
    ("load_balance_coeff", 0.003, {"training.balance": "bias", "training.bias_update_speed": 0.003}),
    ("keep_latest_k", 4, {"output.keep_last": 4}),
    ("dump_folder", "dump", {"output.folder": "dump"}),
    # nanotron
    ("expert_parallel_size", 2, {"parallel.ep": 2}),
    ("batch_accumulation_per_replica", 64, {"training.micro_batch": 2}),
    ("min_decay_lr", 2e-5, {"training.min_learning_rate": 2e-5}),
    ("lr_warmup_steps", 4, {"training.warmup_steps": 4}),
    ("checkpoint_interval", 25, {"output.checkpoint_every": 25}),
    ("tokenizer_name_or_path", "tok2", {"data.tokenizer": "tok2"}),
    # sections of other programs
    (
        "parallelism",
        {"tensor_parallel_degree": 2, "expert_parallel_degree": 4},
        {"parallel.tp": 2, "parallel.ep": 4},
    ),
    (
        "optimizer",
        {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.98], "eps": 1e-7, "weight_decay": 0}},
        {
            "training.learning_rate": 1e-4,
            "training.optimizer.betas": (0.9, 0.98),
            "training.optimizer.eps": 1e-7,
            "training.optimizer.weight_decay": 0,
        },
    ),
    ("activation_checkpoint", {"mode": "full"}, {"runtime.recompute": "layer"}),
]
# written in place of a key that the base has: the key is left out of the base
REPLACED = [
    ("model", "num_layers", "num_hidden_layers", 12),
    ("model", "n_embd", "hidden_size", 512),
    ("model", "n_head", "num_attention_heads", 8),
    ("model", "num_local_experts", "num_experts", 32),
    ("model", "moe_ffn_hidden_size", "moe_intermediate_size", 1024),
    ("model", "ffn_hidden_size", "moe_intermediate_size", 1024),
    ("model", "padded_vocab_size", "vocab_size", 5000),
    ("training", "train_iters", "steps", 77),
    ("training", "max_steps", "steps", 78),
    ("training", "seq_len", "seq_length", 256),
    ("training", "train_batch_size", "global_batch", 64),
    ("training", "global_batch_size", "global_batch", 32),
    ("cluster", "gpus_per_node", "gpus_per_host", 4),
    ("cluster", "nnodes", "hosts", 8),
]


def value_of(strategy: Any, path: str) -> Any:
    for key in path.split("."):
        strategy = getattr(strategy, key, None)  # runtime.force_routing, whose keys are listed, is null
    return str(strategy) if path == "runtime.recompute" else strategy


def without(text: str, key: str) -> str:
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(f"{key}:")]
    assert len(kept) == len(lines) - 1
    return "".join(kept)


@pytest.mark.parametrize("section", ["", "training", "parallel"])
@pytest.mark.parametrize(("name", "value", "expected"), CASES, ids=lambda item: str(item)[:40])
def test_a_foreign_name_becomes_the_key_here_with_its_value(
    section: str, name: str, value: Any, expected: dict[str, Any]
) -> None:
    """Wherever it is written, its fix is followed to a strategy with that value and no other change."""
    if section == "training" and name == "optimizer":
        return  # a section here of that name: the next test
    base = without(TEXT, "gpus_per_host") if name == "num_gpus" else TEXT
    base = without(base, "steps") if name == "train_samples" else base
    base = base.replace("name: small\n", "") if "name" in expected else base
    written = Written.of(base)
    place = written.data if not section else written.data.setdefault(section, {})
    place[name] = value
    settled = settle(written)
    assert {path: value_of(settled, path) for path in expected} == expected
    plain = Written.of(base, *(f"{p}={v}" for p, v in expected.items() if p == "cluster.gpus_per_host"))
    if name == "train_samples":
        plain.data["training"]["tokens"] = 12800 * 1024
    usual = plain.load()
    changed = {path for path in list_paths() if value_of(settled, path) != value_of(usual, path)}
    follows = {"training.steps", "model.num_key_value_heads", "model.head_dim", "cluster.hosts"}
    sections = {path.rpartition(".")[0] for path in expected} | {p.partition(".")[0] for p in expected}
    assert changed - sections - follows <= set(expected)


def test_the_optimizer_of_deepspeed_in_the_section_here_of_that_name() -> None:
    params = {"lr": 1e-4, "betas": [0.9, 0.98], "eps": 1e-7}
    written = Written.of(TEXT)
    written.data["training"]["optimizer"] = {"type": "AdamW", "params": params}
    training = settle(written).training
    assert (training.learning_rate, training.optimizer.betas, training.optimizer.eps) == (
        1e-4,
        (0.9, 0.98),
        1e-7,
    )


@pytest.mark.parametrize(("section", "name", "key", "value"), REPLACED)
def test_a_foreign_name_of_a_required_key_is_one_problem(
    section: str, name: str, key: str, value: int
) -> None:
    text = without(TEXT, key).replace(f"{section}:\n", f"{section}:\n  {name}: {value}\n", 1)
    with pytest.raises(StrategyError) as caught:
        loads(text)
    (problem,) = caught.value.problems
    assert problem.fix == f"write {key}: {value} instead of {name}: {value}"
    found = value_of(settle(Written.of(text)), f"{section}.{key}")
    assert (found.count if key == "hosts" else found) == value


def test_the_table_is_large_and_names_only_keys_that_exist() -> None:
    assert len(foreign_names()) >= 300
    keys = {key for entry in foreign_names().values() for key in entry.keys}
    assert keys <= set(list_paths())
    assert {"DeepSpeed", "Megatron-LM", "Hugging Face", "torchtitan", "nanotron"} <= {
        entry.program for entry in foreign_names().values()
    }


def test_the_page_of_foreign_names_is_generated_and_has_every_name() -> None:
    page = foreign_names_page()
    assert FOREIGN_NAMES.read_text(encoding="utf-8") == page, "run: python -m planner.generated"
    assert {name for name in foreign_names() if f"`{name}`" not in page} == set()


def test_no_known_name_is_removed_and_what_has_no_counterpart_says_why() -> None:
    for name in foreign_names():
        if "." in name:
            continue
        with pytest.raises(StrategyError) as caught:
            loads(TEXT, [f"training.{name}=1"])
        assert not any(
            p.fix.startswith("remove") for p in caught.value.problems if p.path == f"training.{name}"
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_dropout", "0.0"),
        ("sequence_parallel", "false"),
        ("context_parallel_size", "1"),
        ("fp16", "{enabled: false}"),
        ("sliding_window", "null"),
        ("tie_word_embeddings", "false"),
    ],
)
def test_what_is_refused_but_off_is_said_to_change_nothing(name: str, value: str) -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, [f"training.{name}={value}"])
    assert "means off, and it is off here anyway" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence_parallel", "true"),
        ("context_parallel", "true"),
        ("sequence_parallel", "2"),
        ("dropout", "1"),
    ],
)
def test_what_is_refused_and_on_is_never_called_off(name: str, value: str) -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, [f"training.{name}={value}"])
    assert "off" not in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("name", "value", "consequence"),
    [
        ("moe_router_topk_scaling_factor", "2.5", "gates are then not scaled"),
        ("route_scale", "2.5", "gates are then not scaled"),
        ("moe_token_drop_policy", "position", "other tokens are then dropped"),
        ("weight_decay_incr_style", "cosine", "it then stays at training.optimizer.weight_decay"),
    ],
)
def test_what_would_change_the_training_says_what_follows(name: str, value: str, consequence: str) -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, [f"training.{name}={value}"])
    assert consequence in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("name", "value"), [("moe_token_drop_policy", "probs"), ("weight_decay_incr_style", "constant")]
)
def test_what_is_so_anyway_is_said_to_change_nothing(name: str, value: str) -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, [f"training.{name}={value}"])
    assert "changes nothing here" in caught.value.problems[0].fix


def test_the_shipped_strategies_use_no_foreign_name() -> None:
    load("ds_configs/tiny_cpu.yaml")
    assert not {name for name in foreign_names() if "." not in name} & {
        path.rpartition(".")[2] for path in list_paths()
    } - {"bf16", "fp8", "fp32", "eps", "betas", "weight_decay", "dp"}


@pytest.mark.parametrize("name", ["drop_tokens", "activation", "lr_decay_style"])
def test_a_text_of_two_lines_is_shown_on_one(name: str) -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, [f'{name}="a\\nb"'])
    assert all("\n" not in problem.fix for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("written", "consequence"),
    [
        ({"fp16": {"enabled": True}, "precision": "fp32"}, "training.precision is fp32, as it is written"),
        ({"fp16": True}, "training.precision is then bf16, its default"),
        ({"torch_dtype": "float16", "precision": "fp32"}, "training.precision is fp32, as it is written"),
        ({"fp16": True, "precision": "fp8"}, "training.precision is fp8, as it is written"),
    ],
)
def test_what_fp16_becomes_is_said_of_the_precision_that_is_written(
    written: dict[str, Any], consequence: str
) -> None:
    found = Written.of(TEXT)
    found.data["training"] |= written
    (problem,) = found.problems()
    assert problem.fix.endswith(consequence)
    assert settle(found).training.precision == written.get("precision", "bf16")


def test_bf16_off_beside_a_written_bf16_is_a_contradiction() -> None:
    found = Written.of(TEXT, "training.precision=bf16", "training.bf16={enabled: false}")
    (problem,) = found.problems()
    assert problem.fix == "leave bf16 out: precision is bf16; write fp32 there if that is meant"


@pytest.mark.parametrize("name", ["num_epochs", "num_train_epochs", "max_epochs"])
def test_epochs_invent_no_number(name: str) -> None:
    """The tokens of an epoch are not known before the data are read; what is written is kept."""
    (problem,) = Written.of(TEXT, f"training.{name}=3").problems()
    assert problem.fix.startswith(f"leave {name} out; training.steps, 100, is kept")
    assert settle(Written.of(TEXT, f"training.{name}=3")).training.steps == 100
    without = Written.of(without_steps := TEXT.replace("  steps: 100\n", ""), f"training.{name}=3")
    assert {p.path for p in without.problems()} == {f"training.{name}", "training.steps"}
    assert settle(without) == loads(without_steps, ["training.steps=1000"])


@pytest.mark.parametrize(
    "override", ["adapter=lora", "lora_r=16", "lora_dropout=0.05", "load_in_4bit=true", "peft_config={r: 8}"]
)
def test_what_trains_a_part_of_the_weights_is_told_that_all_are_trained(override: str) -> None:
    (problem,) = Written.of(TEXT, override).problems()
    assert "all weights are then trained" in problem.fix
    assert settle(Written.of(TEXT, override)) == loads(TEXT)


@pytest.mark.parametrize("name", ["parralel", "Parallel", "paralell"])
def test_a_misspelt_section_keeps_what_is_in_it(name: str) -> None:
    found = Written.of(TEXT)
    found.data[name] = {"ep": 4, "tpp": 2}  # the second mistake is seen under the right name
    (problem,) = found.problems()
    assert problem.fix.startswith("write parallel: {ep: 4, tpp: 2} instead of")
    assert settle(found) == loads(TEXT, ["parallel.ep=4", "parallel.tp=2"])


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        # what people write, where the nearest name here would have another meaning
        ("training.train_on_inputs=false", "leave train_on_inputs out: it changes nothing here"),
        ("training.beta=0.1", "leave beta out; the loss is then that of the next token"),
        ("model.norm=rmsnorm", "leave norm out: it changes nothing here"),
        ("model.tie_embeddings=true", "leave tie_embeddings out; the output matrix is then separate"),
        ("data.val_path=val", "leave val_path out; data.validation_sequences of the training data"),
        ("output.log_every=10", "leave log_every out: it changes nothing here"),
        ("parallel.fsdp=true", "write parallel.zero_stage=2 (FSDP's full sharding is that of ZeRO 3"),
        ("parallel.fsdp=false", "leave fsdp out: it changes nothing here (false means off)"),
        ("runtime.compile=true", "leave compile out: it changes nothing here"),
        (
            "parallel.num_layers_per_virtual_pipeline_stage=2",
            "leave num_layers_per_virtual_pipeline_stage out; ",
        ),
        ("parallel.microbatches=8", "write training.micro_batch=16"),  # accumulation: 128 / 8 on one rank
        ("training.save_strategy=epoch", "leave save_strategy out; output.checkpoint_every"),
        ("val_set_size=0.05", "leave val_set_size out; data.validation_sequences"),
        ("resume=true", "write output.resume=auto"),
        ("wandb={project: moe}", "write operate.wandb=moe"),
        ("launch.env={A: b}", "write launch.environment.A=b"),
        ("training.lr_schedule={peak: 3e-4}", "remove lr_schedule: no key"),  # not the peak of a GPU
    ],
)
def test_a_name_is_not_taken_for_one_with_another_meaning(override: str, fix: str) -> None:
    (problem,) = Written.of(TEXT, override).problems()
    assert problem.fix.startswith(fix)
