"""Claims about a model's size and work, as model cards and papers state them."""

import pytest

from planner import build_plan
from planner.audit.audit import audit
from planner.audit.verdicts import FAILS, HOLDS, IMPOSSIBLE
from planner.prediction.predict import predict
from tests.support.examples import strategy

# Of tests.support.examples.TEXT by hand: D = 1024, F = 2048, V = 4096, 16 layers, 64 experts of two matrices.
#   a layer without experts: 4 D² + 64 D (router) + 2 D (norms) = 4,261,888; an expert: 2 D F = 4,194,304
#   all: 2 V D + 16 (4,261,888 + 64 × 4,194,304) + D = 4,371,547,136; active: 143,688,704
#   forward FLOP a token: 2 (active - V D - 33 D) + 16 × 4 D × 1025 / 2 = 312,508,416; 131,072 tokens a step


@pytest.mark.parametrize(
    ("quantity", "stated", "verdict"),
    [
        ("parameters", "4.37B", HOLDS),
        ("parameters", "4371547136", HOLDS),
        ("parameters", "4.3B", FAILS),
        ("active_parameters", "143.7M", HOLDS),
        ("active_parameters", "144M", HOLDS),
        ("active_parameters", "150M", FAILS),
        ("forward_flops_per_token", "312.5 MFLOP", HOLDS),
        ("training_flops_per_token", "0.9375 GFLOP", HOLDS),
        ("training_flops_per_token", "0.8621 GFLOPs", FAILS),  # 6 N
        ("flops_per_step", "122.9 TFLOP", HOLDS),
        ("flops_per_step", "123 PFLOP", FAILS),
        ("mfu", "0.1 %", HOLDS),
        ("mfu", "99 %", FAILS),
        ("mfu", "101 %", IMPOSSIBLE),
        ("step_time", "1 h", HOLDS),
        ("step_time", "1 us", IMPOSSIBLE),
    ],
)
def test_verdict_of_a_stated_figure(quantity: str, stated: str, verdict: str) -> None:
    claim = f"{{quantity: {quantity}, value: {stated}, where: the paper}}"
    plan = build_plan(strategy("parallel.ep=64", f"claims=[{claim}]"))
    (finding,) = audit(plan, predict(plan)).findings
    assert finding.verdict == verdict, finding.derivations


def test_mfu_is_the_models_work_over_the_peak() -> None:
    claim = "{quantity: mfu, value: 10 %, where: the paper}"
    plan = build_plan(strategy("parallel.ep=64", f"claims=[{claim}]"))
    prediction = predict(plan)
    (finding,) = audit(plan, prediction).findings
    by_hand = 3 * 312_508_416 * 131_072 / prediction.step_s / (plan.world_size * 400e12)
    assert finding.derived.value == pytest.approx(by_hand, rel=1e-9)
