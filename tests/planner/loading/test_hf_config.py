"""A Hugging Face config.json as our model: published figures, both spellings, what is ignored or refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from planner import StrategyError, load, loads
from planner.counts.parameters import model_parameters
from planner.loading.hf_config import read_config
from tests.support.examples import TEXT

# As published, mistralai/Mixtral-8x7B-v0.1.
MIXTRAL_8X7B = {
    "architectures": ["MixtralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
MIXTRAL_8X22B = {
    **MIXTRAL_8X7B,
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "max_position_embeddings": 65536,
    "num_attention_heads": 48,
    "num_hidden_layers": 56,
}
# As transformers 5 writes Qwen3-30B-A3B: rope_parameters, dtype, num_local_experts.
QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "dtype": "bfloat16",
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "num_local_experts": 128,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
OLMOE_1B_7B = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "clip_qkv": None,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "model_type": "olmoe",
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 50304,
}


def folder_of(tmp_path: Path, config: dict[str, Any]) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config, indent="\t"), encoding="utf-8")
    return str(tmp_path)


def line_of(folder: Path, key: str) -> int:
    lines = (folder / "config.json").read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if f'"{key}"' in line)


def model_of(tmp_path: Path, config: dict[str, Any]) -> Any:
    return loads(TEXT, ["parallel=EP1"], model_from=folder_of(tmp_path, config)).model


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (MIXTRAL_8X7B, 46_702_792_704, 12.9),
        (MIXTRAL_8X22B, 140_620_634_112, 39.2),
        (QWEN3_30B_A3B, 30_532_122_624, 3.3),
        (OLMOE_1B_7B, 6_919_161_856, 1.3),
    ],
)
def test_published_parameter_counts(
    tmp_path: Path, config: dict[str, Any], total: int, active: float
) -> None:
    """Totals as the model cards' safetensors count them; active, in billions, as the cards say."""
    counts = model_parameters(model_of(tmp_path, config))
    assert counts.total == total
    assert counts.active / 1e9 == pytest.approx(active, abs=0.06)


def test_what_a_family_always_is(tmp_path: Path) -> None:
    mixtral = model_of(tmp_path, MIXTRAL_8X7B)
    assert (mixtral.expert, mixtral.norm_topk_prob, mixtral.qk_norm) == ("swiglu", True, "none")
    assert (mixtral.aggregation, mixtral.rope_theta, mixtral.rms_norm_eps) == ("none", 1e6, 1e-5)
    assert (mixtral.moe_intermediate_size, mixtral.intermediate_size) == (14336, None)
    qwen = model_of(tmp_path, QWEN3_30B_A3B)
    assert (qwen.qk_norm, qwen.norm_topk_prob, qwen.head_dim, qwen.rope_theta) == ("head", True, 128, 1e6)
    olmoe = model_of(tmp_path, OLMOE_1B_7B)
    assert (olmoe.qk_norm, olmoe.norm_topk_prob, olmoe.rope_theta) == ("projection", False, 1e4)


def test_both_spellings_are_the_same_model(tmp_path: Path) -> None:
    published = {key: value for key, value in QWEN3_30B_A3B.items() if key != "rope_parameters"}
    published["rope_theta"] = 1000000.0
    published["num_experts"] = published.pop("num_local_experts")
    assert model_of(tmp_path, published) == model_of(tmp_path, QWEN3_30B_A3B)


def test_leading_dense_layers_of_qwen(tmp_path: Path) -> None:
    model = model_of(tmp_path, {**QWEN3_30B_A3B, "mlp_only_layers": [0, 1]})
    assert (model.first_dense_layers, model.intermediate_size) == (2, 6144)


def test_null_key_value_heads_follow_the_heads(tmp_path: Path) -> None:
    config = {**MIXTRAL_8X7B, "num_key_value_heads": None, "head_dim": None}
    model = model_of(tmp_path, config)
    assert (model.num_key_value_heads, model.head_dim) == (32, 128)


def test_harmless_keys_are_listed(tmp_path: Path) -> None:
    ignored = read_config(folder_of(tmp_path, {**OLMOE_1B_7B, "_name_or_path": "x"})).ignored
    assert ignored == ("max_position_embeddings", "model_type", "_name_or_path")


@pytest.mark.parametrize(
    ("base", "change", "where"),
    [
        (MIXTRAL_8X7B, {"sliding_window": 4096}, "sliding_window: 4096"),
        (QWEN3_30B_A3B, {"sliding_window": 4096, "use_sliding_window": True}, "sliding_window: 4096"),
        (MIXTRAL_8X7B, {"tie_word_embeddings": True}, "tie_word_embeddings: true"),
        (MIXTRAL_8X7B, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
        (QWEN3_30B_A3B, {"attention_bias": True}, "attention_bias: true"),
        (QWEN3_30B_A3B, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"}}, "rope_parameters"),
        (QWEN3_30B_A3B, {"mlp_only_layers": [3]}, "mlp_only_layers"),
        (QWEN3_30B_A3B, {"decoder_sparse_step": 2}, "decoder_sparse_step: 2"),
        (QWEN3_30B_A3B, {"kv_lora_rank": 512}, "kv_lora_rank: 512"),
        (QWEN3_30B_A3B, {"qkv_bias": True}, "qkv_bias: true"),
        (QWEN3_30B_A3B, {"use_qk_norm": False}, "use_qk_norm: false"),
        (MIXTRAL_8X7B, {"use_qk_norm": True}, "use_qk_norm: true"),
        (QWEN3_30B_A3B, {"shared_expert_intermediate_size": 768}, "shared_expert_intermediate_size: 768"),
        (OLMOE_1B_7B, {"clip_qkv": 8.0}, "clip_qkv: 8.0"),
        (OLMOE_1B_7B, {"attention_dropout": 0.1}, "attention_dropout: 0.1"),
        (OLMOE_1B_7B, {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        (OLMOE_1B_7B, {"n_group": 8}, "SW154 n_group: "),
        (MIXTRAL_8X7B, {"model_type": "deepseek_v3"}, "SW152 model_type: deepseek_v3 "),
    ],
)
def test_other_mathematics_is_a_problem(
    tmp_path: Path, base: dict[str, Any], change: dict[str, Any], where: str
) -> None:
    with pytest.raises(StrategyError) as caught:
        model_of(tmp_path, {**base, **change})
    (problem,) = caught.value.problems
    assert where in str(problem)
    assert problem.code in ("SW152", "SW153", "SW154")
    assert f"{tmp_path}/config.json:" in str(problem)
    assert problem.line is not None


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        ("num_local_experts", 0, "write num_local_experts: 8, the default of its family"),
        ("vocab_size", None, "write vocab_size: 32000, the default of its family"),
        ("hidden_size", "4096", "write hidden_size: 4096"),
    ],
)
def test_a_value_that_is_not_legal_has_the_configs_own_key_and_line(
    tmp_path: Path, key: str, value: Any, fix: str
) -> None:
    folder = folder_of(tmp_path, {**MIXTRAL_8X7B, key: value})
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, model_from=folder)
    (problem,) = caught.value.problems
    assert (problem.path, problem.file, problem.line) == (
        key,
        f"{folder}/config.json",
        line_of(tmp_path, key),
    )
    assert problem.fix.startswith(fix)


def test_a_quantized_model_names_the_key_to_remove(tmp_path: Path) -> None:
    """Its own config, with hundreds of modules in it; without the key it is the same shape."""
    config = {
        **QWEN3_30B_A3B,
        "quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"] * 200},
    }
    with pytest.raises(StrategyError) as caught:
        model_of(tmp_path, config)
    (problem,) = caught.value.problems
    assert problem.path == "quantization_config"
    assert problem.found.startswith("quant_method fp8 is not supported")
    assert problem.fix.startswith("remove quantization_config:")
    del config["quantization_config"]
    assert model_of(tmp_path, config).num_experts == 128


def test_keys_that_say_what_the_family_is_anyway_change_nothing(tmp_path: Path) -> None:
    """As published with Qwen3-Coder-30B-A3B."""
    said = {"qkv_bias": False, "shared_expert_intermediate_size": 0, "use_qk_norm": True}
    assert model_of(tmp_path, {**QWEN3_30B_A3B, **said}) == model_of(tmp_path, QWEN3_30B_A3B)


def test_a_window_that_is_switched_off_is_none(tmp_path: Path) -> None:
    config = {**QWEN3_30B_A3B, "sliding_window": 4096, "use_sliding_window": False}
    assert model_of(tmp_path, config) == model_of(tmp_path, QWEN3_30B_A3B)


def test_a_config_pasted_under_model(tmp_path: Path) -> None:
    """YAML takes JSON as it is; our own keys may stand beside it, and overrides come after."""
    beginning, end = TEXT[: TEXT.index("model:")], TEXT[TEXT.index("training:") :]
    pasted = json.dumps({**MIXTRAL_8X7B, "dispatch": "capacity", "capacity_factor": 1.25})
    text = f"{beginning}model: {pasted}\n{end}"
    model = loads(text).model
    assert model_parameters(model).total == 46_702_792_704
    assert model.capacity_factor == 1.25
    assert loads(text, ["model.num_experts=16"]).model.num_experts == 16
    with pytest.raises(StrategyError, match=r"SW153 model\.sliding_window: 4096 "):
        loads(text.replace('"sliding_window": null', '"sliding_window": 4096'))
    file = tmp_path / "pasted.yaml"
    file.write_text(text, encoding="utf-8")
    assert load(file).model == model


SWITCHYARD = {
    "model_type": "switchyard",
    "architectures": ["SwitchyardForCausalLM"],
    "dispatch": "capacity",
    "capacity_factor": 1.5,
    "embedding_std": 0.25,
    "first_dense_layers": 1,
    "intermediate_size": 48,
    "norm_topk_prob": None,
    "router_bias": True,
    "vocab_size": 512,
}


def test_a_folder_of_our_own_is_read(tmp_path: Path) -> None:
    model = model_of(tmp_path, SWITCHYARD)
    assert (model.dispatch, model.capacity_factor, model.embedding_std) == ("capacity", 1.5, 0.25)
    assert (model.first_dense_layers, model.intermediate_size, model.expert) == (1, 48, "mlp")
    assert (model.vocab_size, model.hidden_size, model.norm_topk_prob) == (512, 64, None)


def test_a_selection_bias_makes_the_balance_bias(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless the strategy names a balance."""
    folder = folder_of(tmp_path, SWITCHYARD)
    assert loads(TEXT, ["parallel=EP1"]).training.balance == "loss"
    assert loads(TEXT, ["parallel=EP1"], model_from=folder).training.balance == "bias"
    assert (
        loads(TEXT, ["parallel=EP1", "training.balance=loss"], model_from=folder).training.balance == "loss"
    )
    written = TEXT.replace("training:\n", "training:\n  balance: loss\n", 1)
    assert written != TEXT
    assert loads(written, ["parallel=EP1"], model_from=folder).training.balance == "loss"
    pasted = (
        f"{TEXT[: TEXT.index('model:')]}model: {json.dumps(SWITCHYARD)}\n{TEXT[TEXT.index('training:') :]}"
    )
    assert loads(pasted, ["parallel=EP1"]).training.balance == "bias"
    assert main(["plan", "--from", folder]) == 0
    assert "\ntraining:\n  balance: bias\n" in capsys.readouterr().out
    assert main(["plan", "--from", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"] == {"balance": "bias"}


def test_an_unknown_key_of_our_own_config_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match="SW154 qk_nrom: "):
        model_of(tmp_path, {**SWITCHYARD, "qk_nrom": "head"})


def test_rules_name_the_config_and_its_keys(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {**MIXTRAL_8X7B, "num_experts_per_tok": 9})
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, ["parallel=EP1"], model_from=folder)
    (problem,) = caught.value.problems
    assert (problem.file, problem.override) == (str(tmp_path / "config.json"), None)
    assert problem.line == line_of(tmp_path, "num_experts_per_tok")
    assert str(problem).partition("SW221 ")[2] == (
        "num_experts_per_tok: 9 experts per token, but num_local_experts is 8\n  expected: 1 to 8\n"
        "  fix:      set num_experts_per_tok to 8, or less"
    )


def test_rules_name_a_key_that_the_config_lacks_and_overrides_by_theirs(tmp_path: Path) -> None:
    config = {key: value for key, value in MIXTRAL_8X7B.items() if key != "head_dim"}
    folder = folder_of(tmp_path, {**config, "num_attention_heads": 15, "num_key_value_heads": 5})
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, ["parallel=EP1", "model.num_experts_per_tok=9"], model_from=folder)
    derived, top_k = caught.value.problems
    assert (derived.code, derived.path) == ("SW223", "head_dim")
    assert derived.file == str(tmp_path / "config.json")
    assert "model." not in f"{derived.found} {derived.expected} {derived.fix}"
    assert (top_k.override, top_k.path) == ("model.num_experts_per_tok=9", "model.num_experts_per_tok")


def test_rules_name_a_pasted_config_where_it_is() -> None:
    pasted = {"model": {**MIXTRAL_8X7B, "num_experts_per_tok": 9}}
    text = re.sub(r"(?ms)^model:.*?(?=^\w)", f"model: {json.dumps(pasted['model'])}\n", TEXT)
    with pytest.raises(StrategyError) as caught:
        loads(text, ["parallel=EP1"], file="mine.yaml")
    (problem,) = caught.value.problems
    assert (problem.file, problem.path) == ("mine.yaml", "model.num_experts_per_tok")
    assert problem.found == "9 experts per token, but model.num_local_experts is 8"


def test_plan_from_prints_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, MIXTRAL_8X7B)
    assert main(["plan", "--from", folder]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mixtral: 46,702,792,704 parameters, 12,879,925,248 active per token\n")
    assert "  moe_intermediate_size: 14336\n" in out
    assert "ignored, without effect on the model: architectures, bos_token_id" in out
    assert main(["plan", "--from", folder, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parameters"]["total"] == 46_702_792_704
    pasted = {**answer["model"]}
    assert loads(json.dumps({**_shell(), "model": pasted})).model == model_of(tmp_path, MIXTRAL_8X7B)


def test_plan_from_takes_the_place_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, OLMOE_1B_7B)
    arguments = ["plan", "ds_configs/ep64_tp2.yaml", "--from", folder, "--plain"]
    assert main(arguments) == 1  # the written limits are missed
    assert (
        "note: ignored keys of the model's config: max_position_embeddings, model_type"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "SW151"),
        ("[1, 2]", "SW151"),
        ("{", "SW102"),
        ("{}", "SW152"),
    ],
)
def test_no_config_is_a_problem(tmp_path: Path, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, model_from=str(tmp_path))
    assert [problem.code for problem in caught.value.problems] == [code]


def test_all_mistakes_of_a_config_and_of_its_strategy_are_told_at_once(tmp_path: Path) -> None:
    """Two keys that cannot be converted, two values of the wrong kind, a rule, and the strategy's own."""
    wrong = {
        "attention_bias": True,
        "mlp_only_layers": 5,
        "hidden_size": "wide",
        "num_hidden_layers": -1,
        "num_experts_per_tok": 999,
        "vocab_size": 32000,
    }
    folder = folder_of(tmp_path, {**QWEN3_30B_A3B, **wrong})
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, ["training.seed=-1", "output.keep_last=x"], model_from=folder)
    assert sorted((problem.code, problem.path) for problem in caught.value.problems) == [
        ("SW113", "hidden_size"),
        ("SW113", "output.keep_last"),
        ("SW114", "num_hidden_layers"),
        ("SW114", "training.seed"),
        ("SW153", "attention_bias"),
        ("SW153", "mlp_only_layers"),
        ("SW221", "num_experts_per_tok"),
    ]


def test_key_written_twice_does_not_hide_the_other_mistakes(tmp_path: Path) -> None:
    text = json.dumps({**QWEN3_30B_A3B, "hidden_size": "wide", "attention_bias": True})
    (tmp_path / "config.json").write_text(text[:-1] + ', "vocab_size": 7}')
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, model_from=str(tmp_path))
    assert sorted((problem.code, problem.path) for problem in caught.value.problems) == [
        ("SW106", "vocab_size"),
        ("SW113", "hidden_size"),
        ("SW153", "attention_bias"),
    ]


def test_unknown_model_leaves_the_rest_of_a_strategy_checked(tmp_path: Path) -> None:
    for text, code in (('{"model_type": "gpt2"}', "SW152"), ("3", "SW151"), ('{"a": 1, "a": 2}', "SW106")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(StrategyError) as caught:
            loads(TEXT, ["training.seed=-1"], model_from=str(tmp_path))
        assert [problem.code for problem in caught.value.problems] == [code, "SW114"]


@pytest.mark.parametrize("value", [5, "x", {"a": 1}, [3], True])
@pytest.mark.parametrize("key", ["mlp_only_layers", "layer_types", "rope_parameters", "sliding_window"])
def test_key_of_the_wrong_kind_is_a_problem(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, model_from=folder_of(tmp_path, {**MIXTRAL_8X7B, key: value}))
    assert [(problem.code, problem.path) for problem in caught.value.problems] == [("SW153", key)]


def test_config_that_is_too_large_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**MIXTRAL_8X7B, "_": "x" * 2**20}))
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, model_from=str(tmp_path))
    assert "larger than" in caught.value.problems[0].found


def test_neither_strategy_nor_model_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"]) == 2
    assert "SW482 " in capsys.readouterr().err


def _shell() -> dict[str, Any]:
    links = {"intra_host": "1 Gbps", "inter_host": "1 Gbps"}
    return {
        "cluster": {"hosts": 1, "gpus_per_host": 1, "gpu": "H100", "links": links},
        "training": {"seq_length": 8, "global_batch": 1, "steps": 1},
    }


@pytest.mark.parametrize(
    ("keys", "fix"),
    [
        ({"kv_lora_rank": 512}, "choose another model: no strategy expresses kv_lora_rank (attention is not"),
        ({"sliding_window": 128}, "choose another model: no strategy expresses sliding_window (every token"),
        ({"attention_dropout": 0.1}, "write the model section by hand"),
        ({"kv_lora_rank": None}, "write the model section by hand"),
        # the keys that say so are left to the defaults of the family
        (
            {"model_type": "deepseek_v3"},
            "choose another model: no strategy expresses deepseek_v3 (attention is",
        ),
        (
            {"model_type": "qwen3_next"},
            "choose another model: no strategy expresses qwen3_next (some layers have",
        ),
    ],
)
def test_a_model_of_another_family_is_not_written_by_hand_where_it_cannot_be(
    tmp_path: Path, keys: dict[str, Any], fix: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other", "hidden_size": 64, **keys}))
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, model_from=str(tmp_path))
    assert [p.code for p in caught.value.problems] == ["SW152"]
    assert caught.value.problems[0].fix.startswith(fix)
