"""Hugging Face interface: Auto classes, files, forward, generate with and without a cache."""

import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, DynamicCache

from model import SwitchyardForCausalLM
from model.collectives import Group, ModelGroups
from model.decoder import StageContents
from tests.support.model_cases import KINDS, config_of, make_model, padding, relative, tokens

GREEDY = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_model_reloads_bit_equal(kind, tmp_path):
    model = make_model(config_of(**KINDS[kind]))
    model.save_pretrained(tmp_path)
    for loader in (SwitchyardForCausalLM, AutoModelForCausalLM):
        again = loader.from_pretrained(tmp_path)
        assert type(again) is SwitchyardForCausalLM
        assert not again.training
        a, b = model.state_dict(), again.state_dict()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    on_disk = load_file(tmp_path / "model.safetensors")
    assert {n: tuple(t.shape) for n, t in on_disk.items()} == {n: tuple(t.shape) for n, t in a.items()}


def test_bf16_model_reloads_bit_equal(tmp_path):
    model = make_model(config_of(), torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_a_checkpoint_that_does_not_fit_is_an_error(fault, tmp_path):
    make_model(config_of()).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    if fault == "missing":
        del tensors["model.norm.weight"]
    elif fault == "unexpected":
        tensors["model.layers.0.mlp.extra"] = torch.zeros(2)
    else:
        tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match=r"model\.norm\.weight|extra|size mismatch|mismatch"):
        SwitchyardForCausalLM.from_pretrained(tmp_path)


def test_from_config_draws_by_the_current_seed():
    torch.manual_seed(4)
    a = AutoModelForCausalLM.from_config(config_of())
    torch.manual_seed(4)
    b = SwitchyardForCausalLM(config_of())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_shard_is_not_saved_as_a_model(tmp_path):
    group = Group(process_group=None, ranks=(0, 1), rank=0, size=2)
    for model in (
        SwitchyardForCausalLM(config_of(), groups=ModelGroups(ep=group)),
        SwitchyardForCausalLM(config_of(), contents=StageContents(layers=(0, 1), embedding=True)),
    ):
        with pytest.raises(ValueError, match="complete model"):
            model.save_pretrained(tmp_path)


def test_loss_is_the_shifted_cross_entropy_alone():
    model = make_model(config_of())
    ids, _ = tokens(3, 9)
    labels = ids.clone()
    labels[1, :6] = -100
    out = model(ids, labels=labels)
    expected = cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert relative(out.loss, expected) < 1e-6
    summed = model(ids, labels=labels, num_items_in_batch=5).loss
    assert relative(summed, expected * (labels[:, 1:] != -100).sum() / 5) < 1e-6
    kept = model(ids, labels=labels, logits_to_keep=2)
    assert torch.equal(kept.loss, out.loss)
    assert torch.equal(kept.logits, out.logits[:, -2:])
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert isinstance(model(ids, labels=labels, return_dict=False), tuple)


def test_forward_equals_the_training_path():
    model = make_model(config_of(**KINDS["top3_shared_dense"])).eval()
    ids, _ = tokens(4, 9)
    mask = padding(4, 9)
    x, _ = model.run_layers(model.embed(ids), mask)
    out = model(ids, attention_mask=mask.long(), output_hidden_states=True, output_router_logits=True)
    assert torch.equal(out.hidden_states[-1], x)
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1
    assert [tuple(logits.shape) for logits in out.router_logits] == [(36, 8)]
    assert torch.equal(model(inputs_embeds=model.embed(ids), attention_mask=mask).logits, out.logits)
    kept = model(ids, attention_mask=mask, logits_to_keep=2).logits
    assert relative(kept, out.logits[:, -2:]) < 1e-6
    assert torch.equal(model(ids, attention_mask=mask, logits_to_keep=torch.tensor([7, 8])).logits, kept)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "either input_ids"),
        ({"attention_mask": torch.ones(2, 3)}, r"\(2, 3\)"),
        ({"attention_mask": torch.ones(2, 4, 4)}, "2-D"),
        ({"attention_mask": torch.ones(2, 1, 4, 5)}, r"\(2, 1, 4, 4\)"),
        ({"attention_mask": torch.ones(2, 1, 4, 4, dtype=torch.int64)}, "int64"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_inputs_that_contradict_are_refused(inputs, message):
    ids = {} if not inputs else {"input_ids": torch.zeros(2, 4, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        make_model(config_of())(**ids, **inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_cache_changes_nothing(kind):
    model = make_model(config_of(**KINDS[kind])).eval()
    ids, _ = tokens(2, 12)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        cache = DynamicCache(config=model.config)
        parts = [
            model(part, past_key_values=cache, use_cache=True).logits for part in ids.split([5, 1, 4, 2], 1)
        ]
    assert relative(torch.cat(parts, 1), whole) < 1e-5
    ids = ids[:, :4]
    cached = model.generate(ids, **GREEDY)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **GREEDY))
    torch.manual_seed(0)
    sampled = model.generate(ids, max_new_tokens=10, do_sample=True, pad_token_id=0)
    torch.manual_seed(0)
    again = model.generate(ids, max_new_tokens=10, do_sample=True, pad_token_id=0, use_cache=False)
    assert torch.equal(sampled, again)
    assert not torch.equal(sampled, cached)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_left_padded_batch_generates_as_each_alone(kind, use_cache):
    model = make_model(config_of(**KINDS[kind])).eval()
    ids, _ = tokens(1, 12)
    prompts = [ids[:, :7], ids[:, 3:5], ids[:, 8:]]
    batch = torch.zeros(3, 7, dtype=torch.int64)
    mask = torch.zeros(3, 7, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        batch[row, 7 - prompt.shape[1] :] = prompt
        mask[row, 7 - prompt.shape[1] :] = 1
    together = model.generate(batch, attention_mask=mask, use_cache=use_cache, **GREEDY)
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt, **GREEDY)
        assert torch.equal(together[row, 7:], alone[0, prompt.shape[1] :])


def test_beam_search_and_a_prompt_that_is_all_padding_work():
    model = make_model(config_of()).eval()
    ids, _ = tokens(2, 6)
    assert model.generate(ids, num_beams=3, **GREEDY).shape == (2, 16)
    mask = torch.tensor([[0] * 6, [1] * 6])
    assert model(ids, attention_mask=mask).logits.isfinite().all()


def test_capacity_drops_in_training_only():
    model = make_model(config_of(**KINDS["capacity"]))
    ids, _ = tokens(2, 12)
    assert int(model.run_layers(model.embed(ids))[1].dropped) > 0
    model.eval()
    assert int(model.run_layers(model.embed(ids))[1].dropped) == 0


def test_an_unknown_argument_is_named():
    model = make_model(config_of())
    ids, _ = tokens(1, 4)
    with pytest.raises(TypeError, match="token_type_ids, cu_seq_lens_q"):
        model(ids, token_type_ids=torch.zeros_like(ids), cu_seq_lens_q=torch.tensor([0, 4]), seq_idx=None)
    assert torch.equal(model(ids, token_type_ids=None).logits, model(ids).logits)


@pytest.mark.parametrize(("side", "num_asked"), [("left", 7), ("right", 5)])
def test_labels_of_padding_are_reported(side, num_asked):
    """5 and 2 positions are padding. On the right, the last position of each predicts nothing; on the left,
    the last padding position is asked for the first token."""
    model = make_model(config_of())
    ids, _ = tokens(3, 9)
    mask = torch.ones_like(ids)
    for row, length in ((1, 5), (2, 2)):
        mask[row, slice(0, length) if side == "left" else slice(9 - length, 9)] = 0
    with pytest.warns(UserWarning, match=f"^{num_asked} labels ask a padding position"):
        model(ids, attention_mask=mask, labels=ids)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 1:].masked_fill_(mask[:, :-1] == 0, -100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = model(ids, attention_mask=mask, labels=labels).loss
    alone = [model(i[m.bool()][None]).logits[0] for i, m in zip(ids, mask, strict=True)]
    sums = [
        cross_entropy(logits[:-1], i[m.bool()][1:], reduction="sum")
        for logits, i, m in zip(alone, ids, mask, strict=True)
    ]
    assert relative(loss, sum(sums) / (27 - 7 - 3)) < 1e-6
