"""runtime.all_to_all hierarchical: the rows and bits of flat, by way of the ranks of the own host."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from model.collectives import Group, all_to_all_rows
from planner import build_plan
from planner.problems import StrategyError
from runtime.parallel.groups import make_groups
from tests.support.layout import run_layout
from tests.support.ranks import kept, run_ranks
from tests.support.reference import tiny

# 0 and 1 are on one host, 2 and 3 on another. Rows from each rank to each, some of them none.
ROWS = ((1, 0, 2, 3), (4, 2, 0, 1), (0, 3, 1, 2), (2, 1, 5, 0))


def two_hosts(**changes: Any) -> Any:
    return on_hosts(2, 2, **changes)


def on_hosts(hosts: int, ranks_per_host: int, **changes: Any) -> Any:
    cluster = {
        "hosts": hosts,
        "gpus_per_host": ranks_per_host,
        "gpu": "cpu",
        "links": {"intra_host": "10 Gbps", "inter_host": "10 Gbps"},
    }
    parallel = {"ep": hosts * ranks_per_host, "tp": 1, "zero_stage": 1}
    return tiny(cluster=cluster, parallel=parallel, **changes)


def _exchange(kind: str, rows: tuple[tuple[int, ...], ...], hosts: int = 2) -> tuple[Any, Any, list[int]]:
    """Delivered rows and their gradient, and how many ranks each exchange was among."""
    size = len(rows)
    strategy = on_hosts(
        hosts,
        size // hosts,
        runtime={"all_to_all": kind},
        model__num_experts=2 * size,
        training__global_batch=4 * size,
    )
    plan = build_plan(strategy)
    rank = dist.get_rank()
    ep = make_groups(plan, rank).ep
    assert isinstance(ep, Group)
    send, receive = rows[rank], tuple(row[rank] for row in rows)
    x = torch.arange(sum(send) * 3.0).view(-1, 3) + 100 * rank
    x.requires_grad_()
    sizes: list[int] = []
    plain = dist.all_to_all_single

    def watched(output: Any, given: Any, *arguments: Any, group: Any, **options: Any) -> Any:
        sizes.append(dist.get_world_size(group))
        return plain(output, given, *arguments, group=group, **options)

    dist.all_to_all_single = watched
    try:
        y = all_to_all_rows(x, send, receive, ep)
        (y * (1 + torch.arange(y.numel()).view_as(y))).sum().backward()
    finally:
        dist.all_to_all_single = plain
    return y.detach().tolist(), x.grad.tolist(), sizes


@pytest.mark.parametrize(
    "rows", [ROWS, ((0, 0, 0, 6),) * 4, ((0,) * 4,) * 4], ids=["uneven", "to one", "none"]
)
def test_rows_and_gradients_are_those_of_flat(rows: tuple[tuple[int, ...], ...]) -> None:
    flat = kept(4).run(_exchange, "flat", rows)
    found = kept(4).run(_exchange, "hierarchical", rows)
    assert [r[:2] for r in found] == [r[:2] for r in flat]
    assert [r[2] for r in flat] == [[4, 4]] * 4
    # Counts inside the host, rows inside and between; backward between and inside: never among all four.
    assert [r[2] for r in found] == [[2, 2, 2, 2, 2]] * 4


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_and_their_ranks_may_differ_in_number(hosts: int) -> None:
    """Six ranks on 2 hosts of 3, and on 3 of 2: the exchanges inside and between are of other sizes."""
    rows = tuple(tuple((3 * rank + 5 * to + rank * to) % 4 for to in range(6)) for rank in range(6))
    flat = run_ranks(6, _exchange, "flat", rows, hosts)
    found = run_ranks(6, _exchange, "hierarchical", rows, hosts)
    assert [r[:2] for r in found] == [r[:2] for r in flat]
    inside, between = 6 // hosts, hosts
    assert [r[2] for r in found] == [[inside, inside, between, between, inside]] * 6


@pytest.mark.parametrize(("top_k", "in_float8"), [(1, False), (2, False), (2, True)])
def test_training_has_the_bits_of_flat(top_k: int, in_float8: bool) -> None:
    changes = {"model__num_experts_per_tok": top_k, "model__expert": "swiglu"}
    flat = run_layout(two_hosts(**changes, runtime={"fp8_payload": in_float8}))
    runtime = {"fp8_payload": in_float8, "all_to_all": "hierarchical"}
    found = run_layout(two_hosts(**changes, runtime=runtime))
    assert found.losses == flat.losses
    for step, gradients in enumerate(flat.gradients):
        for name, gradient in gradients.items():
            assert torch.equal(found.gradients[step][name], gradient), (step, name)
    for key, value in flat.final.items():
        assert torch.equal(found.final[key], value), key


def test_a_group_that_hosts_share_unevenly_is_refused() -> None:
    """Ranks 0 to 3 on hosts of 3 and 1: the fix, applied, is legal."""
    cluster = {
        "hosts": 2,
        "gpus_per_host": 3,
        "gpu": "A100-80GB",
        "links": {"intra_host": "10 Gbps", "inter_host": "10 Gbps"},
    }
    strategy = tiny(
        cluster=cluster,
        parallel={"ep": 4, "tp": 1, "zero_stage": 1},
        runtime={"all_to_all": "hierarchical"},
    )
    with pytest.raises(
        StrategyError, match=r"SW220.*ranks 0 to 3 has 3 of them on one host and 1 on"
    ) as error:
        build_plan(strategy)
    (problem,) = error.value.problems
    assert problem.path == "runtime.all_to_all"
    build_plan(tiny(cluster=cluster, parallel={"ep": 4, "tp": 1, "zero_stage": 1}))
