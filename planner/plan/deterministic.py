"""Environment of runtime.deterministic on GPUs: libraries that would choose an algorithm are told one.

A launch sets it for every rank; a rank that was started by hand sets it before it touches its GPU. What
launch.environment or the shell says wins.
"""

from planner.strategy.schema import Strategy

_VARIABLES = {
    # cuBLAS: a workspace of its own for each stream (NVIDIA's cuBLAS documentation, Results Reproducibility);
    # torch refuses products without it.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # NCCL sums in an order that follows from algorithm and protocol, which it otherwise tunes by size.
    "NCCL_ALGO": "Ring",
    "NCCL_PROTO": "Simple",
}


def deterministic_environment(strategy: Strategy) -> dict[str, str]:
    """Empty on CPUs, where every kernel used here is deterministic, and where it is not asked for."""
    is_asked = strategy.runtime.deterministic and not strategy.cluster.gpu.is_cpu
    return dict(_VARIABLES) if is_asked else {}
