"""Seconds of the collectives inside one pass of one micro-batch: experts' all-to-all, TP partners' sums."""

from planner.counts.rank_workload import Portion
from planner.plan.plan import Plan
from planner.timing import collective_time, op_overhead
from planner.timing.collective_time import Network, spread_of
from planner.topology.placement import Stage


def num_layers(plan: Plan, stage: Stage) -> tuple[int, int]:
    """Dense ones and MoE ones."""
    dense = sum(layer < plan.strategy.model.first_dense_layers for layer in stage.layers)
    return dense, len(stage.layers) - dense


def dispatched_bytes(plan: Plan, p: Portion, *, is_backward: bool = False) -> float:
    """Rows that a rank sends to all experts in one layer, its own included; FP8 rows carry a 4-byte scale."""
    hidden = p.model.hidden_size
    if plan.strategy.runtime.fp8_payload and not is_backward:
        return p.sent * (hidden + 4.0)
    return float(p.sent * hidden * p.element_bytes)


def all_to_all_s(plan: Plan, stage: Stage, p: Portion, network: Network, *, is_backward: bool) -> float:
    """Rows there and back in each MoE layer; in the forward pass their counts too."""
    if p.ep == 1 or stage.expert is None:
        return 0.0
    spread = spread_of(stage.expert, "ep", network.host_size)
    hierarchical = plan.strategy.runtime.all_to_all == "hierarchical"
    # What the fullest rank gets takes as much longer as it is more than what a rank sends.
    num_bytes = dispatched_bytes(plan, p, is_backward=is_backward) * max(1.0, p.received / max(1, p.sent))
    seconds = 2 * collective_time.all_to_all_s(num_bytes, spread, network, hierarchical=hierarchical)
    if not is_backward:
        seconds += collective_time.all_to_all_s(
            8 * p.model.num_experts, spread, network, hierarchical=hierarchical
        )
    return num_layers(plan, stage)[1] * seconds


def tensor_parallel_s(plan: Plan, stage: Stage, p: Portion, network: Network) -> tuple[float, float]:
    """Forward and backward collectives between TP partners, as model/ makes them."""
    if p.tp == 1:
        return 0.0, 0.0
    spread = spread_of(stage.dense, "tp", network.host_size)
    whole = p.tokens * p.model.hidden_size * p.element_bytes
    total = collective_time.all_reduce_s(whole, spread, network)
    forward, backward = layer_sums_s(plan, stage, p, network)
    if stage.contents.embedding:
        forward += total
    if stage.contents.output:
        num_chunks = op_overhead.chunks(p)
        chunk = 3 * 4 * p.tp * p.tokens / num_chunks
        forward += num_chunks * collective_time.all_gather_s(chunk, spread, network)
        backward += total
        if p.model.aggregation == "linear":
            forward += total
    return forward, backward


def layer_sums_s(plan: Plan, stage: Stage, p: Portion, network: Network) -> tuple[float, float]:
    if p.tp == 1 or not stage.layers:
        return 0.0, 0.0
    dense, moe = num_layers(plan, stage)
    spread = spread_of(stage.dense, "tp", network.host_size)
    whole = p.tokens * p.model.hidden_size * p.element_bytes
    total = collective_time.all_reduce_s(whole, spread, network)
    gather = collective_time.all_gather_s(whole, spread, network)
    router = collective_time.all_reduce_s(p.model.num_experts * p.model.hidden_size * 4, spread, network)
    sums = dense + moe + dense + (moe if p.model.num_shared_experts else 0)  # attention, MLPs
    forward = sums * total + moe * gather
    backward = sums * total + moe * (gather + router)
    if p.model.qk_norm == "projection":
        small = 2 * (dense + moe) * collective_time.all_reduce_s(4 * p.tokens, spread, network)
        forward, backward = forward + small, backward + small
    elif p.model.qk_norm == "head":
        backward += 2 * (dense + moe) * collective_time.all_reduce_s(4 * p.model.head_dim, spread, network)
    return forward, backward
