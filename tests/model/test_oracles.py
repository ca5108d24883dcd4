"""Parity with transformers' Mixtral, Qwen3-MoE and OLMoE with the same weights."""

import pytest
import torch
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from model import SwitchyardConfig, SwitchyardForCausalLM
from tests.support.model_cases import padding, relative, tokens

SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "vocab_size": 33,
    "rms_norm_eps": 1e-5,
}
OURS = {**SHAPE, "expert": "swiglu", "moe_intermediate_size": 24, "num_experts": 4, "rope_theta": 5000.0}
ROPE = {"rope_type": "default", "rope_theta": 5000.0}

MODELS = {
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig(**SHAPE, intermediate_size=24, num_local_experts=4, rope_parameters=ROPE),
        {"norm_topk_prob": True},
    ),
    "qwen3_moe": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(
            **SHAPE,
            head_dim=16,
            moe_intermediate_size=24,
            num_experts=4,
            norm_topk_prob=False,
            intermediate_size=20,
            mlp_only_layers=[0],
            rope_parameters=ROPE,
        ),
        {
            "head_dim": 16,
            "qk_norm": "head",
            "norm_topk_prob": False,
            "first_dense_layers": 1,
            "intermediate_size": 20,
        },
    ),
    "olmoe": (
        OlmoeForCausalLM,
        OlmoeConfig(**SHAPE, intermediate_size=24, num_experts=4, norm_topk_prob=False, rope_parameters=ROPE),
        {"qk_norm": "projection", "norm_topk_prob": False},
    ),
}


def pair(name: str):
    kind, their_config, changes = MODELS[name]
    torch.manual_seed(2)
    theirs = kind._from_config(their_config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = SwitchyardForCausalLM(SwitchyardConfig(**{**OURS, **changes})).eval()
    renamed = {n.replace(".mlp.gate.weight", ".mlp.router.weight"): p for n, p in theirs.state_dict().items()}
    ours.load_state_dict(renamed, strict=True)
    return ours, theirs


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("padded", [False, True])
def test_logits_equal_transformers(name, padded):
    ours, theirs = pair(name)
    ids, _ = tokens(3, 12)
    mask = padding(3, 12).long() if padded else None
    with torch.no_grad():
        a, b = ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits
    if padded:
        a, b = a[mask.bool()], b[mask.bool()]
    assert relative(a, b) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_equal_transformers(name):
    ours, theirs = pair(name)
    ids, _ = tokens(3, 12)
    labels = ids.clone()
    labels[0, :5] = -100
    a, b = ours(ids, labels=labels), theirs(ids, labels=labels)
    assert relative(a.loss, b.loss) < 1e-6
    a.loss.backward()
    b.loss.backward()
    theirs_by_name = {
        n.replace(".mlp.gate.weight", ".mlp.router.weight"): p for n, p in theirs.named_parameters()
    }
    for parameter_name, parameter in ours.named_parameters():
        assert relative(parameter.grad, theirs_by_name[parameter_name].grad) < 2e-5, parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_generation_equals_transformers(name):
    ours, theirs = pair(name)
    ids, _ = tokens(2, 5)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(ours.generate(ids, **settings), theirs.generate(ids, **settings))
