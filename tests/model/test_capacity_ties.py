"""Capacity ties: of tokens whose scores differ by rounding only, the earlier positions are kept."""

import torch

from model.collectives import ModelGroups
from model.router import Router
from tests.support.model_cases import config_of


def _kept(scores: torch.Tensor) -> list[bool]:
    """Six tokens of one sequence that all chose expert 0, which takes three."""
    router = Router(config_of(num_experts=2, num_experts_per_tok=1), ModelGroups())
    both = torch.stack([scores, 1 - scores], 1)
    chosen = torch.zeros(6, 1, dtype=torch.int64)
    return router._within_capacity(both, chosen, None, torch.tensor([3]))[:, 0].tolist()


def test_scores_equal_within_rounding_keep_the_earlier_token() -> None:
    for seed in range(20):
        noise = torch.randn(6, generator=torch.Generator().manual_seed(seed)) * 1e-7
        assert _kept(torch.full((6,), 0.7123) + noise) == [True] * 3 + [False] * 3


def test_scores_that_differ_by_more_than_rounding_decide() -> None:
    scores = torch.tensor([0.7, 0.7001, 0.6999, 0.7002, 0.7, 0.7003])
    assert _kept(scores) == [False, True, False, True, False, True]
