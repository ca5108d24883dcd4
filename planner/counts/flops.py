"""The face of all exact counts: parameters of the model and of a rank, work of a stage, FLOPs of a step."""

from dataclasses import dataclass
from functools import lru_cache

from planner.counts.module_flops import Gemm, Work, stage_work
from planner.counts.parameters import (
    ParameterCounts,
    ParameterTensor,
    count_parameters,
    parameters_of,
    stage_parameters,
    whole_model,
)
from planner.counts.rank_workload import BALANCED, Load, Portion, portion
from planner.plan.plan import Plan
from planner.strategy.schema import ModelShape

__all__ = [
    "BALANCED",
    "Flops",
    "Gemm",
    "Load",
    "ParameterCounts",
    "ParameterTensor",
    "Portion",
    "Work",
    "count_parameters",
    "executed_flops",
    "model_flops",
    "model_parameters",
    "portion",
    "rank_parameters",
    "stage_parameters",
    "stage_work",
    "token_flops",
]


@dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs of matrix products in one training step, over all ranks."""

    forward: int
    backward: int
    recompute: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.recompute


def model_parameters(model: ModelShape) -> ParameterCounts:
    """The whole model's parameters by kind, and how many of them one token meets."""
    return count_parameters(model, whole_model(model))


def rank_parameters(plan: Plan, rank: int) -> tuple[ParameterTensor, ...]:
    """Each parameter that this rank holds, in the order of its module's `named_parameters`."""
    return parameters_of(plan, rank)


@lru_cache(maxsize=256)
def token_flops(model: ModelShape, seq_length: int) -> int:
    """Forward FLOPs a token, attention counted as causal: what the mathematics asks, whatever the layout."""
    counts = model_parameters(model)
    # Every active matrix element is one multiplication and one addition; a lookup and a norm are none.
    matrices = counts.active - counts.embedding - counts.norms
    attention = 2 * model.num_attention_heads * model.head_dim * (seq_length + 1)  # 4 · (S+1)/2 pairs
    return 2 * matrices + model.num_hidden_layers * attention


def model_flops(plan: Plan) -> Flops:
    """What one step asks of any machine, for MFU: no recompute, no padding, each token routed once.

    Capacity does not lower it: a dropped token was asked for.
    """
    training = plan.strategy.training
    tokens = training.global_batch * training.seq_length
    forward = token_flops(plan.strategy.model, training.seq_length) * tokens
    return Flops(forward=forward, backward=2 * forward)


def executed_flops(plan: Plan, load: Load = BALANCED) -> Flops:
    """What the ranks compute in one step: with recompute, fused attention's repeated scores, the routes that
    every TP partner decides, stock dispatch's einsums and padding.

    `load` above balanced counts every rank as if it were the fullest.
    """
    forward = backward = recompute = 0
    for stage in plan.stages:
        times = stage.dense.size("data") * stage.dense.size("tp") * plan.batch.accumulation
        for work in stage_work(plan, stage, load):
            forward += times * work.flops_forward
            backward += times * work.flops_backward
            recompute += times * work.flops_recompute
    return Flops(forward=forward, backward=backward, recompute=recompute)
