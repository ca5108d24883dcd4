"""FLOPs of a training step: of the model, for MFU, and as the ranks execute them, for HFU."""

from dataclasses import dataclass
from functools import lru_cache

from planner.counts.module_flops import stage_modules
from planner.counts.parameters import model_parameters
from planner.counts.rank_workload import BALANCED, ExpertImbalance
from planner.counts.replays import replays_per_step
from planner.plan.plan import Plan
from planner.strategy.schema import ModelShape


@dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs of matrix products in one training step, over all ranks."""

    forward: int
    backward: int
    recompute: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.recompute


@lru_cache(maxsize=256)
def token_flops(model: ModelShape, seq_length: int) -> int:
    """Forward FLOPs a token, attention counted as causal: what the mathematics asks, whatever the layout."""
    return _matrix_flops(model) + _pair_flops(model) * (seq_length + 1) // 2


def batch_flops(model: ModelShape, num_tokens: int, num_pairs: int) -> Flops:
    """FLOPs of a batch with so many tokens and pairs of a token and one that it attends to, in one layer."""
    forward = _matrix_flops(model) * num_tokens + _pair_flops(model) * num_pairs
    return Flops(forward=forward, backward=2 * forward)


def _matrix_flops(model: ModelShape) -> int:
    """Of a token: for each active matrix element a multiplication and an addition; no lookup, no norm."""
    counts = model_parameters(model)
    return 2 * (counts.active - counts.embedding - counts.norms)


def _pair_flops(model: ModelShape) -> int:
    """Of a pair, in all layers: its score, and its share of the weighted sum of values."""
    return 4 * model.num_attention_heads * model.head_dim * model.num_hidden_layers


def model_flops(plan: Plan) -> Flops:
    """What one step asks of any machine, for MFU: no recompute, no padding, each token routed once.

    Capacity does not lower it: a dropped token was asked for. With data.packing documents it is an upper
    bound, one document a sequence: what a step asks depends on the data, and is in the run's telemetry.
    """
    training = plan.strategy.training
    tokens = training.global_batch * training.seq_length
    forward = token_flops(plan.strategy.model, training.seq_length) * tokens
    return Flops(forward=forward, backward=2 * forward)


def executed_flops(plan: Plan, imbalance: ExpertImbalance = BALANCED) -> Flops:
    """What the ranks compute in one step: with recompute, fused attention's repeated scores, the routes that
    every TP partner decides, stock dispatch's einsums and padding, and micro-batches that are computed twice.

    `load` above balanced counts every rank as if it were the fullest.
    """
    forward = backward = recompute = 0
    replays = replays_per_step(plan)
    for stage in plan.stages:
        times = stage.dense.size("data") * stage.dense.size("tp") * plan.batch.accumulation
        for work in stage_modules(plan, stage, imbalance):
            forward += times * work.flops_forward
            backward += times * work.flops_backward
            recompute += times * work.flops_recompute
            if replays:
                again = work.flops_forward + work.flops_backward + work.flops_recompute
                recompute += round(replays / plan.batch.accumulation * times * again)
    return Flops(forward=forward, backward=backward, recompute=recompute)
