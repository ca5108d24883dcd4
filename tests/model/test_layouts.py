"""TP and EP layouts compared with one process: losses, counts, every gradient."""

import pytest
import torch
from torch import Tensor

from model.collectives import ModelGroups
from tests.support.model_cases import KINDS, config_of, make_model, padding, relative, tokens
from tests.support.model_layouts import Case, group_of, in_ranks, one_process
from tests.support.ranks import run_ranks

LAYOUTS = {2: [(1, 2), (2, 1), (2, 2)], 4: [(1, 4), (1, 2), (2, 4), (2, 2), (2, 1), (4, 2), (4, 4), (4, 1)]}


def cases_of(world_size: int) -> list[tuple[str, Case]]:
    cases = []
    for tp, ep in LAYOUTS[world_size]:
        for kind, changes in KINDS.items():
            config = {**changes, "num_key_value_heads": 4}
            if config.get("num_experts", 4) % ep:
                continue
            for masked in (False, True):
                mask = padding(4, 7) if masked else None
                cases.append(
                    (
                        f"tp{tp}_ep{ep}_{kind}_{masked}",
                        Case(tp=tp, ep=ep, config=config, mask=mask, dtype=torch.float64),
                    )
                )
    return cases


def assert_equal(name, got, expected, tolerance):
    (grads, values), (expected_grads, expected_values) = got, expected
    for key in ("num_tokens", "dropped", "expert_tokens"):
        assert torch.equal(values[key], expected_values[key]), (name, key)
    for key in ("loss", "balance", "z"):
        assert relative(values[key], expected_values[key]) < tolerance, (name, key)
    assert grads.keys() == expected_grads.keys()
    for key, grad in grads.items():
        reference = expected_grads[key]
        # A gradient that is nothing but rounding (no token came by) has no relative error.
        error = relative(grad, reference) if reference.norm() > 1e-9 else float(grad.norm())
        assert error < tolerance, (name, key, error)


@pytest.mark.parametrize("world_size", LAYOUTS)
def test_layouts_equal_one_process(world_size):
    cases = cases_of(world_size)
    for (name, case), got in zip(cases, in_ranks(world_size, [c for _, c in cases]), strict=True):
        assert_equal(name, got, one_process(case), 1e-10)


def test_fp32_with_grouped_products_equals_one_process():
    config = {
        "hidden_size": 32,
        "moe_intermediate_size": 32,
        "num_experts": 8,
        "expert": "swiglu",
        "num_shared_experts": 1,
        "aggregation": "linear",
        "num_key_value_heads": 4,
    }
    cases = [Case(tp=tp, ep=ep, config=config, num_tokens=13) for tp, ep in LAYOUTS[4]]
    for case, got in zip(cases, in_ranks(4, cases), strict=True):
        assert_equal(f"tp{case.tp}_ep{case.ep}", got, one_process(case), 1e-5)


def test_three_ranks_equal_one_process_when_sizes_do_not_divide():
    config = {
        **KINDS["top3_shared_dense"],
        "num_experts": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "hidden_size": 20,
        "vocab_size": 35,
        "aggregation": "linear",
    }
    cases = [
        Case(tp=tp, ep=ep, config=config, num_sequences=3, mask=mask, dtype=torch.float64)
        for tp, ep in ((3, 3), (3, 1), (1, 3))
        for mask in (None, padding(3, 7))
    ]
    for case, got in zip(cases, in_ranks(3, cases), strict=True):
        assert_equal(f"tp{case.tp}_ep{case.ep}", got, one_process(case), 1e-10)


def test_bf16_in_ranks_stays_as_near_to_fp32_as_one_process_does():
    config = {"hidden_size": 32, "moe_intermediate_size": 32, "num_key_value_heads": 4}
    exact, _ = one_process(Case(config=config))
    noise, _ = one_process(Case(config=config, dtype=torch.bfloat16))
    for case in (Case(tp=tp, ep=ep, config=config, dtype=torch.bfloat16) for tp, ep in ((1, 2), (2, 2))):
        ((grads, _),) = in_ranks(2, [case])
        for name, grad in grads.items():
            assert grad.dtype == torch.bfloat16
            assert relative(grad, exact[name]) < 0.02 + 2 * relative(noise[name], exact[name]), name


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
def test_fewer_tokens_than_ranks_work(num_tokens):
    """A rank's share may be empty; it still joins every collective, forward and backward."""
    cases = [
        Case(
            tp=tp,
            ep=ep,
            config={"num_key_value_heads": 4},
            num_sequences=4 // tp,
            num_tokens=num_tokens,
            dtype=torch.float64,
        )
        for tp, ep in LAYOUTS[4]
    ]
    for case, got in zip(cases, in_ranks(4, cases), strict=True):
        assert_equal(f"tp{case.tp}_ep{case.ep}", got, one_process(case), 1e-8)


def test_all_tokens_to_one_expert_and_a_rank_without_a_valid_token():
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1:3] = False
    cases = [
        Case(
            tp=tp,
            ep=ep,
            config={"num_key_value_heads": 4, **top},
            num_tokens=6,
            mask=mask,
            has_favourite=True,
        )
        for tp, ep in LAYOUTS[4]
        for top in ({"num_experts_per_tok": 1}, {"num_experts_per_tok": 4})
    ]
    for case, got in zip(cases, in_ranks(4, cases), strict=True):
        assert_equal(f"tp{case.tp}_ep{case.ep}", got, one_process(case), 1e-5)
        busy = got[1]["expert_tokens"].count_nonzero(1)
        assert (busy == case.config["num_experts_per_tok"]).all()


def test_every_collective_is_timed():
    config = {"num_key_value_heads": 4, "num_hidden_layers": 1}
    cases = [Case(tp=2, ep=1, config=config), Case(tp=1, ep=2, config=config), Case(config=config)]
    entered = [values["entered"] for _, values in in_ranks(2, cases)]
    assert set(entered[0]) == {"tensor_parallel"}
    # counts, gates, rows there and back; the gradients of all but the counts
    assert entered[1] == {"all_to_all": 7}
    assert entered[2] == {}


def logits_and_continuation(groups: ModelGroups) -> tuple[Tensor, Tensor]:
    model = make_model(config_of(**KINDS["swiglu_top2"]), torch.float64, groups=groups).eval()
    ids, _ = tokens(3, 6)
    mask = torch.ones(3, 6, dtype=torch.int64)
    mask[1, :3] = 0
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    return logits, model.generate(ids, attention_mask=mask, **settings)


def parallel_logits_and_continuation() -> tuple[Tensor, Tensor]:
    group = group_of(2)
    return logits_and_continuation(ModelGroups(tp=group, ep=group))


def test_every_tp_rank_has_the_logits_of_the_whole_vocabulary():
    logits, continuation = logits_and_continuation(ModelGroups())
    for parallel_logits, parallel_continuation in run_ranks(2, parallel_logits_and_continuation):
        assert relative(parallel_logits, logits) < 1e-10
        assert torch.equal(parallel_continuation, continuation)
