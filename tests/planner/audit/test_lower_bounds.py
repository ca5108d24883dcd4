"""Lower bounds by hand: bytes of rows that are sent in the activations' dtype, and as FP8 with a scale."""

import pytest

from planner import build_plan
from planner.audit.lower_bounds import (
    all_reduce_bytes,
    all_to_all_layer_bytes,
    link_bytes_per_s,
    links_bound,
    stage_p2p_bytes,
)
from planner.audit.verdicts import AuditContext
from planner.prediction.predict import predict
from tests.support.examples import strategy

# 1024 elements a row: bf16; one byte each and a scale of 4 bytes; fp8 at best
ROWS = {"bf16": 2048, "payload": 1028, "fp8": 1024}
OVERRIDES = {
    "bf16": (),
    "payload": ("runtime.fp8_payload=true",),
    "fp8": ("training.precision=fp8", "cluster.gpu=H100"),
}


def context_of(*overrides: str) -> AuditContext:
    plan = build_plan(strategy(*overrides))
    return AuditContext(plan=plan, prediction=predict(plan), claims=())


@pytest.mark.parametrize("kind", ROWS)
def test_an_all_to_all_sends_three_quarters_of_the_rows(kind: str) -> None:
    """32 sequences of each of 4 expert ranks, one after the other, 1024 rows each."""
    context = context_of("parallel.ep=4", *OVERRIDES[kind])
    assert all_to_all_layer_bytes(context) == 32 * 1024 * ROWS[kind] * 3 / 4


@pytest.mark.parametrize("kind", ["bf16", "payload"])
def test_a_stage_sends_every_row_once(kind: str) -> None:
    """128 sequences of 1024 rows from one rank to the next stage."""
    context = context_of("parallel.pp=2", *OVERRIDES[kind])
    assert stage_p2p_bytes(context, context.plan.stages[0]) == 128 * 1024 * ROWS[kind]


def test_sums_over_tp_stay_in_the_dtype_of_the_activations() -> None:
    """2 (tp - 1) / tp = 1 of 128 sequences of 1024 rows of 2048 bytes."""
    context = context_of("parallel.tp=2", "runtime.fp8_payload=true")
    assert all_reduce_bytes(context, context.plan.stages[0]) == 128 * 1024 * 2048


def test_the_time_over_the_links_is_that_of_the_bytes() -> None:
    """16 MoE layers, there and back, over 100 Gbps."""
    context = context_of("parallel.ep=4", "runtime.fp8_payload=true")
    sent = 2 * 16 * 32 * 1024 * 1028 * 3 / 4
    assert link_bytes_per_s(context) == 12.5e9
    assert links_bound(context, context.plan.stages[0]).seconds == pytest.approx(sent / 12.5e9)
