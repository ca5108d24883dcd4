"""Chunk of tokens in which the head and the loss work: the one definition, for the model and for predictions.

Of the plan alone, not of what happens to be free at the time, so that the same layout adds in the same order
in every run. The model gets it from runtime/training/training_model.py.
"""

from planner.strategy.schema import Strategy
from planner.topology.grid import share

_SHARE = 64  # of a device's memory, one chunk's logits in fp32
_GPU_LEAST = 2**30
# Fewer rewrite the weight's gradient too often, more gain nothing: 2,048 tokens of 512, vocabulary 32,000,
# bf16, one core of an EPYC: 4 MiB 2.9 s, 32 MiB 0.82 s, 64 MiB 0.72 s, 256 MiB 0.71 s.
_CPU_LEAST, _CPU_MOST = 2**25, 2**26
_TOKENS_LEAST = 128


def head_chunk_bytes(strategy: Strategy) -> int:
    """Bytes that one chunk's logits may take in fp32."""
    gpu = strategy.cluster.gpu
    if gpu.is_cpu:
        return min(max(gpu.memory // _SHARE, _CPU_LEAST), _CPU_MOST)
    return max(gpu.memory // _SHARE, _GPU_LEAST)


def head_chunk_tokens(strategy: Strategy, tp: int) -> int:
    """Tokens of a chunk, the same on all `tp` partners of the output, which exchange sums of each."""
    vocabulary = share(strategy.model.vocab_size, tp, 0)
    return max(_TOKENS_LEAST, head_chunk_bytes(strategy) // (4 * vocabulary))
