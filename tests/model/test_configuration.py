"""SwitchyardConfig: derived values, refused values, saving and loading."""

import json

import pytest
from transformers import AutoConfig

from model import SwitchyardConfig
from tests.support.model_cases import KINDS, config_of


def test_derived_values():
    config = SwitchyardConfig(hidden_size=96, num_attention_heads=6)
    assert (config.num_key_value_heads, config.head_dim) == (6, 16)
    assert not config.normalizes_gates
    assert SwitchyardConfig(num_experts_per_tok=2).normalizes_gates
    assert not SwitchyardConfig(num_experts_per_tok=2, norm_topk_prob=False).normalizes_gates


@pytest.mark.parametrize("kind", KINDS)
def test_saved_configuration_reloads_equal(kind, tmp_path):
    config = config_of(**KINDS[kind], rope_theta=5e5, eos_token_id=7, rms_norm_eps=1e-5)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is SwitchyardConfig
    ours, theirs = config.to_dict(), again.to_dict()
    for of_the_file in ("transformers_version", "_name_or_path"):
        ours.pop(of_the_file, None)
        theirs.pop(of_the_file, None)
    assert ours == theirs
    assert json.loads((tmp_path / "config.json").read_text())["rope_theta"] == 5e5


def test_rope_parameters_of_transformers_5_are_accepted():
    assert SwitchyardConfig(rope_parameters={"rope_type": "default", "rope_theta": 7.0}).rope_theta == 7.0
    with pytest.raises(ValueError, match="yarn"):
        SwitchyardConfig(rope_parameters={"rope_type": "yarn", "rope_theta": 7.0, "factor": 4.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 5}, r"num_experts_per_tok is 5; legal: 1 to num_experts \(4\)"),
        ({"num_key_value_heads": 3}, r"legal: a divisor of num_attention_heads \(4\): 1, 2, 4"),
        ({"head_dim": 7}, "legal: an even number"),
        ({"dispatch": "capacity"}, "capacity_factor is None"),
        ({"dispatch": "capacity", "capacity_factor": 0}, "capacity_factor is 0"),
        ({"dispatch": "deepspeed", "norm_topk_prob": True}, "norm_topk_prob is True"),
        ({"dispatch": "tutel"}, "legal: dropless, capacity, deepspeed"),
        ({"expert": "glu"}, "legal: mlp, swiglu"),
        ({"hidden_act": "tanh"}, "legal: silu, gelu, relu"),
        ({"first_dense_layers": 1}, "intermediate_size is None"),
        ({"first_dense_layers": 3, "intermediate_size": 8}, r"legal: 0 to num_hidden_layers \(2\)"),
        ({"num_experts": 0}, "num_experts is 0"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true"),
        ({"moe_intermediate_sise": 3}, "did you mean moe_intermediate_size"),
        ({"head_dim": None, "hidden_size": 18}, "give head_dim"),
    ],
)
def test_illegal_configuration_is_refused_with_the_legal_values(changes, message):
    with pytest.raises(ValueError, match=message):
        config_of(**changes)


def test_all_faults_are_reported_at_once():
    with pytest.raises(ValueError, match=r"(?s)num_hidden_layers.*expert is 'x'") as error:
        SwitchyardConfig(num_hidden_layers=0, expert="x")
    assert "hidden_act" not in str(error.value)
