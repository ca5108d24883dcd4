"""Memory limit of a rank: limits.memory_max where written, else the GPU's own memory less a reserve."""

from planner.strategy.schema import Strategy
from planner.units import format_bytes

# Fragmentation of the caching allocator, and what else runs on the GPU. The CUDA context and NCCL's buffers
# are counted with the rank (GPU_OVERHEAD_BYTES in planner/memory).
RESERVE_BYTES = 2**30


def memory_limit(strategy: Strategy) -> int:
    """Bytes that a rank may take; never more than the device has.

    A CPU's memory is a rank's share of the host already: nothing is reserved there.
    """
    memory, written = strategy.cluster.gpu.memory, strategy.limits.memory_max
    if written is not None:
        return min(memory, written)
    return memory if strategy.cluster.gpu.is_cpu else max(memory - RESERVE_BYTES, memory // 2)


def describe_memory_limit(strategy: Strategy) -> str:
    """The limit and where it comes from, for people."""
    memory, written = strategy.cluster.gpu.memory, strategy.limits.memory_max
    limit = memory_limit(strategy)
    if written is not None and written <= memory:
        return f"{format_bytes(limit)} (limits.memory_max)"
    if written is not None:
        less = f"limits.memory_max, {format_bytes(written)}, is more"
        return f"{format_bytes(limit)} (cluster.gpu.memory; {less})"
    if limit == memory:
        return f"{format_bytes(limit)} (cluster.gpu.memory)"
    kept = "1 GiB" if memory - limit == RESERVE_BYTES else format_bytes(memory - limit)
    return f"{format_bytes(limit)} (cluster.gpu.memory, {format_bytes(memory)}, less {kept} kept free)"
