"""PEFT adapters of linear layers, the head, the experts and the router: they act, train, merge and reload."""

import pytest
import torch

from tests.support.model_cases import KINDS, config_of, make_model, relative, tokens

peft = pytest.importorskip("peft")

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
# What to adapt -> the modules that get an adapter in each of two layers, and once in the model.
TARGETS = {
    "q_proj": ({"target_modules": ["q_proj"]}, {"q_proj"}, set()),
    "all-linear": ({"target_modules": "all-linear"}, ATTENTION, {"aggregation"}),
    "head": ({"target_modules": ["lm_head", "embed_tokens"]}, set(), {"lm_head", "embed_tokens"}),
    "experts": (
        {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
        {"experts", "experts.base_layer"},
        set(),
    ),
    "router": ({"target_modules": [], "target_parameters": ["router.weight"]}, {"router"}, set()),
}


def adapted(name: str):
    settings, _, _ = TARGETS[name]
    torch.manual_seed(7)
    config = peft.LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    return peft.get_peft_model(make_model(config_of(**KINDS["swiglu_top2"])), config).eval()


@pytest.mark.parametrize("name", TARGETS)
def test_an_adapter_acts_trains_merges_and_reloads(name, tmp_path):
    model = adapted(name)
    _, in_layers, once = TARGETS[name]
    wrapped = {
        n.split(".lora_")[0].removeprefix("base_model.model.")
        for n, _ in model.named_parameters()
        if ".lora_" in n
    }
    assert {n.split("mlp.")[-1].split("self_attn.")[-1] for n in wrapped if ".layers." in n} == in_layers
    assert {n.split(".")[-1] for n in wrapped if ".layers." not in n} == once
    assert len(wrapped) == 2 * len(in_layers) + len(once)

    ids, _ = tokens(2, 9)
    out = model(ids, labels=ids)
    out.loss.backward()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in n and p.grad is not None and p.grad.any() for n, p in trainable.items())
    plain = make_model(config_of(**KINDS["swiglu_top2"])).eval()(ids).logits
    assert relative(out.logits, plain) > 0.05
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, plain)

    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(make_model(config_of(**KINDS["swiglu_top2"])), tmp_path).eval()
    assert torch.equal(again(ids).logits, out.logits)
    merged = model.merge_and_unload()
    assert type(merged).__name__ == "SwitchyardForCausalLM"
    assert relative(merged(ids).logits, out.logits) < 1e-5


def test_the_loss_sees_an_adapter_of_the_head():
    """A loss from the head's weight alone would not."""
    model = adapted("head")
    ids, _ = tokens(2, 9)
    out = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert relative(out.loss, expected) < 1e-6


def test_adapters_train_under_gradient_checkpointing():
    ids, _ = tokens(2, 9)
    gradients = []
    for is_checkpointing in (False, True):
        model = adapted("all-linear").train()
        if is_checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_deepspeeds_dispatch_refuses_an_adapter_it_would_not_see():
    config = config_of(**{**KINDS["swiglu_top2"], "dispatch": "deepspeed", "num_experts_per_tok": 1})
    lora = peft.LoraConfig(r=4, target_modules=[], target_parameters=["router.weight"])
    model = peft.get_peft_model(make_model(config), lora).train()
    ids, _ = tokens(1, 4)
    with pytest.raises(ValueError, match="dropless, capacity"):
        model(ids)
