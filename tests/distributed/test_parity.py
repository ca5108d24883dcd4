"""Expert parallel layouts train the same model as one process: loss, gradients, norm, updates, moments."""

import pytest

from tests.distributed.reference import tiny
from tests.distributed.settled import check, padding


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("ep", [1, 2, 4])
def test_expert_parallel_equals_one_process(ep: int, zero_stage: int, accumulation: int) -> None:
    dp = 4 // ep
    strategy = tiny(
        parallel={"ep": ep, "dp": dp, "zero_stage": zero_stage},
        training__micro_batch=16 // 4 // accumulation,
    )
    check(strategy)


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
    strategy = tiny(parallel={"ep": 2, "dp": 2, "zero_stage": zero_stage}, training__micro_batch=2, **changes)
    check(strategy)


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_padding_equals_one_process(zero_stage: int) -> None:
    strategy = tiny(
        parallel={"ep": 4, "dp": 1, "zero_stage": zero_stage},
        training__micro_batch=2,
        model__num_experts_per_tok=2,
    )
    check(strategy, padding)


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
        check(stock, reference=plain)
