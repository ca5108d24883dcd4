"""Links by name, links shared by a host or a network, plans of one GPU, which have none."""

import math

import pytest

from planner import StrategyError, build_plan, loads
from planner.hardware.catalog import device_of
from planner.hardware.presets import shipped_links
from planner.plan.serialization import full_strategy
from planner.prediction.predict import predict
from planner.search.search import search
from planner.timing.collective_time import network_of
from tests.support.examples import TEXT, plan, strategy

# Bytes/s of one GPU, one way: half of NVLink's figures for both directions (A100, H100, B200 data sheets), 16
# lanes of PCIe (GT/s / 8, without encoding), InfiniBand's 4 lanes, 3,200 Gb/s of a p5 host over its 8 GPUs.
BANDWIDTHS = {
    "NVLink3": 600e9 / 2,
    "NVLink4": 900e9 / 2,
    "NVLink4-H800": 400e9 / 2,
    "NVLink5": 1800e9 / 2,
    "InfinityFabric3": 7 * 128e9 / 2,
    "PCIe3": 16 * 8e9 / 8,
    "PCIe4": 16 * 16e9 / 8,
    "PCIe5": 16 * 32e9 / 8,
    "PCIe6": 16 * 64e9 / 8,
    "EDR": 100e9 / 8,
    "HDR": 200e9 / 8,
    "NDR": 400e9 / 8,
    "XDR": 800e9 / 8,
    "EFA": 3200e9 / 8 / 8,
    "EFA-p4d": 400e9 / 8 / 8,
    "RoCE-100": 100e9 / 8,
    "RoCE-200": 200e9 / 8,
    "RoCE-400": 400e9 / 8,
}
WITHOUT_LINKS = TEXT.replace("  links: {intra_host: 100 Gbps, inter_host: 100 Gbps}\n", "")
ONE_GPU = ("cluster.hosts=1", "model.num_experts=4", "parallel=EP1")


def test_links_are_those_of_the_standards() -> None:
    assert {name: link.bytes_per_s for name, link in shipped_links().items()} == BANDWIDTHS


def test_a_link_is_named_in_any_spelling_beside_a_quantity() -> None:
    given = strategy("cluster.links={intra_host: nvlink-4, inter_host: 100 Gbps}")
    assert (given.cluster.links.intra_host, given.cluster.links.inter_host) == (450e9, 12.5e9)
    assert "intra_host: NVLink4" in full_strategy(given)
    assert loads(full_strategy(given)) == given
    said = predict(build_plan(strategy("cluster.links.intra_host=NVLink4", "parallel=EP8"))).assumptions
    assert any(
        line.startswith("intra_host NVLink4: 450 GB/s of a GPU, one way (NVIDIA H100") for line in said
    )


@pytest.mark.parametrize(("value", "code"), [("NVLink9", "SW138"), ("10", "SW116"), ("10 GB", "SW116")])
def test_an_unknown_link_is_a_problem(value: str, code: str) -> None:
    with pytest.raises(StrategyError) as caught:
        strategy(f"cluster.links.inter_host={value}")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == (code, "cluster.links.inter_host")


@pytest.mark.parametrize(
    ("more", "bytes_per_s"),
    [
        ("", 12.5e9),
        (", oversubscription: 2", 6.25e9),
        (", per_host: 400 Gbps", 400e9 / 8 / 8),
        (", per_host: 1.6 Tbps", 12.5e9),  # 25 GB/s a GPU: its own link is narrower
        (", per_host: 400 Gbps, oversubscription: 4", 400e9 / 8 / 8 / 4),
    ],
)
def test_hosts_and_networks_are_shared(more: str, bytes_per_s: float) -> None:
    built = plan(f"cluster.links={{intra_host: NVLink4, inter_host: 100 Gbps{more}}}", "parallel=EP16")
    device = device_of(built.strategy.cluster.gpu)
    network = network_of(built, device)
    assert network.inter_bytes_per_s == pytest.approx(bytes_per_s * device.link_share)
    assert network.intra_bytes_per_s == 450e9 * device.link_share
    said = any("oversubscription" in line for line in predict(built).assumptions)
    assert said is bool(more)


def test_a_plan_of_one_gpu_needs_no_links_and_sends_nothing() -> None:
    built = build_plan(loads(WITHOUT_LINKS, ONE_GPU))
    prediction = predict(built)
    assert prediction.communication_share == 0
    assert prediction.phases_s["gradient_reduce"] == 0
    assert not any("links per rank" in line for line in prediction.assumptions)
    with_links = predict(build_plan(loads(TEXT, ONE_GPU)))
    assert with_links.step_s == prediction.step_s


def test_copies_of_a_plan_with_peers_stay_where_they_are_measured() -> None:
    pair = predict(plan("parallel={ep: 1, dp: 2}"))
    assert pair.phases_s["gradient_reduce"] > 0
    assert math.isclose(sum(pair.phases_s.values()), pair.step_s)


def test_all_other_plans_are_asked_for_links() -> None:
    with pytest.raises(StrategyError) as caught:
        loads(WITHOUT_LINKS, ["parallel=EP8"])
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("SW215", "cluster.links")
    with pytest.raises(StrategyError) as caught:
        search(loads(WITHOUT_LINKS, ONE_GPU))
    assert [problem.code for problem in caught.value.problems] == ["SW215"]
