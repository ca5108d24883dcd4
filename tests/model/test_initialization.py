"""Initial weights depend on seed, name and expert, not on the layout."""

import pytest
import torch

from model import SwitchyardConfig, SwitchyardForCausalLM
from model.collectives import Group, ModelGroups, share_of
from model.initialization import initialize_parameters
from tests.support.model_cases import config_of

CONFIG = {
    "num_experts": 4,
    "num_shared_experts": 1,
    "first_dense_layers": 1,
    "intermediate_size": 11,
    "aggregation": "linear",
    "qk_norm": "projection",
    "num_key_value_heads": 4,
    "expert": "swiglu",
}


def part(size: int, rank: int) -> Group | None:
    """A group that is only looked at: nothing here communicates."""
    if size == 1:
        return None
    return Group(process_group=None, ranks=tuple(range(size)), rank=rank, size=size)


def drawn(seed: int, **parts) -> SwitchyardForCausalLM:
    model = SwitchyardForCausalLM(config_of(**CONFIG), **parts)
    initialize_parameters(model, seed)
    return model


@pytest.mark.parametrize(("tp", "ep"), [(1, 2), (2, 1), (2, 4), (4, 2), (4, 4)])
def test_shards_of_every_layout_make_the_same_model(tp, ep):
    whole = drawn(3).state_dict()
    seen = {name: torch.zeros_like(tensor, dtype=torch.int64) for name, tensor in whole.items()}
    for rank in range(max(tp, ep)):
        model = drawn(3, groups=ModelGroups(tp=part(tp, rank % tp), ep=part(ep, rank % ep)))
        shards = model.shards()
        assert shards.keys() == dict(model.named_parameters()).keys() == whole.keys()
        for name, parameter in model.named_parameters():
            shard = shards[name]
            assert shard.global_shape == tuple(whole[name].shape)
            real = shard.real(parameter)
            box = tuple(slice(o, o + n) for o, n in zip(shard.offsets, real.shape, strict=True))
            assert torch.equal(whole[name][box], real), name
            seen[name][box] += 1
    assert all(counts.min() > 0 for counts in seen.values())


def test_seeds_names_and_experts_differ_and_a_seed_repeats():
    a, b, c = drawn(3).state_dict(), drawn(3).state_dict(), drawn(4).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["lm_head.weight"], c["lm_head.weight"])
    q = a["model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(q, a["model.layers.1.self_attn.q_proj.weight"])
    experts = a["model.layers.1.mlp.experts.down_proj"]
    assert not torch.equal(experts[0], experts[1])


def test_distributions():
    config = SwitchyardConfig(hidden_size=128, vocab_size=4096, initializer_range=0.03, embedding_std=0.7)
    model = SwitchyardForCausalLM(config)
    weights = model.state_dict()
    assert weights["model.embed_tokens.weight"].std() == pytest.approx(0.7, rel=0.01)
    for name in ("lm_head.weight", "model.layers.0.mlp.experts.up_proj"):
        assert weights[name].std() == pytest.approx(0.03, rel=0.02)
        assert abs(float(weights[name].mean())) < 1e-3
    assert all(bool((w == 1).all()) for n, w in weights.items() if n.endswith("norm.weight"))


def test_construction_draws_from_torchs_seed_and_leaves_its_generator_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = SwitchyardForCausalLM(config_of())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(11)
    second = SwitchyardForCausalLM(config_of())
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_expert_marks_and_tensor_parallel_marks():
    model = SwitchyardForCausalLM(config_of(**CONFIG), groups=ModelGroups(tp=part(2, 0), ep=part(4, 1)))
    for name, parameter in model.named_parameters():
        is_expert = ".experts." in name
        assert getattr(parameter, "allreduce", True) is not is_expert, name
        assert getattr(parameter, "group_name", None) == ("ep_size_4" if is_expert else None)
        is_sharded = tuple(parameter.shape) != model.shards()[name].global_shape and not is_expert
        assert getattr(parameter, "model_parallel", False) is is_sharded, name
        assert getattr(parameter, "tensor_model_parallel", False) is is_sharded, name


def test_shares_differ_by_at_most_one_and_cover_everything():
    for size in range(12):
        for parts in (2, 3, 5):
            shares = [share_of(size, part(parts, rank)) for rank in range(parts)]
            assert [i for start, length in shares for i in range(start, start + length)] == list(range(size))
            lengths = [length for _, length in shares]
            assert max(lengths) - min(lengths) <= 1


def test_heads_and_experts_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_key_value_heads"):
        SwitchyardForCausalLM(config_of(num_key_value_heads=1), groups=ModelGroups(tp=part(2, 0)))
    with pytest.raises(ValueError, match="num_experts"):
        SwitchyardForCausalLM(config_of(), groups=ModelGroups(ep=part(3, 0)))


def test_reference_model_has_the_published_count():
    config = SwitchyardConfig(
        num_hidden_layers=16,
        num_experts=64,
        hidden_size=1024,
        moe_intermediate_size=2048,
        num_attention_heads=16,
        vocab_size=4096,
        aggregation="linear",
    )
    with torch.device("meta"):
        model = SwitchyardForCausalLM(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}

    def total(part):
        return sum(size for name, size in sizes.items() if part in name)

    # 64 x 16 experts x 4,194,304; attention; routers; norms; embedding, aggregation, head
    assert total(".experts.") == 4_294_967_296
    assert total("self_attn") == 67_108_864
    assert total("router") == 1_048_576
    assert total("norm") == 33_792
    assert total("embed_tokens") == total("lm_head") == 4_194_304
    assert total("aggregation") == 1_048_576
    assert sum(sizes.values()) == 4_372_595_712
