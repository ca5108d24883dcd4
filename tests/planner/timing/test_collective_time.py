"""Times of collectives against numbers worked out by hand."""

from dataclasses import replace

import pytest

from planner import Grid
from planner.hardware.catalog import Curve, Device, MeasuredCollective
from planner.timing.collective_time import (
    Network,
    all_gather_s,
    all_reduce_s,
    all_to_all_bytes,
    all_to_all_s,
    send_s,
)
from planner.topology.group_placement import GroupPlacement, grid_placement

BARE = Device(
    name="bare",
    is_cpu=False,
    is_calibrated=False,
    peak={"bf16": 1e12},
    gemm={"bf16": Curve(points=((1, 1.0), (2, 1.0)))},
    grouped={},
    attention={},
    tile_rows=1,
    elementwise=Curve(points=((1, 1e12), (2, 1e12))),
    fresh_bytes_per_s=None,
    operation_s=1e-9,
    intra_latency_s=0.0,
    inter_latency_s=0.0,
    message_s=0.0,
    link_share=1.0,
    cores=None,
    collectives=(),
    sources=(),
)


def network(device: Device = BARE, intra: float = 12.5e9, inter: float = 12.5e9) -> Network:
    return Network(intra_bytes_per_s=intra, inter_bytes_per_s=inter, host_size=8, device=device)


def test_the_references_all_to_all_is_the_specifications_number() -> None:
    # 131,072 tokens / 64 ranks = 2,048 rows of 1,024 bytes (FP8, top-1); 63 of 64 leave the rank.
    num_bytes = 2048 * 1024
    placement = GroupPlacement(size=64, local=8, hosts=8)
    assert all_to_all_bytes(num_bytes, placement) == 2_064_384
    assert all_to_all_s(num_bytes, placement, network()) == pytest.approx(0.000165, rel=2e-3)
    # 16 layers, there and back, forward only
    assert 32 * all_to_all_s(num_bytes, placement, network()) == pytest.approx(0.0053, rel=5e-3)


def test_peers_on_the_same_host_are_reached_over_its_own_link() -> None:
    # 64 kB, 8 of 64 ranks local: 7 kB inside at 100 kB/s, 56 kB outside at 10 kB/s
    placement = GroupPlacement(size=64, local=8, hosts=8)
    assert all_to_all_s(64_000, placement, network(intra=1e5, inter=1e4)) == pytest.approx(0.07 + 5.6)


def test_a_hierarchical_all_to_all_sends_fewer_and_larger_messages() -> None:
    slow = network(BARE.__class__(**{**BARE.__dict__, "message_s": 1e-3}), intra=1e9, inter=1e9)
    placement = GroupPlacement(size=64, local=8, hosts=8)
    assert all_to_all_s(0, placement, slow) == pytest.approx(63e-3)
    assert all_to_all_s(0, placement, slow, hierarchical=True) == pytest.approx(14e-3)


def test_an_all_reduce_moves_twice_what_an_all_gather_does() -> None:
    # 2·(n-1)/n of 8 kB at 1 kB/s
    placement = GroupPlacement(size=2, local=2, hosts=1)
    assert all_reduce_s(8000, placement, network(intra=1000)) == pytest.approx(8.0)
    assert all_gather_s(8000, placement, network(intra=1000)) == pytest.approx(4.0)


def test_an_all_reduce_over_hosts_sends_one_part_of_each_host_between_them() -> None:
    # inside: 2·7/8·8000/1000 = 14 s; between: 2·(8000/8)·(7/8)/100 = 17.5 s
    placement = GroupPlacement(size=64, local=8, hosts=8)
    assert all_reduce_s(8000, placement, network(intra=1000, inter=100)) == pytest.approx(31.5)


@pytest.mark.parametrize(
    ("grid", "axis", "expected"),
    [
        (
            Grid(axes=("edp", "ep"), sizes=(1, 64), first_rank=0),
            "ep",
            GroupPlacement(size=64, local=8, hosts=8),
        ),
        # ranks 2 to 65: hosts 0 and 8 carry 6 and 2 of them
        (
            Grid(axes=("edp", "ep"), sizes=(1, 64), first_rank=2),
            "ep",
            GroupPlacement(size=64, local=2, hosts=9),
        ),
        (
            Grid(axes=("data", "tp"), sizes=(32, 2), first_rank=0),
            "tp",
            GroupPlacement(size=2, local=2, hosts=1),
        ),
        (
            Grid(axes=("data", "tp"), sizes=(32, 2), first_rank=0),
            "data",
            GroupPlacement(size=32, local=4, hosts=8),
        ),
        (
            Grid(axes=("data", "tp"), sizes=(4, 2), first_rank=7),
            "tp",
            GroupPlacement(size=2, local=1, hosts=2),
        ),
        (
            Grid(axes=("edp", "ep"), sizes=(2, 64), first_rank=0),
            "edp",
            GroupPlacement(size=2, local=1, hosts=2),
        ),
        (
            Grid(axes=("edp", "ep"), sizes=(64, 1), first_rank=0),
            "ep",
            GroupPlacement(size=1, local=1, hosts=1),
        ),
    ],
)
def test_groups_are_placed_over_hosts_of_eight(grid: Grid, axis: str, expected: GroupPlacement) -> None:
    assert grid_placement(grid, axis, 8) == expected


def test_what_was_measured_is_used_where_the_group_stays_on_its_host() -> None:
    measured = MeasuredCollective(
        kind="all_reduce", ranks_on_host=4, group=2, points=((1000.0, 0.001), (3000.0, 0.003))
    )
    device = BARE.__class__(**{**BARE.__dict__, "collectives": (measured,)})
    assert all_reduce_s(2000, GroupPlacement(size=2, local=2, hosts=1), network(device)) == pytest.approx(
        0.002
    )
    assert all_reduce_s(5000, GroupPlacement(size=2, local=2, hosts=1), network(device)) == pytest.approx(
        0.005
    )
    assert all_reduce_s(10, GroupPlacement(size=2, local=2, hosts=1), network(device)) == pytest.approx(0.001)
    over_hosts = all_reduce_s(2000, GroupPlacement(size=2, local=1, hosts=2), network(device))
    assert over_hosts == pytest.approx(2000 / 12.5e9)


def test_what_was_measured_with_as_many_ranks_at_work_is_used() -> None:
    """On a host of four ranks, of which two are at work, a pair's time is that of a host of two."""
    points = {2: ((1000.0, 0.002), (2000.0, 0.002)), 4: ((1000.0, 0.008), (2000.0, 0.008))}
    measured = tuple(
        MeasuredCollective(kind=kind, ranks_on_host=ranks, group=2, points=points[ranks])
        for kind in ("all_gather", "send")
        for ranks in points
    )
    device = replace(BARE, collectives=measured)
    pair = GroupPlacement(size=2, local=2, hosts=1)
    full = replace(network(device), host_size=4)
    idle = replace(full, at_work=2.2)
    assert all_gather_s(1500, pair, full) == pytest.approx(0.008)
    assert all_gather_s(1500, pair, idle) == pytest.approx(0.002)
    assert send_s(1500, full, same_host=True) == pytest.approx(0.008)
    assert send_s(1500, idle, same_host=True) == pytest.approx(0.002)
    assert send_s(1500, idle, same_host=False) == pytest.approx(1500 / 12.5e9)
