"""A copy of a strategy with some keys changed is what a file with these keys would be."""

import pytest
from pydantic import ValidationError

from planner.strategy.changes import change_keys
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
