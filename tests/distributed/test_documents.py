"""Packed documents and masked prompts: every layout equals one process that takes a document at a time."""

from collections.abc import Callable

import numpy as np
import pytest

from planner import Strategy
from runtime.data.rows import Rows
from tests.support.reference import STEPS, tiny, tokens_of
from tests.support.settled import Batches, check

LAYOUTS = (
    {"zero_stage": 0},
    {"ep": 2, "zero_stage": 1},
    {"ep": 2, "tp": 2, "zero_stage": 2},
    {"placement": "staged", "ep": 2, "zero_stage": 1},
)
# Documents of each packed sequence of 9 tokens; what is left is padding. The last token of a document has no
# target; that of the last document may be a target only.
DOCUMENTS = ((9,), (4, 5), (2, 3, 4), (2, 2, 2), (6,), (5, 3), (3, 6), (2, 2, 2, 2))


def packed(strategy: Strategy) -> Batches:
    return {step: _pack(tokens_of(strategy, step)) for step in range(STEPS)}


def _pack(tokens: np.ndarray) -> Rows:
    num_rows, num_positions = tokens.shape[0], tokens.shape[1] - 1
    positions = np.zeros((num_rows, num_positions), np.int64)
    mask, has_target = np.zeros((2, num_rows, num_positions), bool)
    for row, lengths in enumerate(DOCUMENTS):
        t = 0
        for length in lengths:
            for place in range(length):
                if t < num_positions:
                    positions[row, t], mask[row, t], has_target[row, t] = place, True, place < length - 1
                t += 1
        for place in range(num_positions - t):
            positions[row, t + place] = place
    return Rows(tokens_BS1=tokens, mask_BS=mask, positions_BS=positions, has_target_BS=has_target)


def answers(strategy: Strategy) -> Batches:
    """Documents of which the first third is a prompt."""
    batches = packed(strategy)
    for rows in batches.values():
        assert rows.has_target_BS is not None
        rows.has_target_BS[:, :3] = False
    return batches


def prompts(strategy: Strategy) -> Batches:
    """One document a sequence, of which some tokens are asked for; in one sequence none."""
    chance = np.random.default_rng(4)
    batches = {}
    for step in range(STEPS):
        tokens = tokens_of(strategy, step)
        has_target = chance.random((len(tokens), tokens.shape[1] - 1)) < 0.4
        has_target[2] = False
        batches[step] = Rows(tokens_BS1=tokens, has_target_BS=has_target)
    return batches


@pytest.mark.parametrize("parallel", LAYOUTS, ids=lambda p: "-".join(f"{k}={v}" for k, v in p.items()))
@pytest.mark.parametrize("batches", [packed, answers, prompts])
def test_layout_equals_one_sequence_a_document(
    parallel: dict[str, object], batches: Callable[[Strategy], Batches]
) -> None:
    strategy = tiny(
        parallel=parallel,
        training__seq_length=8,
        training__global_batch=8,
        training__micro_batch=2,
        training__balance_loss=0.0,
        model__num_experts_per_tok=2,
        model__num_key_value_heads=2,
        model__expert="swiglu",
    )
    check(strategy, batches=batches)
