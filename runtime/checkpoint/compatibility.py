"""Fingerprints a checkpoint must match before its weights are loaded or its training continued."""

from dataclasses import dataclass

from planner import Plan
from planner.plan.fingerprint import model_fingerprint, recipe_fingerprint
from runtime.checkpoint.manifest import Meta
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


def meta_faults(meta: Meta) -> tuple[str, ...]:
    """What keeps a run from resuming with a checkpoint's facts: a manifest may be of another program."""
    faults = [
        f"meta.counters.{name} is {meta.counters.get(name)!r}, not a count"
        for name in ("horizon", "optimizer_steps")
        if type(meta.counters.get(name)) is not int or meta.counters[name] < 0
    ]
    if not isinstance(meta.extra.get("result", {}), dict):
        faults.append("meta.extra.result is not a mapping")
    return tuple(faults)
