"""Seconds of the collectives inside one pass of one micro-batch: the all-to-all of experts, sums over TP."""

from planner.counts.payload import payload_bytes
from planner.counts.rank_workload import RankWorkload
from planner.plan.plan import Plan
from planner.timing import collective_time, op_sizes
from planner.timing.float8_collectives import Maxima, attention_maxima, layer_maxima, output_maxima
from planner.timing.stage_cost import StageCost
from planner.topology.group_placement import GroupPlacement

_GATE_BYTES = 4  # of a route: fp32, and so is its gradient
_ROUTE_BYTES = _GATE_BYTES + 4  # the gate, and which expert


def dispatched_bytes(plan: Plan, p: RankWorkload) -> float:
    """Rows that a rank sends to all ranks in one layer, itself included, and gradients back."""
    return float(payload_bytes(plan.strategy, p.sent_rows * p.model.hidden_size, p.sent_rows))


def all_to_all_s(cost: StageCost, *, is_backward: bool, is_again: bool = False) -> float:
    """Rows there and back in each MoE layer; in the forward pass counts before, and routes with their gates;
    in backward the gates' gradients.

    `is_again`: the second pass over a recomputed layer, which stops before rows go back and has the routes.
    """
    p = cost.workload
    if p.ep == 1 or cost.stage.expert is None:
        return 0.0
    placement, network = cost.placement("ep"), cost.network
    hierarchical = cost.plan.strategy.runtime.all_to_all == "hierarchical"
    # The fullest rank takes as many times longer as it receives more than a rank sends.
    fullest = max(1.0, p.received_rows / max(1, p.sent_rows))
    num_bytes = dispatched_bytes(cost.plan, p) * fullest
    once = collective_time.all_to_all_s(num_bytes, placement, network, hierarchical=hierarchical)
    seconds = once if is_again else 2 * once
    small = []
    if p.model.dispatch != "deepspeed" and not is_again:  # there the gates stay at home
        routes = max(p.sent, p.received)
        small.append((_GATE_BYTES if is_backward else _ROUTE_BYTES) * routes)
    if not is_backward and not is_again:
        most = min(p.model.num_experts_per_tok, p.model.num_experts // p.ep)
        small.append(8 * p.ep * (p.model.num_experts // p.ep if p.model.dispatch == "deepspeed" else most))
    for extra in small:
        seconds += collective_time.all_to_all_s(extra, placement, network)  # flat, as small as they are
    if hierarchical and not is_backward and placement.remote_peers and placement.local > 1:
        # Each exchange of rows forward begins by telling the members of the host how many rows they pass on.
        inside = GroupPlacement(size=placement.local, local=placement.local, hosts=1)
        seconds += (1 if is_again else 2) * collective_time.all_to_all_s(8 * p.ep, inside, network)
    return cost.num_layers[1] * seconds


def tensor_parallel_s(cost: StageCost) -> tuple[float, float]:
    """Forward and backward collectives between TP partners, as model/ issues them."""
    p, stage, network = cost.workload, cost.stage, cost.network
    if p.tp == 1:
        return 0.0, 0.0
    placement = cost.placement("tp")
    total = collective_time.all_reduce_s(cost.hidden_bytes, placement, network)
    forward, backward = layer_sums_s(cost)
    if stage.contents.embedding:
        forward += total
    if stage.contents.output:
        num_chunks = op_sizes.num_head_chunks(p)
        chunk = 2 * 4 * p.tp * p.tokens / num_chunks
        forward += num_chunks * collective_time.all_gather_s(chunk, placement, network)
        backward += total
        if p.model.aggregation == "linear":
            forward += total
        forward += _maxima_s(cost, output_maxima(p))
    return forward, backward


def layer_sums_s(cost: StageCost) -> tuple[float, float]:
    """Those of `tensor_parallel_s` that are inside layers."""
    p, network = cost.workload, cost.network
    if p.tp == 1 or not cost.stage.layers:
        return 0.0, 0.0
    dense, moe = cost.num_layers
    placement = cost.placement("tp")
    total = collective_time.all_reduce_s(cost.hidden_bytes, placement, network)
    gather = collective_time.all_gather_s(cost.hidden_bytes, placement, network)
    router = collective_time.all_reduce_s(p.model.num_experts * p.model.hidden_size * 4, placement, network)
    sums = dense + moe + dense + (moe if p.model.num_shared_experts else 0)  # attention, MLPs
    forward = sums * total + moe * gather
    backward = sums * total + moe * (gather + router)
    if p.model.qk_norm == "projection":
        small = 2 * (dense + moe) * collective_time.all_reduce_s(4 * p.tokens, placement, network)
        forward, backward = forward + small, backward + small
    elif p.model.qk_norm == "head":
        backward += 2 * (dense + moe) * collective_time.all_reduce_s(4 * p.model.head_dim, placement, network)
    maxima, maxima_back = layer_maxima(p, dense, moe)
    return forward + _maxima_s(cost, maxima), backward + _maxima_s(cost, maxima_back)


def _maxima_s(cost: StageCost, maxima: Maxima) -> float:
    if not maxima:
        return 0.0
    placement, network = cost.placement("tp"), cost.network
    return sum(times * collective_time.all_reduce_s(size, placement, network) for times, size in maxima)


def num_meetings(cost: StageCost, *, is_backward: bool) -> tuple[int, int]:
    """How often a pass through layers waits for the peers of an all-to-all, and of TP, after computing. The
    counts of rows and the rows themselves are one wait.

    Backward through layers that are recomputed whole meets again what `recomputed_collectives_s` repeats:
    rows once, not back; attention's sum and the shared experts', not the last one of the layer.
    """
    p, (dense, moe) = cost.workload, cost.num_layers
    shared = moe if p.model.num_shared_experts else 0
    experts, sums = 2 * moe, 2 * (dense + moe) + shared
    if is_backward and cost.recompute == "layer":
        experts, sums = experts + moe, sums + dense + moe + shared
    has_peers = p.ep > 1 and cost.stage.expert is not None
    return experts if has_peers else 0, sums if p.tp > 1 else 0


def recomputed_collectives_s(cost: StageCost) -> tuple[float, float]:
    """All-to-alls and TP collectives that backward repeats. `experts` repeats none.

    The second pass stops at the last tensor that backward needs, which is before the last sum or gather of
    what is recomputed.
    """
    p = cost.workload
    if cost.recompute == "layer":
        maxima = layer_maxima(p, *cost.num_layers)[0]
        sums = _sums_again_s(cost) + _maxima_s(cost, maxima)
        return all_to_all_s(cost, is_backward=False, is_again=True), sums
    if cost.recompute == "attention":
        maxima = attention_maxima(p, sum(cost.num_layers))
        return 0.0, _square_sums_s(cost) + _maxima_s(cost, maxima)
    return 0.0, 0.0


def _sums_again_s(cost: StageCost) -> float:
    """Of `layer`: attention's sums, and the shared experts', which come before the routed ones."""
    p, network = cost.workload, cost.network
    if p.tp == 1 or not cost.stage.layers:
        return 0.0
    (dense, moe), placement = cost.num_layers, cost.placement("tp")
    seconds = (dense + moe) * collective_time.all_reduce_s(cost.hidden_bytes, placement, network)
    if p.model.num_shared_experts:
        seconds += moe * collective_time.all_reduce_s(cost.hidden_bytes, placement, network)
    return seconds + _square_sums_s(cost)


def _square_sums_s(cost: StageCost) -> float:
    """The squares that a norm over split projections needs, of queries and of keys."""
    p, network = cost.workload, cost.network
    if p.tp == 1 or not cost.stage.layers or p.model.qk_norm != "projection":
        return 0.0
    once = collective_time.all_reduce_s(4 * p.tokens, cost.placement("tp"), network)
    return 2 * sum(cost.num_layers) * once
