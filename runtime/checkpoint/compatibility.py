"""Fingerprints a checkpoint must match before its weights are loaded or its training continued."""

from dataclasses import dataclass

from planner import Plan
from planner.plan.fingerprint import model_fingerprint, recipe_fingerprint
from runtime.data.dataset import TokenData


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """What a checkpoint must match: `model` to load its weights, `recipe` to resume its training."""

    model: str
    recipe: str


def fingerprints(plan: Plan, data: TokenData) -> Fingerprints:
    return Fingerprints(
        model=model_fingerprint(plan.strategy, data.tokenizer_hash),
        recipe=recipe_fingerprint(plan.strategy, data.content_hash),
    )
