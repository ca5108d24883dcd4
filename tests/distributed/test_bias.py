"""Loss-free balancing: the same expert bias in every layout, from the counts of the global batch."""

import pytest
import torch

from runtime.training.expert_bias import update_expert_bias
from runtime.training.training_model import TrainingModel
from tests.distributed.test_parity import check
from tests.support.ranks import run_ranks
from tests.support.reference import run_reference, tiny

BIAS = {"training__balance": "bias", "training__bias_update_speed": 0.02}


@pytest.mark.parametrize(
    ("degrees", "zero_stage", "accumulation"),
    [
        ({"ep": 4}, 0, 1),
        ({"ep": 2, "dp": 2}, 2, 2),
        ({"ep": 4, "tp": 2}, 1, 2),
        ({"ep": 1, "tp": 2, "dp": 2}, 2, 1),
        ({"ep": 2, "tp": 4}, 0, 2),
    ],
    ids=str,
)
def test_bias_equals_one_process(degrees: dict[str, int], zero_stage: int, accumulation: int) -> None:
    ep, tp, dp = (degrees.get(axis, 1) for axis in ("ep", "tp", "dp"))
    width = dp * max(ep, tp) // tp
    check(
        tiny(
            parallel=degrees | {"zero_stage": zero_stage},
            training__micro_batch=16 // width // accumulation,
            model__num_experts_per_tok=2,
            **BIAS,
        )
    )


def test_the_bias_moves_every_step_and_evens_the_load() -> None:
    """With a bias that acts fast, the spread of the load is smaller than without one, on the same tokens."""

    def spread(strategy_changes: dict[str, object]) -> list[float]:
        course = run_ranks(1, run_reference, tiny(training__learning_rate=1e-9, **strategy_changes))[0]
        return [counts.double().std(-1).mean().item() for counts in course.expert_tokens]

    steered, free = spread(BIAS), spread({"training__balance_loss": 0.0})
    assert steered[0] == free[0]
    assert steered[-1] < 0.8 * free[-1]


def test_expert_bias_update_by_hand() -> None:
    strategy = tiny(**BIAS)
    from model.modeling_switchyard import SwitchyardForCausalLM
    from planner import build_plan
    from runtime.parallel.pipeline_p2p import P2PChannels
    from runtime.training.training_model import model_config

    (stage,) = build_plan(strategy).stages
    channels = P2PChannels(place=0, num_stages=1, incoming=None, outgoing=None)
    module = TrainingModel(SwitchyardForCausalLM(model_config(strategy)), strategy.training, stage, channels)
    counts = torch.tensor([[4, 0, 2, 2, 2, 2, 2, 2], [9, 1, 0, 0, 0, 0, 0, 0]])
    assert module.bias_update_speed == 0.02
    update_expert_bias(module, counts, module.bias_update_speed)
    first, second = (module.model.model.layers[str(layer)].mlp.router.bias for layer in (0, 1))
    assert first.tolist() == pytest.approx([-0.02, 0.02, 0, 0, 0, 0, 0, 0])
    assert second.tolist() == pytest.approx([-0.02, 0.02] + [0.02] * 6)
    assert module.aux_loss_coef == 0.0
