"""DeepSpeed engine of one rank, with the workarounds for DeepSpeed 0.19.8 in one place.

Each workaround names the line it works around; tests/distributed/test_upstream.py fails when upstream has
fixed it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.moe.layer import MoE as DeepSpeedMoE
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero import stage_1_and_2
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor, nn

from model.moe import MoELayer
from model.observers import Clock
from planner import Plan
from planner.plan.ds_config import ds_config, sums_locally
from runtime.parallel.deepspeed_groups import check_deepspeed, give_to_deepspeed
from runtime.parallel.groups import RankGroups
from runtime.training.aligned_adamw import align
from runtime.training.grad_norm import clip_divisor, global_norm, replicas
from runtime.training.gradient_sums import GradientSums
from runtime.training.lean_zero import make_lean
from runtime.training.overlapped_reductions import OverlappedReductions


class EngineMoE(MoELayer, DeepSpeedMoE):  # type: ignore[misc]  # DeepSpeed has no types
    """Our MoE layer as a DeepSpeed MoE: the engine finds experts by isinstance only (engine.py:2102).

    Layers get this class after they are built, so that model/ does not import DeepSpeed. It adds no state and
    no parameter, and MoELayer comes first, so DeepSpeed's constructor and forward are never used.
    """

    def set_deepspeed_parallelism(self, use_data_before_expert_parallel_: bool = False) -> None:
        """Nothing: the groups are the plan's already (runtime.parallel.deepspeed_groups)."""


def make_engine(module: nn.Module, plan: Plan, groups: RankGroups, clock: Clock) -> DeepSpeedEngine:
    """The engine of `module` and `plan`. Collective over the plan's world.

    Raises:
        runtime.parallel.deepspeed_groups.GroupMismatch: if DeepSpeed's groups differ from the plan's.
    """
    # DeepSpeed would compile a CPU op under a lock at the first start (comm/torch.py:49): a killed build
    # hangs every later run, and a machine without a compiler cannot start. gloo does the same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    grid = give_to_deepspeed(groups)
    for layer in module.modules():
        if type(layer) is MoELayer:
            layer.__class__ = EngineMoE
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=parameter_groups(module, plan.strategy.training.optimizer.weight_decay),
        config=ds_config(plan),
        mpu=grid,
    )
    check_deepspeed(groups)
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer):
        make_lean(engine.optimizer)
    else:
        if engine.device.type == "cpu":
            align(engine.optimizer)
        _reduce_with_peers_only(engine, groups)
    _use_exact_norm(engine, groups, plan.strategy.training.gradient_clipping)
    if plan.strategy.runtime.overlap_reduce:
        OverlappedReductions(engine, groups)
    _time_reductions(engine, clock)
    if sums_locally(plan):
        GradientSums(engine)
    return engine


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: matrices with weight decay; norms, embeddings and biases without.

    DeepSpeed splits experts off by itself.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (kept if parameter.dim() < 2 or "embed_tokens" in name else decayed).append(parameter)
    groups = [
        {"name": "decayed", "params": decayed, "weight_decay": weight_decay},
        {"name": "kept", "params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _use_exact_norm(engine: DeepSpeedEngine, groups: RankGroups, limit: float) -> None:
    """One norm, one clipping and one decision on overflow for all ranks, whatever the ZeRO stage.

    The norm is reduced over the world and is not finite when any rank's gradient is not, so every rank
    skips the same step without a further collective.
    """
    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer):

        def held() -> Iterator[tuple[Tensor, int]]:
            for index in range(len(optimizer.bit16_groups)):
                parts = (
                    g for g in optimizer.averaged_gradients[index] if not getattr(g, "_zero_padding", False)
                )
                # Not strict: a partition that its parameters do not fill ends in zeros, unmarked
                # (stage_1_and_2.py:2838), and one without parameters is all zeros.
                for gradient, parameter in zip(parts, optimizer.params_in_partition[index], strict=False):
                    yield gradient, replicas(parameter, groups, partitioned=True)

        # It is the check for overflow too: DeepSpeed's own sees its stage only (stage_1_and_2.py:3237).
        optimizer.scaled_global_norm = lambda norm_type=2: global_norm(held(), engine.device)
        return

    def clip() -> None:
        gradients = [(p.grad, replicas(p, groups, partitioned=False)) for p in engine.module.parameters()]
        norm = global_norm(gradients, engine.device)
        engine._global_grad_norm = norm
        if torch.isfinite(norm):
            # torch's fused optimizers divide by it as they read a gradient.
            optimizer.grad_scale = clip_divisor(norm, limit)
        else:
            # torch's optimizers skip parameters without a gradient, and so this step.
            for parameter in engine.module.parameters():
                parameter.grad = None

    take_step = engine._take_model_step

    def clip_and_step(lr_kwargs: dict[str, Any] | None = None) -> None:
        clip()
        take_step(lr_kwargs)

    # DeepSpeed's own clipping, called inside the step, has a wrong norm (runtime/utils.py:413).
    engine.clip_fp32_gradients = lambda: None
    engine._take_model_step = clip_and_step


def _reduce_with_peers_only(engine: DeepSpeedEngine, groups: RankGroups) -> None:
    """Without ZeRO: gradients that no other rank has are not flattened, reduced and copied back, as DeepSpeed
    0.19.8 does (engine.py:3825)."""
    gradients_for_reduction = engine._get_gradients_for_reduction

    def with_peers() -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        dense, experts = gradients_for_reduction()
        return (
            dense if groups.data.size > 1 else [],
            experts if groups.edp.size > 1 else {name: [] for name in experts},
        )

    engine._get_gradients_for_reduction = with_peers


def _time_reductions(engine: DeepSpeedEngine, clock: Clock) -> None:
    """Times DeepSpeed's gradient reductions and ZeRO's weight gathers as `gradient_reduce`."""

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            phase: AbstractContextManager[None] = clock.phase("gradient_reduce")
            with phase:
                return call(*args, **kwargs)

        return run

    engine.allreduce_gradients = timed(engine.allreduce_gradients)
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer):
        engine.optimizer.reduce_ipg_grads = timed(engine.optimizer.reduce_ipg_grads)
        gather = getattr(stage_1_and_2.all_gather_dp_groups, "untimed", stage_1_and_2.all_gather_dp_groups)
        stage_1_and_2.all_gather_dp_groups = timed(gather)
        stage_1_and_2.all_gather_dp_groups.untimed = gather
