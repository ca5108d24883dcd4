"""A copy of a strategy with some keys changed is what a file with these keys would be."""

import pytest
from pydantic import ValidationError

from planner.strategy.changes import change_keys, change_parallel
from tests.support.examples import strategy


def test_changed_keys_are_those_of_an_override() -> None:
    changed = change_keys(strategy(), {"parallel.tp": 2, "parallel.ep": 4, "training.global_batch": 64})
    assert changed == strategy("parallel.tp=2", "parallel.ep=4", "training.global_batch=64")


def test_inner_sections_and_derived_defaults_follow() -> None:
    links = {"cluster.links.intra_host": 2e9, "cluster.links.inter_host": 1e9}
    changed = change_keys(strategy(), {**links, "model.num_attention_heads": 8})
    overrides = ("cluster.links.intra_host=2 GB/s", "cluster.links.inter_host=1 GB/s")
    assert changed == strategy(*overrides, "model.num_attention_heads=8")
    assert changed.model.head_dim == 128


@pytest.mark.parametrize("change", [{"parallel.tp": 0}, {"parallel.tq": 2}, {"training.steps": "many"}])
def test_a_wrong_key_or_value_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        change_keys(strategy(), change)


def test_the_copy_knows_where_the_rest_was_written() -> None:
    given = strategy()
    assert change_keys(given, {"parallel.tp": 2}).sources.root is given.sources.root


def test_a_cut_of_the_layers_goes_with_its_pp() -> None:
    cut = strategy("parallel.pp=2", "parallel.layers_per_stage=[13, 3]")
    assert change_parallel(cut, {"pp": 4}) == strategy("parallel.pp=4")
    assert change_parallel(cut, {"ep": 4, "pp": 2}).parallel.layers_per_stage == (13, 3)


@pytest.mark.parametrize(
    ("parallel", "name"),
    [
        ("{pp: 2}", "EP1_TP1_PP2_DP1"),
        ("{pp: 3, layers_per_stage: [6, 6, 4]}", "EP1_TP1_PP3_DP1 6+6+4"),
        ("{pp: 6, layers_per_stage: [3, 3, 3, 3, 2, 2]}", "EP1_TP1_PP6_DP1 4×3+2+2"),
    ],
)
def test_a_layout_is_named_with_its_cut(parallel: str, name: str) -> None:
    assert strategy(f"parallel={parallel}").parallel.layout_name == name
