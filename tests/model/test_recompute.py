"""Recomputation changes no bit of a loss or gradient, computes what it says twice, and routes once."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from model.recompute import RoutingReplay
from tests.support.model_cases import KINDS, config_of, make_model, padding, tokens

RECOMPUTE = [("layer", None), ("layer", 1), ("attention", None), ("experts", None)]
BIASED = {"router_bias": True, "num_experts": 4}
# Restarting positions: documents of 4 + 5, 9, 2 + 3 + 4 and 1 + 8 tokens.
DOCUMENTS = torch.tensor(
    [
        [0, 1, 2, 3, 0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [0, 1, 0, 1, 2, 0, 1, 2, 3],
        [0, 0, 1, 2, 3, 4, 5, 6, 7],
    ]
)


def run(
    changes: dict,
    recompute: tuple[str, int | None],
    dtype: torch.dtype = torch.float32,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    moved_bias: bool = False,
) -> tuple[list[Tensor], Counter]:
    """Sums and gradients of a forward and backward pass, and how often each module ran."""
    model = make_model(config_of(**changes), dtype).train()
    model.model.set_recompute(*recompute)
    calls = count_calls(model)
    ids, targets = tokens(4, 9)
    x, sums = model.run_layers(model.embed(ids), mask, positions)
    entropy = model.cross_entropy(x, targets, mask).sum
    if moved_bias:
        for layer in model.model.layers.values():
            layer.mlp.router.bias += torch.tensor([9.0, -9.0, 9.0, -9.0])
    (entropy + 0.7 * sums.aux_loss + 0.3 * sums.z_loss).backward()
    found = [entropy, sums.aux_loss, sums.z_loss, sums.expert_tokens, sums.dropped]
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [*found, *gradients], calls


def count_calls(model: nn.Module) -> Counter:
    """How often a module ran, by the end of its name."""
    calls: Counter = Counter()
    for name, module in model.named_modules():
        end = name.rpartition(".")[2]
        if end in ("self_attn", "router", "experts"):
            module.register_forward_pre_hook(lambda *_, end=end: calls.update([end]))
    return calls


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    assert [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if not torch.equal(a, b)] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", ["plain", "padded", "packed", "bf16"])
def test_every_gradient_has_the_same_bits(kind: str, batch: str) -> None:
    more = {
        "plain": {},
        "padded": {"mask": padding(4, 9)},
        "packed": {"positions": DOCUMENTS},
        "bf16": {"dtype": torch.bfloat16},
    }[batch]
    expected, _ = run(KINDS[kind], ("none", None), **more)
    for recompute in RECOMPUTE:
        found, _ = run(KINDS[kind], recompute, **more)
        assert_same_bits(found, expected)


@pytest.mark.parametrize("recompute", RECOMPUTE, ids=str)
@pytest.mark.parametrize("capacity", [{}, {"dispatch": "capacity", "capacity_factor": 0.75}], ids=str)
def test_a_bias_that_has_moved_since_changes_no_route(
    recompute: tuple[str, int | None], capacity: dict
) -> None:
    """Routing again by the moved bias would send most tokens to other experts."""
    expected, _ = run(BIASED | capacity, ("none", None))
    found, _ = run(BIASED | capacity, recompute, moved_bias=True)
    assert_same_bits(found, expected)


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        (("none", None), {"self_attn": 2, "router": 2, "experts": 2}),
        (("layer", None), {"self_attn": 4, "router": 4, "experts": 4}),
        (("layer", 1), {"self_attn": 3, "router": 3, "experts": 3}),
        (("attention", None), {"self_attn": 4, "router": 2, "experts": 2}),
        (("experts", None), {"self_attn": 2, "router": 2, "experts": 4}),
    ],
    ids=str,
)
def test_what_is_asked_for_runs_twice(recompute: tuple[str, int | None], expected: dict[str, int]) -> None:
    _, calls = run({}, recompute)
    assert calls == expected


@pytest.mark.parametrize("recompute", RECOMPUTE, ids=str)
def test_evaluation_recomputes_nothing(recompute: tuple[str, int | None]) -> None:
    model = make_model(config_of()).eval()
    model.model.set_recompute(*recompute)
    calls = count_calls(model)
    ids, targets = tokens(2, 9)
    model.cross_entropy(model.run_layers(model.embed(ids))[0], targets).sum.backward()
    assert calls == {"self_attn": 2, "router": 2, "experts": 2}


def test_it_can_be_switched_off_again() -> None:
    model = make_model(config_of()).train()
    for kind in ("layer", "experts", "attention", "none"):
        model.model.set_recompute(kind)
    calls = count_calls(model)
    ids, targets = tokens(2, 9)
    model.cross_entropy(model.run_layers(model.embed(ids))[0], targets).sum.backward()
    assert calls == {"self_attn": 2, "router": 2, "experts": 2}


def test_a_decision_is_made_once() -> None:
    replay = RoutingReplay()
    assert [replay.once("routes", lambda i=i: i) for i in (3, 4)] == [3, 3]
    assert replay.once("rows", lambda: 5) == 5
    assert RoutingReplay().once("routes", lambda: 6) == 6


def test_attention_that_is_recomputed_takes_no_cache_in_training() -> None:
    model = make_model(config_of()).train()
    model.model.set_recompute("attention")
    ids, _ = tokens(1, 4)
    with pytest.raises(ValueError, match="use_cache=False"):
        model(ids, use_cache=True)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
def test_deepspeeds_dispatch_is_not_routed_twice() -> None:
    model = make_model(config_of(dispatch="deepspeed"))
    for kind in ("none", "attention", "experts"):
        model.model.set_recompute(kind)
    with pytest.raises(ValueError, match="legal: dropless, capacity"):
        model.model.set_recompute("layer")
    with pytest.raises(ValueError, match="legal: dropless, capacity"):
        model.gradient_checkpointing_enable()
