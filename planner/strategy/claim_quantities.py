"""Quantities of claims: what a claim may state, each with the dimension of its value, and old names."""

from planner.units import Dimension

# `where` in a claim says which place of its document is meant, `with` which change of the strategy.
CLAIM_QUANTITIES: dict[str, Dimension] = {
    # the cluster and the batch
    "gpus_available": "count",
    "gpu_memory": "bytes",
    "gpu_peak": "FLOP/s",
    "link_bandwidth": "bytes/s",
    "bytes_per_parameter": "bytes",
    "tokens_per_batch": "count",
    # the model
    "parameters": "parameters",
    "active_parameters": "parameters",
    "forward_flops_per_token": "FLOP",
    "training_flops_per_token": "FLOP",
    "flops_per_step": "FLOP",
    # the layout
    "gpus": "count",
    "gpus_spare": "count",
    "gpus_used_share": "share",
    "gpus_per_host_used": "count",
    "experts_per_gpu": "count",
    "expert_instances": "count",
    "embedding_parameters_per_gpu": "count",
    "expert_parameters_per_gpu_and_layer": "count",
    "aggregation_parameters_per_gpu": "count",
    # memory of a GPU
    "embedding_memory": "bytes",
    "expert_memory": "bytes",
    "aggregation_memory": "bytes",
    "max_memory": "bytes",
    "memory_share": "share",
    "memory_headroom": "share",
    "memory_balance": "share",
    # compute
    "embedding_compute_share": "share",
    "expert_compute_share": "share",
    "aggregation_compute_share": "share",
    "total_compute_share": "share",
    "compute_variance": "share",
    "compute_headroom": "share",
    "utilization": "share",
    "mfu": "share",
    # communication
    "embedding_all_reduce_bandwidth": "bytes/s",
    "all_to_all_bandwidth": "bytes/s",
    "aggregation_all_reduce_bandwidth": "bytes/s",
    "embedding_to_expert_bandwidth": "bytes/s",
    "expert_to_aggregation_bandwidth": "bytes/s",
    "communication_share": "share",
    # time
    "forward_latency": "seconds",
    "embedding_latency": "seconds",
    "expert_latency": "seconds",
    "aggregation_latency": "seconds",
    "communication_latency": "seconds",
    "step_time": "seconds",
    "tokens_per_second": "tokens/s",
    "batches_per_second": "batches/s",
    # among all legal plans
    "place_by_throughput": "count",
}
# Still read; planner.audit.old_quantities says what each is now.
OLD_QUANTITIES = (
    "gpus_used",
    "gpus_for_batch_256",
    "gpus_for_dp2",
    "gpus_for_128_experts",
    "gpus_for_ep32_tp2",
    "gpus_for_ep64_tp4",
    "gpus_for_ep64_tp2_pp2",
)


def dimension_of(quantity: str) -> Dimension | None:
    """The dimension of a quantity's values; None: there is no such quantity."""
    return "count" if quantity in OLD_QUANTITIES else CLAIM_QUANTITIES.get(quantity)
