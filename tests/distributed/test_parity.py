"""Expert parallel layouts train the same model as one process: loss, gradients, norm, updates, moments."""

from functools import cache

import numpy as np
import pytest

from planner import Strategy
from tests.distributed.equality import assert_equal
from tests.distributed.layout import run_layout
from tests.distributed.ranks import run_ranks
from tests.distributed.reference import STEPS, Course, run_reference, tiny


@cache
def _reference(strategy_json: str, masked: bool) -> Course:
    strategy = Strategy.model_validate_json(strategy_json)
    return run_ranks(1, run_reference, strategy, _masks(strategy) if masked else None)[0]


def reference(strategy: Strategy, masked: bool = False) -> Course:
    """One process, computed once for all layouts of a model (the layout itself does not enter)."""
    plain = strategy.model_copy(update={"parallel": tiny().parallel})
    training = plain.training.model_copy(update={"micro_batch": 1})
    return _reference(plain.model_copy(update={"training": training}).model_dump_json(), masked)


def _masks(strategy: Strategy) -> dict[int, np.ndarray]:
    """Right padding of every length, from none to the whole sequence."""
    training = strategy.training
    draw = np.random.default_rng(5)
    lengths = draw.integers(0, training.seq_length + 1, (STEPS, training.global_batch))
    lengths[:, :3] = [0, training.seq_length, 1]
    positions = np.arange(training.seq_length)
    return {step: positions < lengths[step][:, None] for step in range(STEPS)}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("ep", [1, 2, 4])
def test_expert_parallel_equals_one_process(ep: int, zero_stage: int, accumulation: int) -> None:
    dp = 4 // ep
    strategy = tiny(
        parallel={"ep": ep, "dp": dp, "zero_stage": zero_stage},
        training__micro_batch=16 // 4 // accumulation,
    )
    assert_equal(run_layout(strategy), reference(strategy))


@pytest.mark.parametrize(
    "changes",
    [
        {"model__num_experts_per_tok": 2},
        {"model__num_experts_per_tok": 3, "model__norm_topk_prob": False},
        {"model__expert": "swiglu", "model__num_shared_experts": 1},
        {"model__dispatch": "capacity", "model__capacity_factor": 1.0, "model__num_experts_per_tok": 2},
        {"model__first_dense_layers": 1, "model__intermediate_size": 32, "model__num_key_value_heads": 2},
        {"model__qk_norm": "head", "model__aggregation": "none", "model__hidden_act": "gelu"},
        {"training__gradient_clipping": 0.0},
    ],
    ids=lambda c: "-".join(f"{k.split('__')[1]}={v}" for k, v in c.items()),
)
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_model_variants_equal_one_process(changes: dict[str, object], zero_stage: int) -> None:
    strategy = tiny(
        parallel={"ep": 2, "dp": 2, "zero_stage": zero_stage}, training__micro_batch=2, **changes
    )
    assert_equal(run_layout(strategy), reference(strategy))


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_padding_equals_one_process(zero_stage: int) -> None:
    strategy = tiny(
        parallel={"ep": 4, "dp": 1, "zero_stage": zero_stage},
        training__micro_batch=2,
        model__num_experts_per_tok=2,
    )
    assert_equal(run_layout(strategy, _masks(strategy)), reference(strategy, masked=True))


def test_stock_dispatch_equals_one_process() -> None:
    """DeepSpeed's own MOELayer and gate over the same weights; the reference is our dropless layer."""
    changes = {"training__balance_loss": 0.0, "training__z_loss": 0.0}
    for top_k in (1, 2):
        stock = tiny(
            parallel={"ep": 4, "zero_stage": 1},
            training__micro_batch=2,
            model__dispatch="deepspeed",
            model__num_experts_per_tok=top_k,
            **changes,
        )
        plain = tiny(model__num_experts_per_tok=top_k, **changes)
        assert_equal(run_layout(stock), reference(plain))
