"""Test ranks are isolated: no state reaches a later call, and no process is left."""

import os

import psutil
import pytest
import torch

from tests.support.layout import run_layout
from tests.support.matrix import Case, Layout
from tests.support.ranks import RankError, World, kept
from tests.support.reference import Trajectory

CASES = (
    Case(layout=Layout(ep=4, tp=2, dp=1), zero_stage=2, accumulation=2, top_k=2, expert="swiglu"),
    Case(layout=Layout(ep=2, tp=1, dp=2), zero_stage=0, dispatch="deepspeed"),
    Case(layout=Layout(ep=1, tp=4, dp=1), zero_stage=1, shared_experts=1, dispatch="capacity"),
    Case(layout=Layout(ep=2, tp=2, dp=2), zero_stage=1, precision="bf16"),
)


def bits(trajectory: Trajectory) -> list[bytes]:
    tensors = [t for step in trajectory.gradients for t in step.values()] + list(trajectory.final.values())
    reported = torch.tensor(
        [trajectory.losses, trajectory.aux_losses, trajectory.z_losses, trajectory.norms], dtype=torch.float64
    )
    return [t.contiguous().numpy().tobytes() for t in (reported, *trajectory.expert_tokens, *tensors)]


def _nothing() -> None:
    """What asks for new ranks, and leaves them as they are."""


@pytest.mark.slow
def test_a_case_does_not_depend_on_those_before_it() -> None:
    """New ranks for each case, and the same ranks for all of them in another order, one twice."""
    alone = {case: bits(run_layout(case.strategy, before=_nothing)) for case in CASES}
    with World(4) as world:
        for case in (*reversed(CASES), CASES[-1]):
            assert bits(run_layout(case.strategy, world=world)) == alone[case], case


def _fail_on_rank_1() -> int:
    rank = torch.distributed.get_rank()
    assert rank != 1, "what went wrong"
    return rank


def _pid() -> int:
    return os.getpid()


def test_a_failure_is_reported_and_ends_the_world() -> None:
    world = World(2)
    pids = world.run(_pid)
    with pytest.raises(RankError, match=r"rank 1 of 2 failed(?s:.*)what went wrong"):
        world.run(_fail_on_rank_1)
    assert not any(map(psutil.pid_exists, pids))
    with pytest.raises(RankError, match="an earlier failure"):
        world.run(_pid)


def test_a_shared_world_stays_and_is_made_again_after_a_failure() -> None:
    first = kept(2).run(_pid)
    assert kept(2).run(_pid) == first
    with pytest.raises(RankError):
        kept(2).run(_fail_on_rank_1)
    assert not set(kept(2).run(_pid)) & set(first)


def _wait_for_all(seconds: float) -> None:
    import time

    if torch.distributed.get_rank() == 0:
        time.sleep(seconds)
    torch.distributed.barrier()


def test_a_hang_is_reported_within_the_timeout() -> None:
    with World(2) as world, pytest.raises(RankError, match="did not finish in time: a hang"):
        world.run(_wait_for_all, 600.0, timeout=2)


def test_ranks_end_when_their_parent_is_gone() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        pids = World(2).run(_pid)
        os.write(writer, " ".join(map(str, pids)).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    ranks = [psutil.Process(int(p)) for p in os.read(reader, 100).split() if psutil.pid_exists(int(p))]
    os.close(reader)
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert alive == []
