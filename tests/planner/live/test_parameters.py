"""The planner's parameters are those of the model that a rank builds: names, order, shapes, marks."""

from math import prod

import pytest
import torch

from model.collectives import Group, ModelGroups
from model.decoder import StageContents
from model.modeling_switchyard import SwitchyardForCausalLM
from planner import Plan, build_plan, load
from planner.counts.parameters import model_parameters, parameters_of
from runtime.training.training_model import model_config
from tests.support.examples import plan

SHIPPED = ("ep64_tp2_staged", "ep64_tp2", "tiny_cpu")
LAYOUTS = {
    "one rank": ("parallel=EP1",),
    "ep": ("parallel=EP8_DP2",),
    "tp": ("parallel=EP1_TP4",),
    "ep over tp": ("parallel=EP8_TP2",),
    "tp over ep": ("parallel=EP2_TP4",),
    "pipeline": ("parallel=EP8_TP2_PP4",),
    "uneven pipeline": ("parallel=EP4_PP3",),
    "cut as written": ("parallel={ep: 4, pp: 3, layers_per_stage: [9, 2, 5]}",),
    "staged, cut as written": (
        "parallel={placement: staged, ep: 8, tp: 2, pp: 2, layers_per_stage: [1, 15]}",
    ),
    "staged": ("parallel={placement: staged, ep: 8, tp: 2, dp: 2, pp: 2}",),
    "compact": ("parallel={placement: staged, ep: 8, tp: 4, rank_order: compact}",),
}
SHAPES = {
    "plain": (),
    "swiglu, shared, dense, grouped heads": (
        "model.expert=swiglu",
        "model.num_shared_experts=2",
        "model.first_dense_layers=3",
        "model.intermediate_size=2728",
        "model.num_key_value_heads=4",
        "model.qk_norm=head",
    ),
    "odd vocabulary, projection norm": (
        "model.vocab_size=4099",
        "model.qk_norm=projection",
        "model.aggregation=linear",
        "model.head_dim=96",
    ),
}


def built(plan: Plan, rank: int) -> SwitchyardForCausalLM:
    """The rank's model on the meta device; its groups are tables without processes."""
    stage = plan.stage_of(rank)

    def group(ranks: tuple[int, ...]) -> Group | None:
        if len(ranks) == 1:
            return None
        return Group(process_group=None, ranks=ranks, rank=ranks.index(rank), size=len(ranks))

    groups = ModelGroups(
        tp=group(stage.dense.group_of("tp", rank)),
        ep=None if stage.expert is None else group(stage.expert.group_of("ep", rank)),
    )
    with torch.device("meta"):
        return SwitchyardForCausalLM(
            model_config(plan.strategy),
            groups=groups,
            contents=StageContents(**vars(stage.contents)),
        )


def assert_same(plan: Plan, rank: int) -> None:
    counted = parameters_of(plan, rank)
    live = dict(built(plan, rank).named_parameters())
    assert [tensor.name for tensor in counted] == list(live)
    for tensor in counted:
        parameter = live[tensor.name]
        assert tensor.shape == tuple(parameter.shape), tensor.name
        assert tensor.is_expert == (not getattr(parameter, "allreduce", True)), tensor.name
        assert tensor.is_split_over_tp == getattr(parameter, "model_parallel", False), tensor.name


@pytest.mark.parametrize("name", SHIPPED)
def test_parameters_of_every_rank_of_shipped_strategies(name: str) -> None:
    built_plan = build_plan(load(f"ds_configs/{name}.yaml"))
    for stage in built_plan.stages:
        for rank in {stage.ranks[0], stage.ranks[1], stage.ranks[-1]}:
            assert_same(built_plan, rank)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_of_ranks(layout: str, shape: str) -> None:
    built_plan = plan("cluster.hosts=64", "model.num_experts=8", *SHAPES[shape], *LAYOUTS[layout])
    ranks = {stage.ranks[place] for stage in built_plan.stages for place in (0, 1 % len(stage.ranks), -1)}
    for rank in sorted(ranks):
        assert_same(built_plan, rank)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_whole_model_is_counted(name: str) -> None:
    strategy = load(f"ds_configs/{name}.yaml")
    with torch.device("meta"):
        model = SwitchyardForCausalLM(model_config(strategy))
    assert model_parameters(strategy.model).total == sum(p.numel() for p in model.parameters())


def test_ranks_hold_the_whole_model_between_them() -> None:
    """Every element of a tensor as often as the layout has copies of it, by the shards of the live model."""
    built_plan = plan("model.num_experts=8", "model.vocab_size=4099", "parallel=EP8_TP2_PP4")
    held: dict[str, int] = {}
    due: dict[str, int] = {}
    for rank in range(built_plan.world_size):
        shards = built(built_plan, rank).shards()
        for tensor in parameters_of(built_plan, rank):
            held[tensor.name] = held.get(tensor.name, 0) + tensor.num_elements
            parts = 8 if tensor.is_expert else 2 if tensor.is_split_over_tp else 1
            copies = len(built_plan.stage_of(rank).ranks) // parts
            shape = shards[tensor.name].global_shape
            # Two partners share 4,099 rows: the second one's share is padded by one.
            due[tensor.name] = copies * prod((4100, *shape[1:]) if shape[0] == 4099 else shape)
    assert held == due
