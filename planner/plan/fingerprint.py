"""Fingerprints of a plan, of a model and of a training recipe."""

import hashlib
import json
from typing import Any

from planner.strategy.force_routing import RANK_KINDS
from planner.strategy.schema import Strategy

# Keys of `model` that change neither what a weight means nor its shape: how tokens travel, how weights begin.
MODEL_EXCEPT = frozenset({"dispatch", "capacity_factor", "initializer_range", "embedding_std", "init_from"})
# Keys of `training` that a run may change without changing the recipe.
RECIPE_EXCEPT = frozenset({"steps", "tokens", "micro_batch"})
# Sections that no rank reads to do its work: what was claimed, what should hold, who watches.
PLAN_EXCEPT = frozenset({"claims", "limits", "operate"})
# Keys of `cluster` that only say what a run costs.
PRICE_KEYS = {"cost", "mtbf"}


def plan_fingerprint(strategy: Strategy) -> str:
    """Everything that the ranks of one launch must agree on: 16 hexadecimal digits."""
    exclude: Any = {**dict.fromkeys(PLAN_EXCEPT, True), "cluster": PRICE_KEYS, "training": {"tokens"}}
    return _digest("plan", strategy.model_dump(exclude=exclude))


def model_fingerprint(strategy: Strategy, tokenizer_hash: str) -> str:
    """What a checkpoint's weights mean: the tokenizer, and `model` without dispatch and initialisation."""
    model = strategy.model.model_dump(exclude=set(MODEL_EXCEPT))
    # null and the value that it defaults to are the same model
    model["norm_topk_prob"] = strategy.model.normalizes_gates
    return _digest("model", {"model": model, "tokenizer": tokenizer_hash})


def recipe_fingerprint(strategy: Strategy, data_hash: str) -> str:
    """What a resumed run must share with its checkpoint: data, dispatch, initialization, forced routing, FP8
    payloads, and `training`.

    Steps and micro_batch are left out. With schedule_steps null the horizon is that of the first attempt,
    which the checkpoint keeps, so null stays null here.
    """
    model = strategy.model.model_dump(include=set(MODEL_EXCEPT))
    training = strategy.training.model_dump(exclude=set(RECIPE_EXCEPT))
    if training["optimizer"]["moments"] == "fp32":
        del training["optimizer"]["moments"]  # what every checkpoint from before the key has
    content: dict[str, Any] = {"model": model, "training": training, "data": data_hash}
    forced = forced_recipe(strategy)
    if forced is not None:  # absent where it is not set, as in every checkpoint from before the key
        content["force_routing"] = forced
    if strategy.runtime.fp8_payload:
        content["fp8_payload"] = True
    # The kind keeps its old name: with another one no older checkpoint would resume.
    return _digest("course", content)


def forced_recipe(strategy: Strategy) -> dict[str, Any] | None:
    """runtime.force_routing with the ranks that its kind names, wherever their number is written; or None."""
    forced = strategy.runtime.force_routing
    if forced is None:
        return None
    ep = (forced.ep or strategy.parallel.ep) if forced.kind in RANK_KINDS else None
    return {**forced.model_dump(), "ep": ep}


def _digest(kind: str, content: Any) -> str:
    # The kind is hashed too: fingerprints of different kinds are never equal, whatever their content.
    canonical = json.dumps([kind, content], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
