"""Parity with the naive model: loss, aux loss, z-loss, counts and the gradient of every parameter."""

import pytest
import torch

from model.decoder import StageContents
from tests.support import naive_model
from tests.support.model_cases import KINDS, config_of, make_model, padding, parameters_of, relative, tokens


def both(config, dtype, num_sequences, num_tokens, mask):
    model = make_model(config, dtype)
    ids, targets = tokens(num_sequences, num_tokens)
    x, sums = model.run_layers(model.embed(ids), mask)
    entropy = model.cross_entropy(x, targets, mask)
    (entropy.sum + 0.7 * sums.aux_loss + 0.3 * sums.z_loss).backward()
    p = parameters_of(model)
    logits, balance, z, expert_tokens, dropped = naive_model.run(config, p, ids, mask)
    total, count = naive_model.cross_entropy(logits, targets, mask)
    (total + 0.7 * balance + 0.3 * z).backward()
    return model, entropy, sums, p, (total, count, balance, z, expert_tokens, dropped)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_model_equals_naive_model(kind, masked):
    mask = padding(5, 9) if masked else None
    config = config_of(**KINDS[kind])
    model, entropy, sums, p, expected = both(config, torch.float64, 5 if masked else 2, 9, mask)
    total, count, balance, z, expert_tokens, dropped = expected
    assert int(entropy.num_tokens) == count
    assert relative(entropy.sum, total) < 1e-10
    assert relative(sums.aux_loss, balance) < 1e-10
    assert relative(sums.z_loss, z) < 1e-10
    assert sums.expert_tokens.tolist() == expert_tokens
    assert int(sums.dropped) == dropped
    assert (dropped > 0) == (kind == "capacity")
    for name, parameter in model.named_parameters():
        expected_grad = p[name].grad if p[name].grad is not None else torch.zeros_like(p[name])
        assert torch.allclose(parameter.grad, expected_grad, rtol=1e-9, atol=1e-10), name


@pytest.mark.parametrize("kind", ["mlp_top1", "swiglu_top2", "capacity"])
def test_model_in_fp32_equals_naive_model(kind):
    config = config_of(**KINDS[kind], **({} if kind == "capacity" else {"moe_intermediate_size": 16}))
    model, entropy, sums, p, (total, _, balance, z, *_) = both(config, torch.float32, 3, 11, None)
    for ours, theirs in ((entropy.sum, total), (sums.aux_loss, balance), (sums.z_loss, z)):
        assert relative(ours, theirs) < 1e-5
    for name, parameter in model.named_parameters():
        assert relative(parameter.grad, p[name].grad) < 2e-5, name


def test_bf16_stays_near_fp32_and_routes_in_fp32():
    config = config_of(hidden_size=32, moe_intermediate_size=32)
    ids, targets = tokens(2, 16)
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model(config, dtype)
        x, sums = model.run_layers(model.embed(ids))
        entropy = model.cross_entropy(x, targets)
        (entropy.sum + sums.aux_loss + sums.z_loss).backward()
        losses.append(float(entropy.sum.detach()))
        assert entropy.sum.dtype == sums.aux_loss.dtype == sums.z_loss.dtype == torch.float32
        assert all(p.grad.isfinite().all() and p.grad.dtype == dtype for p in model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_stages_in_a_row_equal_the_whole_model():
    config = config_of(num_hidden_layers=3, **KINDS["swiglu_top2"])
    whole = make_model(config)
    first = make_model(config, contents=StageContents(layers=(0,), embedding=True))
    middle = make_model(config, contents=StageContents(layers=(1, 2)))
    last = make_model(config, contents=StageContents(norm=True, output=True))
    names = [n for stage in (first, middle, last) for n, _ in stage.named_parameters()]
    assert sorted(names) == sorted(n for n, _ in whole.named_parameters())
    ids, targets = tokens(2, 7)
    x, a = first.run_layers(first.embed(ids))
    x, b = middle.run_layers(x)
    x, c = last.run_layers(x)
    staged = last.cross_entropy(x, targets)
    x, sums = whole.run_layers(whole.embed(ids))
    assert torch.equal(staged.sum, whole.cross_entropy(x, targets).sum)
    assert torch.equal(torch.cat([a.expert_tokens, b.expert_tokens]), sums.expert_tokens)
    assert c.expert_tokens.shape == (0, config.num_experts)
    assert float(c.aux_loss) == float(c.z_loss) == int(c.dropped) == 0
    assert relative(a.aux_loss + b.aux_loss, sums.aux_loss) < 1e-6


def test_a_token_does_not_depend_on_its_batch():
    model = make_model(config_of(**KINDS["top3_shared_dense"])).eval()
    ids, _ = tokens(5, 9)
    together, _ = model.run_layers(model.embed(ids))
    for b in range(5):
        alone, _ = model.run_layers(model.embed(ids[b : b + 1]))
        assert relative(alone[0], together[b]) < 1e-6


def test_the_same_step_twice_is_bit_identical():
    def step():
        model = make_model(config_of(**KINDS["top3_shared_dense"]))
        ids, targets = tokens(4, 16)
        x, sums = model.run_layers(model.embed(ids), padding(4, 16))
        (model.cross_entropy(x, targets).sum + sums.aux_loss + sums.z_loss).backward()
        return [p.grad for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))
