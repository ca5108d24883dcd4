"""Faults to inject into a rank: each is one realistic mistake in one place of the product.

A fault is called in every forked rank before its groups are made, and dies with the rank.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from torch import Tensor

Fault = Callable[[], None]


def unreduced(axis: str) -> Fault:
    """DeepSpeed's all-reduce of gradients does nothing over the group of `axis`: "data" or "edp"."""

    def fault() -> None:
        import deepspeed.comm

        all_reduce = deepspeed.comm.all_reduce

        def without(tensor: Tensor, *args: Any, group: Any = None, **kwargs: Any) -> Any:
            from deepspeed.utils import groups as theirs

            if theirs.mpu is not None:
                edp = next(iter(theirs._EXPERT_DATA_PARALLEL_GROUP.values()))
                broken = {"data": theirs.mpu.get_data_parallel_group(), "edp": edp}
                assert broken["data"] is not broken["edp"], "this layout cannot tell the two apart"
                if group is broken[axis]:
                    return None
            return all_reduce(tensor, *args, group=group, **kwargs)

        deepspeed.comm.all_reduce = without

    return fault


def averaged() -> None:
    """DeepSpeed divides the sum of gradients by the ranks, as it does by default."""
    import runtime.training.engine as product

    ds_config = product.ds_config
    product.ds_config = lambda plan: ds_config(plan) | {"gradient_allreduce_op": "mean"}


def uncopied() -> None:
    """The gradient that enters tensor-parallel attention is not summed over the partners."""
    import model.attention as product

    product.copy_to_tp = lambda x, group: x


def unsummed_routers() -> None:
    """The partners keep the router gradients of their own share of the tokens."""
    import model.router as product

    product.sum_gradients = lambda weight, group: weight


def both_partners_compute() -> None:
    """TP partners dispatch all of their common tokens instead of a share each."""
    import model.moe
    import model.router

    model.moe.split_to_tp = lambda x, group, dim=0: x
    model.router.share_of = lambda size, group: (0, size)
    model.moe.gather_from_tp = lambda x, size, group, dim=0: x


def permuted_experts() -> None:
    """A rank holds the experts of another rank of its expert group than the one tokens are sent to."""
    import tests.support.layout as place

    make_groups = place.make_groups

    def permuted(*args: Any) -> Any:
        groups = make_groups(*args)
        other = replace(groups.ep, rank=groups.ep.size - 1 - groups.ep.rank)
        return replace(groups, model=replace(groups.model, ep=other))

    place.make_groups = permuted


def doubled_loss() -> None:
    """The loss is scaled by two before the backward pass."""
    import runtime.training.training_model as product

    forward = product.TrainingModel.forward

    def doubled(self: Any, *args: Any) -> Any:
        loss, sums = forward(self, *args)
        return 2 * loss, sums

    product.TrainingModel.forward = doubled


def local_balance() -> None:
    """B is a mean over the rank's own sequences, and summed over the ranks."""
    import runtime.training.training_model as product

    forward = product.TrainingModel.forward

    def local(self: Any, batch: Any, totals: Any, micro_batch: int = 0) -> Any:
        return forward(self, batch, replace(totals, num_sequences=batch.num_sequences), micro_batch)

    product.TrainingModel.forward = local


def experts_count(times: int) -> Fault:
    """The norm counts the experts' squares so many times: 0 or 2."""

    def fault() -> None:
        import runtime.training.engine as product
        from runtime.training.grad_norm import is_expert

        replicas = product.replicas

        def wrong(parameter: Tensor, groups: Any, *, partitioned: bool) -> float:
            copies = replicas(parameter, groups, partitioned=partitioned)
            if not is_expert(parameter):
                return copies
            return copies / times if times else float("inf")

        product.replicas = wrong

    return fault


def local_norm() -> None:
    """Every rank clips by the norm of what it holds itself."""
    import runtime.training.grad_norm as product

    product.dist = SimpleNamespace(all_reduce=lambda square: None)


def another_seed(rank: int | None) -> Fault:
    """The layout, or one rank of it, starts from other weights."""

    def fault() -> None:
        import tests.support.layout as place

        build_model = place.build_model

        def other(plan: Any, *args: Any) -> Any:
            if rank in (None, dist.get_rank()):
                training = plan.strategy.training
                training = training.model_copy(update={"seed": training.seed + 1})
                plan = replace(plan, strategy=plan.strategy.model_copy(update={"training": training}))
            return build_model(plan, *args)

        place.build_model = other

    return fault
