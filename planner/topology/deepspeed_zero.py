"""ZeRO stage that DeepSpeed is configured with, which is not always the strategy's."""

from planner.strategy.schema import Strategy
from planner.topology.placement import largest_data_parallel_size


def deepspeed_zero_stage(strategy: Strategy) -> int:
    """
    ZeRO 1 in bf16 with accumulation becomes ZeRO 2, which partitions the optimizer in the same way and sums
    gradients in fp32. ZeRO 1 with fp32 sums would be DeepSpeed's BF16_Optimizer (engine.py:2305), whose norm
    has no hook.
    """
    training, stage = strategy.training, strategy.parallel.zero_stage
    sequences = training.micro_batch * largest_data_parallel_size(strategy.parallel)
    accumulates = training.global_batch > sequences
    return 2 if training.precision != "fp32" and stage == 1 and accumulates else stage
