"""The planner's constants of the head's chunks are those that the model works with."""

from model import lm_head
from planner.counts import rank_workload


def test_the_planner_counts_with_the_heads_own_chunks() -> None:
    assert rank_workload.HEAD_CHUNK_BYTES == lm_head.CHUNK_BYTES
    assert rank_workload.HEAD_CHUNK_TOKENS_MIN == lm_head.CHUNK_TOKENS_MIN
