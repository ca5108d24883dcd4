"""DeepSpeed's MOELayer with our weights, compared with our dropless dispatch."""

import pytest
import torch
import torch.distributed as dist

from model.collectives import ModelGroups
from tests.support.model_cases import config_of, make_model, relative, tokens
from tests.support.model_layouts import group_of
from tests.support.ranks import run_ranks


class Mpu:
    """What DeepSpeed asks about tensor parallelism."""

    def __init__(self, group) -> None:
        self.group = group

    def get_tensor_model_parallel_world_size(self) -> int:
        return 1 if self.group is None else self.group.size

    def get_tensor_model_parallel_rank(self) -> int:
        return 0 if self.group is None else self.group.rank

    def get_tensor_model_parallel_group(self):
        return None if self.group is None else self.group.process_group


def step(dispatch: str, k: int, expert: str, groups: ModelGroups, share: slice):
    model = make_model(
        config_of(dispatch=dispatch, num_experts_per_tok=k, expert=expert, num_shared_experts=1),
        torch.float64,
        groups=groups,
    )
    ids, targets = tokens(4, 6)
    x, sums = model.run_layers(model.embed(ids[share]))
    entropy = model.cross_entropy(x, targets[share])
    entropy.sum.backward()
    return entropy.sum.detach(), sums, {n: p.grad for n, p in model.named_parameters()}, model


def compare(k: int, expert: str, groups: ModelGroups, share: slice) -> None:
    stock_loss, stock_sums, stock, stock_model = step("deepspeed", k, expert, groups, share)
    loss, sums, grads, model = step("dropless", k, expert, groups, share)
    # DeepSpeed routes in fp32, whatever the model's type.
    assert relative(stock_loss, loss) < 1e-6
    assert torch.equal(stock_sums.expert_tokens, sums.expert_tokens)
    assert int(stock_sums.dropped) == 0
    assert list(stock) == list(grads)
    for name, grad in grads.items():
        if groups.tp is not None and groups.ep is None and ".experts." in name:
            # The partners hold the same experts and share the rows out differently; their sum is the same.
            dist.all_reduce(grad)
            dist.all_reduce(stock[name])
        assert relative(stock[name], grad) < 1e-5, name
    assert stock_model.state_dict().keys() == model.state_dict().keys()
    assert [type(m) for m in stock_model.modules()] == [type(m) for m in model.modules()]


@pytest.mark.parametrize("expert", ["mlp", "swiglu"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_stock_dispatch_equals_dropless(k, expert):
    compare(k, expert, ModelGroups(), slice(None))


def all_layouts() -> None:
    import deepspeed
    from deepspeed.utils import groups as deepspeed_groups

    # Built by a compiler for a minute under a lock (comm/torch.py:49), and not needed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    group = group_of(2)
    for tp, ep in ((None, group), (group, None), (group, group)):
        deepspeed_groups.mpu = Mpu(tp)
        share = slice(None) if tp is not None else slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
        for k in (1, 2, 3):
            compare(k, "mlp", ModelGroups(tp=tp, ep=ep), share)


def test_stock_dispatch_equals_dropless_in_layouts():
    run_ranks(2, all_layouts)


def test_stock_dispatch_refuses_a_mask():
    model = make_model(config_of(dispatch="deepspeed"))
    ids, _ = tokens(2, 6)
    with pytest.raises(ValueError, match="masked"):
        model.run_layers(model.embed(ids), torch.ones(2, 6, dtype=torch.bool))


def test_evaluation_needs_no_deepspeed(monkeypatch):
    model = make_model(config_of(dispatch="deepspeed")).eval()
    monkeypatch.setitem(__import__("sys").modules, "deepspeed.moe.sharded_moe", None)
    ids, _ = tokens(2, 6)
    mask = torch.ones(2, 6, dtype=torch.bool)
    x, _ = model.run_layers(model.embed(ids), mask)
    assert x.isfinite().all()
