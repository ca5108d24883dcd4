"""Recomputation in layouts: the bits of the same layout without it, one order of exchanges on all ranks."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from planner import Plan, Strategy, build_plan
from tests.distributed.test_documents import packed
from tests.support.layout import run_layout, start
from tests.support.matrix import Case, recomputed
from tests.support.ranks import run_ranks
from tests.support.reference import Trajectory, tiny, tokens_of
from tests.support.settled import Batches, Masks, check, padding


def assert_same_bits(strategy: Strategy, masks: Masks | None = None, batches: Batches | None = None) -> None:
    """Five steps with the strategy's recompute and without it: losses, gradients, moments, counts."""
    plain = strategy.model_copy(update={"runtime": tiny().runtime})
    assert plain.runtime.recompute != strategy.runtime.recompute
    found, expected = (run_layout(each, masks, batches=batches) for each in (strategy, plain))
    for what in ("losses", "aux_losses", "z_losses", "norms"):
        assert getattr(found, what) == getattr(expected, what), what
    for mine, theirs in zip(_tensors(found), _tensors(expected), strict=True):
        assert mine.keys() == theirs.keys()
        assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []
    assert expected.losses[0] != expected.losses[-1]


def _tensors(course: Trajectory) -> list[dict[Any, torch.Tensor]]:
    return [*course.gradients, course.final, dict(enumerate(course.expert_tokens))]


@pytest.mark.parametrize("case", recomputed(), ids=str)
def test_the_bits_are_those_of_the_layout_without_it(case: Case) -> None:
    assert case.is_legal
    assert_same_bits(case.strategy, padding(case.strategy) if case.is_padded else None)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in recomputed() if case.precision == "fp32"][:3], ids=str)
def test_it_equals_one_process(case: Case) -> None:
    """As it must where the layout without it does, whose bits these are."""
    check(case.strategy, padding if case.is_padded else None, case.reference)


@pytest.mark.parametrize("recompute", ["layer", "attention"])
def test_packed_documents_and_a_bias_keep_their_bits(recompute: str) -> None:
    """The bias moves after each step, by counts of each route once."""
    strategy = tiny(
        parallel={"ep": 2, "tp": 2, "dp": 2, "zero_stage": 2},
        training__seq_length=8,
        training__global_batch=8,
        training__micro_batch=2,
        training__balance="bias",
        training__bias_update_speed=0.02,
        model__num_experts_per_tok=2,
        runtime__recompute=recompute,
    )
    assert_same_bits(strategy, batches=packed(strategy))


def _exchanges(plan: Plan) -> list[tuple[str, tuple[int, ...]]]:
    """All-to-alls and TP collectives of a forward and backward pass on this rank, as they are issued."""
    from runtime.data.rows import Rows
    from runtime.training.micro_batch import training_batches

    engine, groups = start(plan)
    issued: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> None:
        original = getattr(dist, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            tensor = args[0] if args else kwargs["tensor"]
            kind = "routes" if tensor.dtype == torch.int32 else "counts"
            if tensor.is_floating_point():
                kind = "gates" if tensor.dim() == 1 else "rows"
            issued.append((f"{name} {kind}", tuple(dist.get_process_group_ranks(kwargs["group"]))))
            return original(*args, **kwargs)

        setattr(dist, name, run)

    for name in ("all_to_all_single", "all_reduce"):
        note(name)
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    (batch,) = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    loss, _ = engine(batch, rows.totals())
    engine.backward(loss)
    return issued


@pytest.mark.parametrize(("recompute", "exchanges"), [("layer", 5), ("experts", 4), ("attention", 4)])
def test_exchanges_have_one_order_on_all_ranks(recompute: str, exchanges: int) -> None:
    """`layer` sends rows out again but not back, behind which backward needs nothing; all else goes once."""
    strategy = tiny(
        parallel={"ep": 4, "tp": 2, "zero_stage": 0},
        training__micro_batch=8,
        model__num_experts_per_tok=2,
        model__num_shared_experts=1,
        runtime__recompute=recompute,
    )
    ranks = run_ranks(4, _exchanges, build_plan(strategy))
    names = [[name for name, _ in rank] for rank in ranks]
    assert names.count(names[0]) == 4
    layers = strategy.model.num_hidden_layers
    assert names[0].count("all_to_all_single rows") == exchanges * layers
    assert names[0].count("all_to_all_single routes") == layers
    assert names[0].count("all_to_all_single gates") == layers
    assert names[0].count("all_to_all_single counts") == layers


def test_the_cases_have_every_kind() -> None:
    kinds = {case.recompute for case in recomputed()}
    assert kinds == {"layer", "1", "attention", "experts"}
    assert {case.precision for case in recomputed()} == {"fp32", "bf16"}
    assert all(case != replace(case, recompute="none") for case in recomputed())
