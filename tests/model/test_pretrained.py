"""What transformers' tools ask of the class: module types, resizing, checkpointing of activations, dtypes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from model import SwitchyardForCausalLM
from model.collectives import Group, ModelGroups
from tests.support.model_cases import KINDS, config_of, make_model, relative, tokens

BIAS = torch.tensor([0.001, 0.501, 0.2003, -0.3])  # none but the first is near a number of bf16


def test_without_tp_the_layers_are_torchs_own():
    model = make_model(config_of(**KINDS["top3_shared_dense"], aggregation="linear"))
    linears = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    attention = {f"model.layers.{layer}.self_attn.{p}_proj" for layer in (0, 1) for p in "qkvo"}
    places = ("model.layers.0.mlp", "model.layers.1.mlp.shared_experts")
    mlps = {f"{place}.{name}_proj" for place in places for name in ("gate", "up", "down")}
    assert linears == attention | mlps | {"lm_head", "aggregation"}
    assert type(model.get_input_embeddings()) is nn.Embedding
    assert model.get_output_embeddings() is model.lm_head


def test_parameters_without_embeddings():
    model = make_model(config_of())
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert model.num_parameters() - model.num_parameters(exclude_embeddings=True) == 33 * 16


def test_making_a_model_takes_no_random_numbers():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    make_model(config_of())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("mean_resizing", [True, False])
def test_resized_embeddings_keep_the_old_rows(mean_resizing, tmp_path):
    model = make_model(config_of(embedding_std=0.7, initializer_range=0.1))
    ids, _ = tokens(2, 9)
    before = model(ids).logits
    torch.manual_seed(3)
    embedding = model.resize_token_embeddings(2033, mean_resizing=mean_resizing)
    assert embedding is model.model.embed_tokens
    assert model.config.vocab_size == 2033
    after = model(ids).logits
    assert after.shape == (2, 9, 2033)
    assert relative(after[..., :33], before) < 1e-6
    if not mean_resizing:  # by the config, as in a new model
        assert float(embedding.weight.detach()[33:].std()) == pytest.approx(0.7, rel=0.02)
        assert float(model.lm_head.weight.detach()[33:].std()) == pytest.approx(0.1, rel=0.02)
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, after)


def test_the_tokenizer_goes_where_the_weights_go(tmp_path, monkeypatch):
    model, calls = make_model(config_of()), []
    model.tokenizer = SimpleNamespace(save_pretrained=lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", lambda *args, **kwargs: None)
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="me/mine", max_shard_size="1GB")
    model.save_pretrained(tmp_path, is_main_process=False)
    assert calls == [((tmp_path,), {"push_to_hub": True, "repo_id": "me/mine"})]


def test_a_shard_is_not_resized():
    group = Group(process_group=None, ranks=(0, 1), rank=0, size=2)
    model = SwitchyardForCausalLM(config_of(), groups=ModelGroups(tp=group))
    with pytest.raises(ValueError, match="complete model"):
        model.resize_token_embeddings(64)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
@pytest.mark.parametrize("kind", ["swiglu_top2", "top3_shared_dense", "capacity"])
def test_gradient_checkpointing_changes_no_gradient(kind):
    ids, _ = tokens(3, 9)
    found = []
    for is_enabled in (False, True):
        model = make_model(config_of(**KINDS[kind])).train()
        if is_enabled:
            model.gradient_checkpointing_enable()
        computed = count_calls(model.model.layers["1"].self_attn)
        out = model(ids, labels=ids, output_router_logits=True)
        (out.loss + out.router_logits[-1].square().mean()).backward()
        assert len(computed) == (2 if is_enabled else 1)
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def count_calls(module: nn.Module) -> list[None]:
    calls: list[None] = []
    module.register_forward_pre_hook(lambda *_: calls.append(None))
    return calls


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
def test_gradient_checkpointing_that_would_go_wrong_is_refused():
    model = make_model(config_of()).train()
    with pytest.raises(ValueError, match="use_reentrant"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant"):
        model._set_gradient_checkpointing(True, checkpoint)
    model.gradient_checkpointing_enable()
    ids, _ = tokens(1, 4)
    with pytest.raises(ValueError, match="use_cache=False"):
        model(ids, use_cache=True)
    model.eval()
    assert model(ids, use_cache=True).past_key_values is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, "auto"])
def test_the_routers_bias_is_fp32_in_every_load(dtype, tmp_path):
    biased().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert model.dtype == (torch.float32 if dtype == "auto" else dtype)
    assert all(torch.equal(bias, BIAS) for bias in biases(model))
    assert model._keep_in_fp32_modules_strict == {"router.bias"}  # for loaders that go by it


def test_the_routers_bias_is_fp32_after_every_cast(tmp_path):
    model = biased().to(torch.bfloat16)
    assert all(torch.equal(bias, BIAS) for bias in biases(model))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(bias, BIAS) for bias in biases(again))
    made = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    assert all(bias.dtype == torch.float32 for bias in biases(made))
    assert all(bias.dtype == torch.float64 for bias in biases(biased().double()))


def biased() -> SwitchyardForCausalLM:
    model = make_model(config_of(router_bias=True))
    for bias in biases(model):
        bias.copy_(BIAS)
    return model


def biases(model: SwitchyardForCausalLM) -> list[torch.Tensor]:
    return [buffer for name, buffer in model.named_buffers() if name.endswith("router.bias")]
