"""runtime.all_to_all hierarchical between two hosts that are network namespaces: the bits of flat."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.network import Network, NoNamespacesError
from benchmarks.worlds import World
from planner import Plan, build_plan
from tests.distributed.test_hierarchical import two_hosts
from tests.support.layout import _together, _train, run_layout
from tests.support.ranks import warm


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        made = Network(2, "200mbit")
    except NoNamespacesError as error:
        pytest.skip(f"network namespaces and tc: {error}")
    with made:
        yield made


def _on_hosts(state: dict[str, Any], plan: Plan) -> dict[str, Any]:
    return _train(plan, None, None)


def _enter(network: Network, rank: int) -> None:
    network.enter(rank // 2)


@pytest.mark.parametrize("top_k", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_training_on_two_hosts_has_the_bits_of_flat_on_one(network: Network, top_k: int) -> None:
    changes = {"model__num_experts_per_tok": top_k, "model__expert": "swiglu"}
    flat = run_layout(two_hosts(**changes))
    plan = build_plan(two_hosts(**changes, runtime={"all_to_all": "hierarchical"}))
    warm()
    world = World(4, 1, before=partial(_enter, network))
    try:
        before = [network.sent_bytes(host) for host in (0, 1)]
        found = _together(plan, world.call(_on_hosts, plan, timeout_s=120), agree=True)
        sent = [network.sent_bytes(host) - b for host, b in zip((0, 1), before, strict=True)]
    finally:
        world.close()
    assert (found.losses, found.norms) == (flat.losses, flat.norms)
    for step, gradients in enumerate(flat.gradients):
        for name, gradient in gradients.items():
            assert torch.equal(found.gradients[step][name], gradient), (step, name)
    for key, value in flat.final.items():
        assert torch.equal(found.final[key], value), key
    # Each step sends at least each weight's gradient to the other host, so the ranks do talk by the network.
    assert min(sent) > sum(gradient.nbytes for gradient in found.gradients[0].values()) // 4
