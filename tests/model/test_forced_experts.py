"""Experts that are set instead of chosen: the naive model with the same routes, forward and backward."""

import pytest
import torch
from torch import Tensor

from tests.support import naive_model
from tests.support.model_cases import config_of, make_model, padding, parameters_of, relative, tokens

CASES = {
    "top1": {"num_experts_per_tok": 1},
    "top2": {},
    "not normalized": {"norm_topk_prob": False},
    "capacity": {"dispatch": "capacity", "capacity_factor": 0.75},
}


def experts(num_sequences: int, num_tokens: int, top_k: int) -> Tensor:
    """Consecutive ones, so that none has the router's choice throughout."""
    first_BS1 = torch.arange(num_sequences * num_tokens).view(num_sequences, num_tokens, 1)
    return (first_BS1 * 3 + torch.arange(top_k)) % 4


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_forced_experts_equal_the_naive_model(name: str, is_padded: bool) -> None:
    config = config_of(**CASES[name])
    model = make_model(config, torch.float64)
    p = parameters_of(model)
    ids, targets = tokens(4, 6)
    mask = padding(4, 6) if is_padded else None
    forced = experts(4, 6, config.num_experts_per_tok)

    x, sums = model.run_layers(model.embed(ids), mask, forced_BSK=forced)
    entropy = model.cross_entropy(x, targets, mask)
    (entropy.sum + 0.7 * sums.aux_loss + 0.3 * sums.z_loss).backward()

    logits, balance, z, counts, dropped = naive_model.run(config, p, ids, mask, forced=forced)
    expected, _ = naive_model.cross_entropy(logits, targets, mask)
    (expected + 0.7 * balance + 0.3 * z).backward()

    assert sums.expert_tokens.tolist() == counts
    assert int(sums.dropped) == dropped
    assert relative(entropy.sum, expected) < 1e-6
    assert relative(sums.aux_loss, balance) < 1e-6
    for key, parameter in model.named_parameters():
        assert relative(parameter.grad, p[key].grad) < 1e-5, key


def test_stock_dispatch_refuses_forced_experts() -> None:
    model = make_model(config_of(dispatch="deepspeed", num_experts_per_tok=1))
    ids, _ = tokens(2, 4)
    with pytest.raises(ValueError, match="dispatch deepspeed chooses experts by itself"):
        model.run_layers(model.embed(ids), forced_BSK=experts(2, 4, 1))
