"""Model families against transformers' own classes: their parameters, their defaults of missing keys."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model import SwitchyardConfig
from planner import loads
from planner.counts.parameters import model_parameters
from planner.loading.hf_families import FAMILIES
from runtime.training.training_model import model_config
from tests.planner.loading.test_hf_config import MIXTRAL_8X7B, OLMOE_1B_7B, QWEN3_30B_A3B, folder_of
from tests.support.examples import TEXT
from tests.support.model_cases import BASE, KINDS

CONFIGS = {"mixtral": MIXTRAL_8X7B, "qwen3_moe": QWEN3_30B_A3B, "olmoe": OLMOE_1B_7B}
SMALLER: dict[str, dict[str, Any]] = {
    "mixtral": {"num_hidden_layers": 3},
    "qwen3_moe": {"num_hidden_layers": 5, "mlp_only_layers": [0, 1], "num_experts": 16},
    "olmoe": {"num_hidden_layers": 2, "num_key_value_heads": 8},
}


def ours(tmp_path: Any, config: dict[str, Any]) -> int:
    model = loads(TEXT, ["parallel=EP1"], model_from=folder_of(tmp_path, config)).model
    return model_parameters(model).total


def theirs(config: dict[str, Any]) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_parameters_are_those_that_transformers_builds(kind: str, tmp_path: Any) -> None:
    config = {**CONFIGS[kind], **SMALLER[kind]}
    if "num_experts" in SMALLER[kind]:
        config.pop("num_local_experts")
    assert ours(tmp_path, config) == theirs(config)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_config_without_keys_has_the_defaults_of_its_class(kind: str, tmp_path: Any) -> None:
    bare = AutoConfig.for_model(kind)
    strategy = loads(TEXT, ["parallel=EP1"], model_from=folder_of(tmp_path, {"model_type": kind}))
    written = loads(TEXT, ["parallel=EP1"], model_from=folder_of(tmp_path, {**bare.to_dict()}))
    assert strategy.model == written.model


@pytest.mark.parametrize("router_bias", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "top1_normalized"])  # SW228
def test_a_saved_config_of_ours_is_the_same_model(kind: str, router_bias: bool, tmp_path: Any) -> None:
    shape = {**BASE, **KINDS[kind], "rope_theta": 5e3, "rms_norm_eps": 1e-4, "embedding_std": 0.3}
    saved = SwitchyardConfig(**shape, router_bias=router_bias, max_position_embeddings=1024, eos_token_id=3)
    saved.save_pretrained(tmp_path)
    strategy = loads(TEXT, ["parallel=EP1", "training.seq_length=1024"], model_from=str(tmp_path))
    again = model_config(strategy)
    again.eos_token_id = 3
    assert again.to_dict() == saved.to_dict()
