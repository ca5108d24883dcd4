"""Quantities of claims: the fixed list that `claims` may state, each with the dimension of its value."""

from planner.units import Dimension

# One for each figure of the reference document; `where` in a claim says which of its places is meant.
CLAIM_QUANTITIES: dict[str, Dimension] = {
    # the cluster and the batch
    "gpus_available": "count",
    "gpu_memory": "bytes",
    "gpu_peak": "FLOP/s",
    "link_bandwidth": "bytes/s",
    "bytes_per_parameter": "bytes",
    "tokens_per_batch": "count",
    # the layout
    "gpus_used": "count",
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
    "compute_variance": "share",
    "compute_headroom": "share",
    "utilization": "share",
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
    "tokens_per_second": "tokens/s",
    "batches_per_second": "batches/s",
    # what else would be needed: GPUs for a changed strategy
    "gpus_for_batch_256": "count",
    "gpus_for_dp2": "count",
    "gpus_for_128_experts": "count",
    "gpus_for_ep32_tp2": "count",
    "gpus_for_ep64_tp4": "count",
    "gpus_for_ep64_tp2_pp2": "count",
}
