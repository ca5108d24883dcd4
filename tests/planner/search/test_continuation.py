"""Whether a layout continues after a loss: by hand, from the ranks that each remaining host can carry."""

import json

import pytest

from launch.__main__ import main
from planner import build_plan, load
from planner.report.fallback_report import scaling_table
from planner.search.continuation import Continuation, continuations, worst
from planner.search.fallback import after_loss, scaling_options
from tests.support.examples import plan, strategy

REFERENCE = "ds_configs/ep64_tp2_staged.yaml"  # 68 ranks: 8 hosts of 8 and 4 ranks on a ninth, of 16 hosts


def _answers(found: tuple[Continuation, ...]) -> list[str]:
    return [each.answer for each in found]


def test_spare_hosts_take_the_ranks_of_lost_ones() -> None:
    last, first = continuations(build_plan(load(REFERENCE)), lost_hosts=7)
    assert (last.answer, first.answer) == ("unchanged", "moved")
    assert list(first.lost) == [f"host-{i:02d}" for i in range(7)]
    assert first.gpus_left == last.gpus_left == 72
    assert [(host.name, len(host.ranks)) for host in first.hosts] == [
        *((f"host-{i:02d}", 8) for i in range(7, 15)),
        ("host-15", 4),
    ]
    assert last.is_bit_identical
    assert first.is_bit_identical


def test_too_few_gpus_are_a_no_wherever_they_are_lost() -> None:
    """8 hosts of 8 remain, 64 slots for 68 ranks."""
    found = continuations(build_plan(load(REFERENCE)), lost_hosts=8)
    assert _answers(found) == ["no", "no"]
    assert not worst(found).is_bit_identical
    assert worst(found).gpus_left == 64


def test_the_same_loss_is_answered_once() -> None:
    """With one host the last is also the first that carries ranks."""
    full = plan("cluster.hosts=1", "parallel={ep: 8, tp: 1}")
    (only,) = continuations(full, lost_gpus=1)
    assert (only.answer, only.gpus_left) == ("no", 7)


def test_where_gpus_are_lost_decides() -> None:
    """24 ranks on 3 of 4 hosts of 8. Four GPUs lost together leave three complete hosts. One on each host
    leaves 7, 7, 7, 7: 28 slots, so that 24 ranks are 7, 7, 7, 3."""
    small = plan("cluster.hosts=4", "parallel={ep: 8, tp: 1, dp: 3}", "training.global_batch=24")
    last, first, scattered = continuations(small, lost_gpus=4)
    assert _answers((last, first, scattered)) == ["unchanged", "moved", "regrouped"]
    assert scattered.lost == {f"host-{i:02d}": 1 for i in range(4)}
    assert [len(host.ranks) for host in scattered.hosts] == [7, 7, 7, 3]
    assert not scattered.is_bit_identical
    assert worst((last, first, scattered)) is scattered


def test_hosts_that_are_not_equally_full_are_no_way_to_continue() -> None:
    """Of 8, 8 and 8 slots 7, 7 and 8 remain: 22 for 16 ranks. 8, 7, 1 would break DeepSpeed's local ranks;
    7, 7, 2 does not."""
    small = plan("cluster.hosts=3", "parallel={ep: 8, tp: 1, dp: 2}")
    scattered = continuations(small, lost_gpus=2)[-1]
    assert [len(host.ranks) for host in scattered.hosts] == [7, 7, 2]
    assert scattered.answer == "regrouped"


@pytest.mark.parametrize(
    ("loss", "answer", "words"),
    [
        (("--lost-hosts", "3"), "moved", "continues on the spares, bit-identical"),
        (("--lost-hosts", "8"), "no", "does not continue: it needs 68 GPUs, 64 remain"),
    ],
)
def test_the_first_line_answers_for_the_layout_as_written(
    loss: tuple[str, str], answer: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["fallback", REFERENCE, "model.num_hidden_layers=2", *loss, "--rows", "1"]
    assert main([*call, "--json"]) == 0
    as_written = json.loads(capsys.readouterr().out)["as_written"]
    assert (as_written["degrees"], as_written["gpus"]) == ("EP64_TP2_PP1_DP1", 68)
    assert as_written["worst_answer"] == answer
    assert all(sum(place["lost"].values()) == 8 * int(loss[1]) for place in as_written["by_place"])
    assert main([*call, "--plain"]) == 0
    assert words in capsys.readouterr().out.splitlines()[0]


def test_micro_batch_is_adapted_before_a_scaling_question_is_answered_no() -> None:
    """64 ranks with tp 2 are 32 wide: 4 of 128 sequences each. 128 ranks have 2 each."""
    given = strategy("parallel={ep: 64, tp: 2}", "training.micro_batch=4")
    options = {
        option.question: option
        for option in scaling_options(given)
        if option.parallel.placement == "colocated"
    }
    assert (options["as it is"].micro_batch, options["as it is"].is_micro_batch_changed) == (4, False)
    doubled = options["DP2"]
    assert (doubled.micro_batch, doubled.is_micro_batch_changed, doubled.why_not) == (2, True, None)
    assert any("4 → 2" in row for row in scaling_table((doubled,)).rows)


def test_micro_batch_is_lowered_to_fit_the_memory() -> None:
    given = strategy("parallel={ep: 8, tp: 1}", "training.micro_batch=16", "training.seq_length=4096")
    whole = next(iter(scaling_options(given))).memory
    smaller = next(
        iter(
            scaling_options(
                strategy("parallel={ep: 8, tp: 1}", "training.micro_batch=8", "training.seq_length=4096")
            )
        )
    ).memory
    assert whole is not None
    assert smaller is not None
    between = (whole.peak_bytes + smaller.peak_bytes) // 2
    tight = strategy(
        "parallel={ep: 8, tp: 1}",
        "training.micro_batch=16",
        "training.seq_length=4096",
        f"limits.memory_max={between} B",
    )
    adapted = next(iter(scaling_options(tight)))
    assert (adapted.why_not, adapted.micro_batch) == (None, 8)


def test_what_cannot_be_trained_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for moments, missing in (("bf16", ["training.optimizer.moments"]), ("fp32", [])):
        call = ["fallback", REFERENCE, f"training.optimizer.moments={moments}", "model.num_hidden_layers=2"]
        assert main([*call, "--json"]) == 0
        for option in json.loads(capsys.readouterr().out)["options"]:
            assert (option["trainable"], option["untrainable_keys"]) == (not missing, missing)


def test_layouts_that_train_come_before_those_that_do_not() -> None:
    """With DeepSpeed's dispatch complete layers are not recomputed in training."""
    stock = ["model.dispatch=deepspeed", "training.balance_loss=0", "training.z_loss=0"]
    stock.append("data.validation_sequences=72")
    changes = ["limits.memory_max=600 MB", *stock]
    left = after_loss(load("ds_configs/tiny_cpu.yaml", changes), lost_gpus=1)
    refused = [row.strategy.runtime.recompute.kind == "layer" for row in left.rows]
    assert refused == sorted(refused)
    assert not refused[0]
