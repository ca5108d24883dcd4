"""A gradient that is not finite in one stage makes the ranks of all stages skip the same step."""

from typing import Any

import pytest

from planner import build_plan
from tests.distributed.test_overflow import three_steps
from tests.support.ranks import run_ranks
from tests.support.reference import tiny

# (rank, a parameter of its stage) in 2 + 4 + 2 ranks
STAGES = {
    "embedding": (1, "model.model.embed_tokens.weight"),
    "experts": (3, "model.model.layers.1.mlp.experts.up_proj"),
    "aggregation": (6, "model.lm_head.weight"),
}


@pytest.mark.parametrize(("precision", "zero_stage"), [("fp32", 0), ("fp32", 1), ("bf16", 1), ("bf16", 2)])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_skips(stage: str, precision: str, zero_stage: int) -> None:
    parallel = {"placement": "staged", "ep": 4, "tp": 2, "zero_stage": zero_stage}
    changes: dict[str, Any] = {"training__precision": precision, "training__micro_batch": 4}
    if precision == "bf16":
        changes["training__micro_batch"] = 2  # accumulation, so ZeRO 1 is given as ZeRO 2
    plan = build_plan(tiny(parallel=parallel, **changes))
    results = run_ranks(plan.world_size, three_steps, plan, STAGES[stage][0], float("nan"), STAGES[stage][1])
    for result in results:
        assert result["skipped"] == [False, True, False]
        assert result["unchanged"] == [False, True, False]
        assert result["finite"]
        assert result["optimizer_steps"] == 2
    assert len({tuple(result["norms"][::2]) for result in results}) == 1
