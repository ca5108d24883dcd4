"""4-D attention masks and static caches, compared with a dynamic cache and with no mask."""

import pytest
import torch
from transformers import CompileConfig, StaticCache

from model.attention_mask import explicit_mask
from tests.support.model_cases import KINDS, config_of, make_model, relative, tokens

GREEDY = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
LOWEST = torch.finfo(torch.float32).min


def left_padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of 7, 2 and 4 tokens."""
    ids, _ = tokens(1, 12)
    batch, mask = torch.zeros(3, 7, dtype=torch.int64), torch.zeros(3, 7, dtype=torch.int64)
    for row, prompt in enumerate((ids[0, :7], ids[0, 3:5], ids[0, 8:])):
        batch[row, 7 - len(prompt) :] = prompt
        mask[row, 7 - len(prompt) :] = 1
    return batch, mask


@pytest.mark.parametrize("kind", KINDS)
def test_a_static_cache_changes_nothing(kind):
    model = make_model(config_of(**KINDS[kind])).eval()
    ids, _ = tokens(2, 12)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        cache = StaticCache(config=model.config, max_cache_len=20)
        parts = [
            model(part, past_key_values=cache, use_cache=True).logits for part in ids.split([5, 1, 4, 2], 1)
        ]
    assert relative(torch.cat(parts, 1), expected) < 1e-5


@pytest.mark.parametrize("kind", ["mlp_top1", "top3_shared_dense", "capacity"])
def test_generation_with_a_static_cache_equals_a_dynamic_one(kind):
    """transformers passes a 4-D mask with a static cache; with padded prompts it has empty rows."""
    model = make_model(config_of(**KINDS[kind])).eval()
    batch, mask = left_padded()
    expected = model.generate(batch, attention_mask=mask, **GREEDY)
    found = model.generate(batch, attention_mask=mask, cache_implementation="static", **GREEDY)
    assert torch.equal(found, expected)


@pytest.mark.slow
def test_a_forward_pass_that_is_compiled_generates_the_same():
    model = make_model(config_of()).eval()
    batch, mask = left_padded()
    compiled = CompileConfig(backend="eager", mode=None)
    compiled._compile_all_devices = True
    settings = {**GREEDY, "max_new_tokens": 3, "cache_implementation": "static"}
    found = model.generate(batch, attention_mask=mask, compile_config=compiled, **settings)
    assert torch.equal(found, model.generate(batch, attention_mask=mask, **settings))


@pytest.mark.parametrize("form", ["bool", "float", "heads"])
def test_a_causal_4d_mask_equals_no_mask(form):
    model = make_model(config_of(**KINDS["swiglu_top2"])).eval()
    ids, _ = tokens(2, 9)
    allowed = torch.ones(9, 9).tril().bool().expand(2, 1, 9, 9)
    mask = {
        "bool": allowed,
        "float": torch.zeros(2, 1, 9, 9).masked_fill(~allowed, LOWEST),
        "heads": allowed.expand(2, 4, 9, 9),
    }[form]
    assert relative(model(ids, attention_mask=mask).logits, model(ids).logits) < 1e-6


def test_a_4d_mask_is_complete():
    """Nothing is added to it: with every pair allowed, a token's logits depend on later ones."""
    model = make_model(config_of(num_hidden_layers=1)).eval()
    ids, _ = tokens(1, 6)
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % 33
    everything = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    first, second = (model(x, attention_mask=everything).logits[0, 0] for x in (ids, other))
    assert not torch.equal(first, second)
    causal = torch.ones(6, 6).tril().bool()[None, None]
    first, second = (model(x, attention_mask=causal).logits[0, 0] for x in (ids, other))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_an_empty_row_stays_finite_and_reaches_nobody(dtype):
    model = make_model(config_of()).eval()
    ids, _ = tokens(1, 5)
    allowed = torch.ones(5, 5).tril().bool()
    allowed[0] = allowed[:, 0] = False
    mask = allowed if dtype == torch.bool else torch.zeros(5, 5).masked_fill(~allowed, -torch.inf)
    logits = model(ids, attention_mask=mask[None, None]).logits
    assert logits.isfinite().all()
    alone = model(ids[:, 1:], position_ids=torch.arange(1, 5)[None]).logits
    assert relative(logits[:, 1:], alone) < 1e-6


def test_no_row_of_a_4d_mask_is_empty():
    """torch 2.13 gives zeros for an empty row on CPUs; other kernels give NaN."""
    allowed = torch.tensor([[False, False], [True, False]])[None, None]
    found, _ = explicit_mask(allowed, 1, 1, 2, 2, torch.float32)
    assert found.tolist() == [[[[True, True], [True, False]]]]
    for lowest in (LOWEST, -torch.inf):
        added = torch.zeros(1, 1, 2, 2).masked_fill(~allowed, lowest)
        found, _ = explicit_mask(added, 1, 1, 2, 2, torch.float32)
        assert found.tolist() == [[[[0.0, 0.0], [0.0, lowest]]]]


def test_a_float_mask_takes_the_queries_dtype():
    mask = torch.zeros(1, 1, 2, 2).masked_fill(torch.ones(2, 2).triu(1).bool(), LOWEST)
    found, is_causal = explicit_mask(mask, 1, 4, 2, 2, torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert not is_causal
    model = make_model(config_of(), torch.bfloat16).eval()
    ids, _ = tokens(1, 2)
    assert relative(model(ids, attention_mask=mask).logits, model(ids).logits) < 2e-2
