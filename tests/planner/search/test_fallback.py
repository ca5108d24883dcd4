"""The document's scaling questions and fallbacks, and layouts after a loss."""

import json

import pytest

from launch.__main__ import main
from planner import Strategy, StrategyError, build_plan, load
from planner.report.fallback_report import loss_table, scaling_table
from planner.search.fallback import ScalingOption, after_loss, scaling_options
from tests.support.examples import strategy

REFERENCE = "ds_configs/ep64_tp2_staged.yaml"


@pytest.fixture(scope="module")
def reference() -> Strategy:
    return load(REFERENCE)


@pytest.fixture(scope="module")
def options(reference: Strategy) -> tuple[ScalingOption, ...]:
    return scaling_options(reference)


def test_gpus_of_every_question(options: tuple[ScalingOption, ...]) -> None:
    """By the identities of both placements: dp × max(ep, tp) × pp, and dp × (tp + pp·ep + tp)."""
    needed = {(option.question, option.parallel.placement): option.gpus for option in options}
    assert needed == {
        ("as it is", "colocated"): 64,
        ("as it is", "staged"): 68,
        ("batch 256", "colocated"): 64,
        ("batch 256", "staged"): 68,
        ("DP2", "colocated"): 128,
        ("DP2", "staged"): 136,
        ("128 experts, 1 per rank", "colocated"): 128,
        ("128 experts, 1 per rank", "staged"): 132,
        ("128 experts, 2 per rank", "colocated"): 64,
        ("128 experts, 2 per rank", "staged"): 68,
        ("EP32_TP2", "colocated"): 32,
        ("EP32_TP2", "staged"): 36,
        ("EP64_TP4", "colocated"): 64,
        ("EP64_TP4", "staged"): 72,
        ("EP64_TP2_PP2", "colocated"): 128,
        ("EP64_TP2_PP2", "staged"): 132,
    }


def test_what_128_gpus_cannot_do_is_said(options: tuple[ScalingOption, ...]) -> None:
    missing = [option for option in options if not option.is_possible]
    assert {(option.question, option.spares) for option in missing} == {
        ("DP2", -8),
        ("128 experts, 1 per rank", -4),
        ("EP64_TP2_PP2", -4),
    }
    assert all("hosts have 128 slots" in str(option.why_not) for option in missing)
    assert all(option.parallel.placement == "staged" for option in missing)


def test_what_can_run_has_memory_time_and_spares(options: tuple[ScalingOption, ...]) -> None:
    for option in options:
        if option.is_possible:
            assert option.memory is not None
            assert option.tokens_per_s is not None
            assert option.tokens_per_s > 0
            assert option.spares == 128 - option.gpus >= 0
    table = scaling_table(options)
    assert len(table.rows) == 16


def test_too_little_memory_is_why_not() -> None:
    small = strategy("limits.memory_max=3 GB", "parallel=EP64")
    (option, *_) = scaling_options(small)
    assert option.why_not is not None
    assert option.why_not.startswith("memory: ")


@pytest.mark.parametrize(
    ("loss", "gpus", "hosts", "kept"),
    [
        ({"lost_hosts": 1}, 120, 15, None),
        ({"lost_gpus": 3}, 120, 15, "dropped"),
        ({"lost_hosts": 15}, 8, 1, None),
    ],
)
def test_what_a_loss_leaves(loss: dict[str, int], gpus: int, hosts: int, kept: str | None) -> None:
    """125 GPUs carry no more ranks than 120 do here: the batch of 128 is cut into powers of two."""
    small = strategy("model.num_hidden_layers=2")
    left = after_loss(small, **loss)  # type: ignore[arg-type]
    assert (left.num_gpus, left.num_hosts, left.kept) == (gpus, hosts, kept)
    assert left.rows
    for row in left.rows[:5]:
        built = build_plan(row.strategy)
        assert built.world_size == row.gpus <= gpus
        assert built.batch.global_batch == 128
    rates = [row.tokens_per_s for row in left.rows]
    assert rates == sorted(rates, reverse=True)
    assert len(loss_table(left, 3).rows) == min(3, len(left.rows))


def test_a_host_with_fewer_gpus_goes_last_where_its_ranks_count() -> None:
    small = strategy("cluster.hosts=2", "model.num_experts=3", "training.global_batch=3", "parallel=EP1")
    left = after_loss(small, lost_gpus=1)
    assert left.kept == "last"
    assert left.strategy.cluster.slots == (8, 7)


def test_nothing_left_is_a_problem() -> None:
    with pytest.raises(StrategyError, match=r"SW321 .*16 hosts with 128 GPUs"):
        after_loss(strategy(), lost_hosts=16)
    with pytest.raises(StrategyError, match="SW321"):
        after_loss(strategy(), lost_gpus=128)


def test_fallback_prints_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fallback", REFERENCE, "--plain"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "ep64_tp2_staged: EP64_TP2_PP1_DP1, staged"
    assert lines[1] == "128 GPUs on 16 hosts, including spares"
    assert lines[2] == "memory of a rank: at most 64 GB (limits.memory_max)"
    assert "question placement GPUs runs trainable micro memory step tokens/s spares why not" in lines
    assert any(line.startswith("DP2 staged 136 no yes 1 - - - 8 missing parallel: ") for line in lines)
    assert len(lines) == 6 + 16


def test_fallback_after_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    small = [REFERENCE, "model.num_hidden_layers=2", "--lost-hosts", "3"]
    assert main(["fallback", *small, "--json", "--rows", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["command"], answer["code"], answer["gpus"]) == ("fallback", 0, 104)
    assert len(answer["layouts"]) == 2
    assert answer["layouts"][0]["tokens_per_s"] >= answer["layouts"][1]["tokens_per_s"]
    assert main(["fallback", *small]) == 0
    assert "after the loss of 3 hosts: 104 GPUs on 13 hosts" in capsys.readouterr().out


def test_nothing_that_fits_is_a_no(capsys: pytest.CaptureFixture[str]) -> None:
    tight = [REFERENCE, "model.num_hidden_layers=1", "limits.memory_max=1 GB", "--lost-hosts", "15"]
    assert main(["fallback", *tight]) == 1
    assert "note: no legal layout fits the remaining GPUs" in capsys.readouterr().out


def test_two_kinds_of_loss_at_once_are_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fallback", REFERENCE, "--lost-hosts", "1", "--lost-gpus", "1"]) == 2
    assert "both --lost-hosts and --lost-gpus" in capsys.readouterr().err
