"""Time limit of a Slurm job against the signal before it; where the signal's lead comes from."""

import re

import pytest

from launch.scripts.slurm_time import signal_lead, time_problems
from planner import Problem
from tests.support.examples import plan

# On 8 hosts, each of which writes 1 GB/s. Parameters: 16 x 64 experts of 2 x 1024 x 2048,
# attention 16 x 4 x 1024^2, routers 16 x 64 x 1024, embedding and head 2 x 4096 x 1024, norms 33 x 1024:
# 4,371,547,136, and 12 bytes of each are 52.46 GB, 6.6 s.
SMALL = ("parallel.ep=64",)


def problems(**options: object) -> list[Problem]:
    written = ", ".join(f"{name}: {value}" for name, value in options.items())
    return list(time_problems(plan(*SMALL, f"launch.slurm={{{written}}}")))


def test_the_lead_holds_a_step_and_a_checkpoint_twice() -> None:
    lead = signal_lead(plan(*SMALL))
    assert lead.seconds == 180  # 120 + 2 x (6.6 + a step of less than 20), in full minutes
    assert "6.56 s for 52.5 GB at 8 GB/s" in lead.how
    # 16 times the experts: 68,796,054,528 parameters, 825.6 GB, 103.2 s; 120 + 2 x (103.2 + a step below 16)
    large = signal_lead(plan(*SMALL, "model.moe_intermediate_size=32768"))
    assert large.seconds == 360
    assert "103 s for 826 GB at 8 GB/s" in large.how


@pytest.mark.parametrize(
    ("signal", "seconds"), [("B:USR1@90", 90), ("B:SIGUSR1@900", 900), ("B:10", 60), ("false", 0)]
)
def test_a_written_signal_counts(signal: str, seconds: int) -> None:
    assert (
        signal_lead(
            plan(
                *SMALL,
                f"launch.slurm={{signal: '{signal}'}}"
                if signal != "false"
                else "launch.slurm={signal: false}",
            )
        ).seconds
        == seconds
    )


@pytest.mark.parametrize(
    "limit", [3, "'3'", "'03:00'", "'3:00'", "'00:03:00'", "1", "'2:59'", "'0-0:3'", "'0-00:02:59'"]
)
def test_a_limit_within_the_lead_is_refused_and_the_fix_works(limit: object) -> None:
    (problem,) = problems(time=limit)
    assert (problem.code, problem.path) == ("SW419", "launch.slurm.time")
    assert "180 s before it = " in problem.found
    fixed = re.search(r"write time: ('[\d:]+')", problem.fix)
    assert fixed is not None
    assert problems(time=fixed[1]) == []


@pytest.mark.parametrize(
    "limit",
    [4, "'3:01'", "12:00:00", "1-0", "0-1", "'0-0:4'", "0-00:03:01", "UNLIMITED", "-1", "null", "false"],
)
def test_a_longer_limit_or_none_is_not_refused(limit: object) -> None:
    assert problems(time=limit) == []


@pytest.mark.parametrize("limit", ["unlimited", "infinite", 0, "'0'", "'00:00:00'"])
def test_what_slurm_reads_as_no_limit_is_none(limit: object) -> None:
    """So says `sbatch --test-only --time=…` of Slurm 22.05."""
    assert problems(time=limit) == []


@pytest.mark.parametrize("limit", ["2 hours", "12h", "1-2-3", "a"])
def test_what_slurm_reads_as_no_time_is_refused(limit: str) -> None:
    (problem,) = problems(time=limit)
    assert (problem.code, "is not a time limit" in problem.found) == ("SW419", True)


def test_a_later_signal_allows_a_shorter_limit() -> None:
    assert problems(time=2, signal="B:USR1@60") == []


@pytest.mark.parametrize("signal", ["TERM@60", "USR1@60", "B:USR2@60", "B:USR1@x", "true"])
def test_a_signal_that_the_script_does_not_hear_is_refused_and_the_fix_works(signal: str) -> None:
    (problem,) = problems(signal=signal)
    assert (problem.code, problem.path) == ("SW420", "launch.slurm.signal")
    assert problems(signal=problem.fix.removeprefix("write signal: ")) == []
