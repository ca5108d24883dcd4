"""Old quantities of claims, each as `gpus` of the strategy with the change that it named."""

from collections.abc import Mapping
from typing import Any

from planner.strategy.claim_quantities import OLD_QUANTITIES
from planner.strategy.claims import Claim
from planner.strategy.schema import Strategy


def as_written_now(claim: Claim, strategy: Strategy) -> Claim:
    """A claim of an old quantity as one of `gpus` with what the name said; any other as it is."""
    if claim.quantity not in OLD_QUANTITIES:
        return claim
    changes, relation = _meaning(claim.quantity, strategy)
    written = {
        "quantity": "gpus",
        "value": claim.value,
        "where": claim.where,
        "with": {**changes, **claim.changes},
        "relation": claim.relation or relation,
    }
    return Claim.model_validate(written)


def _meaning(quantity: str, strategy: Strategy) -> tuple[Mapping[str, Any], str | None]:
    """The changes, and the relation: a fallback is stated as fitting so many GPUs."""
    match quantity:
        case "gpus_used":
            return {}, None
        case "gpus_for_batch_256":
            return {"training.global_batch": 256}, None
        case "gpus_for_dp2":
            return {"parallel.dp": 2}, None
        case "gpus_for_128_experts":
            return {"model.num_experts": 128, **_as_many_each(strategy)}, None
        case "gpus_for_ep32_tp2":
            return _degrees(strategy, ep=32, tp=2), "at_most"
        case "gpus_for_ep64_tp4":
            return _degrees(strategy, ep=64, tp=4), "at_most"
        case "gpus_for_ep64_tp2_pp2":
            return _degrees(strategy, ep=64, tp=2, pp=2), "at_most"
    raise AssertionError(quantity)


def _as_many_each(strategy: Strategy) -> dict[str, int]:
    """The expert parallel degree that leaves a rank as many of 128 experts as it has now, if there is one."""
    ep, rest = divmod(128 * strategy.parallel.ep, strategy.model.num_experts)
    return {} if rest else {"parallel.ep": ep}


def _degrees(strategy: Strategy, *, ep: int, tp: int, pp: int = 1) -> dict[str, int | None]:
    degrees: dict[str, int | None] = {
        "parallel.ep": ep,
        "parallel.tp": tp,
        "parallel.pp": pp,
        "parallel.dp": 1,
    }
    if strategy.parallel.layers_per_stage is not None:
        degrees["parallel.layers_per_stage"] = None  # it is of another pp
    return degrees
