"""Which rank stands where: the reference's own numbers, and what holds for every degree."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner.strategy.parallel import Parallel
from planner.topology.placement import StageContents, place, stage_layers, world_size
from tests.support.examples import plan

STAGED = "parallel.placement=staged"


def spans(*overrides: str) -> dict[str, tuple[int, int]]:
    return {stage.name: (stage.ranks[0], stage.ranks[-1]) for stage in plan(*overrides).stages}


def test_colocated_ep64_tp2_is_one_stage_of_64_ranks() -> None:
    built = plan("parallel=EP64_TP2")
    (stage,) = built.stages
    assert built.world_size == 64
    assert (stage.dense.axes, stage.dense.sizes) == (("data", "tp"), (32, 2))
    assert (stage.expert.axes, stage.expert.sizes) == (("edp", "ep"), (1, 64))
    assert stage.dense.groups("tp")[:2] == ((0, 1), (2, 3))
    assert stage.dense.group_of("data", 3) == tuple(range(1, 64, 2))
    assert stage.expert.groups("ep") == (tuple(range(64)),)
    assert stage.contents == StageContents(layers=tuple(range(16)), embedding=True, norm=True, output=True)


def test_colocated_dp2_puts_dp_outermost() -> None:
    built = plan("parallel=EP64_TP2_DP2")
    (stage,) = built.stages
    assert built.world_size == 128
    assert stage.expert.groups("ep") == (tuple(range(64)), tuple(range(64, 128)))
    assert stage.expert.group_of("edp", 5) == (5, 69)
    assert stage.dense.sizes == (64, 2)


def test_colocated_pp2_splits_layers_over_two_blocks() -> None:
    built = plan("parallel=EP64_TP2_PP2")
    first, second = built.stages
    assert built.world_size == 128
    assert (first.ranks, second.ranks) == (tuple(range(64)), tuple(range(64, 128)))
    assert first.contents == StageContents(layers=tuple(range(8)), embedding=True)
    assert second.contents == StageContents(layers=tuple(range(8, 16)), norm=True, output=True)
    assert second.expert.groups("ep") == (tuple(range(64, 128)),)


def test_colocated_ep_below_tp_lets_a_tp_group_cover_ep_groups() -> None:
    (stage,) = plan("parallel=EP2_TP4_DP2").stages
    assert stage.ranks == tuple(range(8))
    assert stage.dense.groups("tp") == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert stage.expert.groups("ep") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert stage.expert.group_of("edp", 3) == (1, 3, 5, 7)


def test_staged_has_the_documents_rank_numbers() -> None:
    built = plan(STAGED, "parallel.ep=64", "parallel.tp=2")
    embedding, experts, aggregation = built.stages
    assert built.world_size == 68
    assert spans(STAGED, "parallel.ep=64", "parallel.tp=2") == {
        "embedding": (0, 1),
        "experts": (2, 65),
        "aggregation": (66, 67),
    }
    assert experts.dense.sizes == (64, 1)
    assert experts.expert.sizes == (1, 64)
    assert (embedding.dense.sizes, embedding.expert, embedding.layers) == ((1, 2), None, ())
    assert embedding.contents == StageContents(embedding=True)
    assert experts.contents == StageContents(layers=tuple(range(16)), norm=True)
    assert aggregation.contents == StageContents(output=True)


def test_staged_compact_begins_with_the_experts() -> None:
    assert spans(STAGED, "parallel.ep=64", "parallel.tp=2", "parallel.rank_order=compact") == {
        "embedding": (64, 65),
        "experts": (0, 63),
        "aggregation": (66, 67),
    }


def test_staged_dp2_doubles_every_stage() -> None:
    overrides = (STAGED, "parallel.ep=64", "parallel.tp=2", "parallel.dp=2", "cluster.hosts=17")
    assert plan(*overrides).world_size == 136
    assert spans(*overrides) == {"embedding": (0, 3), "experts": (4, 131), "aggregation": (132, 135)}
    embedding, experts, _ = plan(*overrides).stages
    assert embedding.dense.groups("tp") == ((0, 1), (2, 3))
    assert embedding.dense.groups("data") == ((0, 2), (1, 3))
    assert experts.expert.groups("ep") == (tuple(range(4, 68)), tuple(range(68, 132)))
    assert experts.dense.size("data") == 128


def test_staged_pp2_needs_132_ranks() -> None:
    overrides = (STAGED, "parallel.ep=64", "parallel.tp=2", "parallel.pp=2", "cluster.hosts=17")
    assert plan(*overrides).world_size == 132
    assert list(spans(*overrides).items()) == [
        ("embedding", (0, 1)),
        ("experts-0", (2, 65)),
        ("experts-1", (66, 129)),
        ("aggregation", (130, 131)),
    ]


@pytest.mark.parametrize(
    ("layers", "pp", "sizes"), [(16, 2, [8, 8]), (16, 3, [6, 5, 5]), (7, 4, [2, 2, 2, 1]), (3, 3, [1, 1, 1])]
)
def test_layers_split_as_evenly_as_possible(layers: int, pp: int, sizes: list[int]) -> None:
    split = stage_layers(Parallel(pp=pp), layers)
    assert [len(part) for part in split] == sizes
    assert [layer for part in split for layer in part] == list(range(layers))


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("parallel={pp: 3}", ["layers-0", "layers-1", "layers-2"]),
        ("parallel={placement: staged, pp: 3}", ["experts-0", "experts-1", "experts-2"]),
    ],
)
def test_layers_are_cut_as_written(override: str, names: list[str]) -> None:
    built = plan(override, "parallel.layers_per_stage=[1, 10, 5]")
    assert {stage.name: stage.layers for stage in built.stages if stage.layers} == dict(
        zip(names, [(0,), tuple(range(1, 11)), (11, 12, 13, 14, 15)], strict=True)
    )


@given(
    placement=st.sampled_from(["colocated", "staged"]),
    ep=st.sampled_from([1, 2, 3, 4, 6, 8, 16, 64]),
    tp=st.sampled_from([1, 2, 3, 4, 8]),
    pp=st.integers(1, 4),
    dp=st.integers(1, 3),
    order=st.sampled_from(["document", "compact"]),
)
def test_stages_partition_the_world_for_every_degree(
    placement: str, ep: int, tp: int, pp: int, dp: int, order: str
) -> None:
    assume(ep % tp == 0 or tp % ep == 0)
    parallel = Parallel(placement=placement, ep=ep, tp=tp, pp=pp, dp=dp, rank_order=order)
    stages = place(parallel, num_layers=7)
    assert sorted(rank for stage in stages for rank in stage.ranks) == list(range(world_size(parallel)))
    assert [layer for stage in stages for layer in stage.layers] == list(range(7))
    for module in ("embedding", "norm", "output"):
        assert sum(getattr(stage.contents, module) for stage in stages) == 1
    for stage in stages:
        assert (stage.expert is None) == (stage.layers == ())
        if stage.expert is not None:
            assert stage.expert.ranks == stage.dense.ranks
            assert stage.expert.size("ep") == ep
            assert len(stage.ranks) == stage.expert.size("ep") * stage.expert.size("edp")
