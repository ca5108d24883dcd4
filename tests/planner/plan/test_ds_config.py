"""What DeepSpeed is given: nothing left to its defaults, and never its BF16_Optimizer."""

import json
from pathlib import Path

import pytest

from planner import build_plan, load
from planner.plan.ds_config import ds_config
from planner.plan.notes import list_notes
from planner.plan.serialization import ds_config_json
from tests.support.examples import plan

CONFIGS = Path("ds_configs")


def test_one_dict_serves_every_stage() -> None:
    config = ds_config(plan("parallel.placement=staged", "parallel.ep=64", "parallel.tp=2"))
    assert config["train_batch_size"] == 128
    assert config["gradient_accumulation_steps"] == 2
    assert "train_micro_batch_size_per_gpu" not in config


def test_clipping_is_always_written() -> None:
    assert ds_config(plan("training.gradient_clipping=0"))["gradient_clipping"] == 0.0
    assert ds_config(plan())["gradient_clipping"] == 1.0


def test_optimizer_is_torchs_fused_adamw_with_the_strategys_numbers() -> None:
    config = ds_config(plan("training.optimizer.betas=[0.8, 0.9]", "training.learning_rate=1e-3"))
    assert config["optimizer"]["type"] == "AdamW"
    assert config["optimizer"]["params"] == {
        "lr": 1e-3,
        "betas": [0.8, 0.9],
        "eps": 1e-8,
        "weight_decay": 0.1,
        "torch_adam": True,
        "fused": True,
    }
    on_cpu = ds_config(plan("cluster.gpu=cpu"))["optimizer"]["params"]
    assert on_cpu == config["optimizer"]["params"] | {"lr": on_cpu["lr"], "betas": [0.9, 0.95]}


# precision, stage asked, global batch (micro_batch 1, one data-parallel rank) -> stage given, dtype of sums.
# DeepSpeed 0.19.8, engine.py:2305: bf16 with fp32 sums under ZeRO 1 would be BF16_Optimizer.
@pytest.mark.parametrize(
    ("precision", "asked", "accumulation", "given", "dtype"),
    [
        ("fp32", 0, 2, 0, "fp32"),
        ("fp32", 1, 2, 1, "fp32"),
        ("fp32", 2, 2, 2, "fp32"),
        ("bf16", 1, 1, 1, "bf16"),
        ("bf16", 1, 2, 2, "fp32"),
        ("bf16", 2, 1, 2, "fp32"),
        ("bf16", 2, 2, 2, "fp32"),
        ("fp8", 1, 2, 2, "fp32"),
        ("fp8", 1, 1, 1, "bf16"),
    ],
)
def test_zero_stage_and_sums(precision: str, asked: int, accumulation: int, given: int, dtype: str) -> None:
    built = plan(
        f"training.precision={precision}",
        f"parallel.zero_stage={asked}",
        f"training.global_batch={accumulation}",
    )
    config = ds_config(built)
    assert config["zero_optimization"]["stage"] == given
    assert config["data_types"]["grad_accum_dtype"] == dtype
    assert config["bf16"]["enabled"] == (precision != "fp32")
    assert not (precision != "fp32" and given == 1 and dtype == "fp32")
    assert any("is configured in DeepSpeed as ZeRO 2" in line for line in list_notes(built)) == (
        given != asked
    )


def test_fingerprint_has_a_key_of_its_own() -> None:
    built = plan()
    assert ds_config(built)["switchyard"] == {"fingerprint": built.fingerprint}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_json_is_what_follows_from_its_strategy(path: Path) -> None:
    written = path.with_suffix(".json").read_text(encoding="utf-8")
    assert written == ds_config_json(build_plan(load(path))), (
        f"run: python -m planner.generated  (the json beside {path} is not what the strategy gives)"
    )
    assert json.loads(written)["gradient_clipping"] == 1.0
