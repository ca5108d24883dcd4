"""Fingerprints a checkpoint must match before its weights are loaded or its training continued."""

from dataclasses import dataclass

from planner import Plan
from planner.plan.fingerprint import course_fingerprint, model_fingerprint
from runtime.data.dataset import TokenData


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """What a checkpoint must match: `model` to load its weights at all, `course` to go on from it."""

    model: str
    course: str


def fingerprints(plan: Plan, data: TokenData) -> Fingerprints:
    return Fingerprints(
        model=model_fingerprint(plan.strategy, data.tokenizer_hash),
        course=course_fingerprint(plan.strategy, data.content_hash),
    )
