"""Replica check: one flipped bit is found, the tensor named, and the rank where three or more hold it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from planner import Plan, build_plan
from runtime.training.corruption import Corrupted
from runtime.training.held_tensors import held_tensors
from runtime.training.replica_check import check_replicas
from tests.support.layout import start
from tests.support.ranks import kept
from tests.support.reference import tiny

NORM = "model.norm.weight"
EXPERT = "model.layers.0.mlp.experts.down_proj"
HEAD = "lm_head.weight"
WEIGHT, MASTER = "weight", "fp32 master"
Answer = tuple[str, tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]]


def _flip(plan: Plan, kind: str, name: str, flipped: int, folder: Path | None) -> Answer:
    """Flips the last bit of one element on a rank; returns what the check says."""
    engine, groups = start(plan)
    parameters = {n.removeprefix("model."): p for n, p in engine.module.named_parameters()}
    held = {id(p): tensors for p, _, tensors in held_tensors(engine.optimizer)}
    if name and dist.get_rank() == flipped:
        parameter = parameters[name]
        if kind == WEIGHT:
            x = parameter.data
        else:
            x = held[id(parameter)]["weight" if kind == MASTER else kind]
        x.view(-1).view({2: torch.int16, 4: torch.int32}[x.element_size()])[-1] ^= 1
    try:
        check_replicas(engine, groups, 7, folder)
    except Corrupted as error:
        return error.code, tuple((f.what, f.ranks, f.others) for f in error.findings)
    return "", ()


def _plan(precision: str = "fp32", **parallel: int) -> Plan:
    width = parallel.get("dp", 1) * max(parallel.get("ep", 1), parallel.get("tp", 1)) // parallel.get("tp", 1)
    return build_plan(
        tiny(parallel=parallel, training__micro_batch=16 // width, training__precision=precision)
    )


def _answer(plan: Plan, kind: str, name: str, rank: int, folder: Path | None = None) -> Answer:
    """The same on every rank."""
    answers = kept(4).run(_flip, plan, kind, name, rank, folder)
    assert answers == [answers[0]] * 4
    return answers[0]


TP2 = {"ep": 4, "tp": 2, "zero_stage": 0}
TP2_DP2 = {"tp": 2, "dp": 2, "zero_stage": 0}
EP2_DP2 = {"ep": 2, "dp": 2, "zero_stage": 0}
DP4 = {"dp": 4, "zero_stage": 0}


@pytest.mark.parametrize("parallel", [TP2, TP2_DP2, {**TP2_DP2, "zero_stage": 2}], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sound_replicas_pass(parallel: dict[str, int], precision: str) -> None:
    if precision == "bf16" and not parallel["zero_stage"]:
        parallel = {**parallel, "zero_stage": 1}
    assert _answer(_plan(precision, **parallel), WEIGHT, "", 0) == ("", ())


@pytest.mark.parametrize(
    ("parallel", "name", "rank", "ranks", "others"),
    [
        (TP2, NORM, 1, (1,), (0, 2, 3)),  # of all ranks of the stage
        (TP2_DP2, HEAD, 1, (1, 3), ()),  # of two, which hold the same columns
        (EP2_DP2, EXPERT, 2, (0, 2), ()),
        (DP4, EXPERT, 2, (2,), (0, 1, 3)),
    ],
)
def test_a_weight_is_compared_with_its_copies(
    parallel: dict[str, int], name: str, rank: int, ranks: tuple[int, ...], others: tuple[int, ...]
) -> None:
    answer = _answer(_plan(**parallel), WEIGHT, name, rank)
    assert answer == ("SW902", ((f"weight {name}", ranks, others),))


@pytest.mark.parametrize("kind", ["exp_avg", "exp_avg_sq"])
def test_moments_without_zero_have_copies(kind: str) -> None:
    assert _answer(_plan(**DP4), kind, EXPERT, 3) == ("SW902", ((f"{kind} {EXPERT}", (3,), (0, 1, 2)),))


@pytest.mark.parametrize("kind", [MASTER, "exp_avg", "exp_avg_sq"])
def test_what_tp_partners_share_has_copies_under_zero(kind: str) -> None:
    """Both hold the same part of it; the last norm ends a partition."""
    plan = _plan("bf16", **{**TP2_DP2, "zero_stage": 1})
    assert _answer(plan, kind, NORM, 3)[1][0] == (f"{kind} {NORM}", (2, 3), ())


def test_a_bf16_weight_is_compared_with_its_master() -> None:
    """Without any copy; a master's bits below bf16's are in no weight, and not covered."""
    plan = _plan("bf16", ep=4, zero_stage=1)
    found = (f"weight {EXPERT} and its fp32 master", (1,), ())
    assert _answer(plan, WEIGHT, EXPERT, 1) == ("SW902", (found,))
    assert _answer(plan, MASTER, EXPERT, 1) == ("", ())


def test_each_side_s_tensor_is_kept(tmp_path: Path) -> None:
    _answer(_plan(**DP4), WEIGHT, NORM, 2, tmp_path)
    folder = tmp_path / "corruption" / "step-00000007"
    assert sorted(path.name for path in folder.iterdir()) == [
        "rank-0000.safetensors",
        "rank-0002.safetensors",
    ]
    right, wrong = (load_file(folder / f"rank-000{rank}.safetensors")[f"weight {NORM}"] for rank in (0, 2))
    assert (right != wrong).nonzero().tolist() == [[15]]
