"""Rules on `runtime.force_routing`: what each kind of forced routing needs."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.rules.legal_values import divisors, find_nearest, join_numbers
from planner.strategy.force_routing import RANK_KINDS, SHARED_KINDS
from planner.strategy.schema import Strategy

_PATH = "runtime.force_routing"


def forced_routing_has_a_share(s: Strategy) -> Iterator[Problem]:
    forced = s.runtime.force_routing
    if forced is None:
        return
    kinds = ", ".join(sorted(SHARED_KINDS))
    if forced.kind in SHARED_KINDS and forced.share is None:
        yield Problem(
            code="SW261",
            path=f"{_PATH}.share",
            found=f"is missing, but kind {forced.kind} favors experts for a share of the tokens",
            expected="a number above 0, at most 1",
            fix=f"set {_PATH}.share to 0.3",
        )
    elif forced.kind not in SHARED_KINDS and forced.share is not None:
        yield Problem(
            code="SW261",
            path=f"{_PATH}.share",
            found=f"{forced.share:g} has no effect with kind {forced.kind}",
            expected=f"null unless kind is one of {kinds}",
            fix=f"set {_PATH}.share to null, or {_PATH}.kind to hot_expert",
        )


def forced_ranks_divide_experts(s: Strategy) -> Iterator[Problem]:
    forced = s.runtime.force_routing
    if forced is None or forced.ep is None:
        return
    num_experts = s.model.num_experts
    legal = _rank_counts(num_experts)
    if forced.kind not in RANK_KINDS:
        yield Problem(
            code="SW262",
            path=f"{_PATH}.ep",
            found=f"{forced.ep} has no effect with kind {forced.kind}, which names no ranks",
            expected=f"null unless kind is one of {', '.join(sorted(RANK_KINDS))}",
            fix=f"set {_PATH}.ep to null",
        )
    elif forced.ep not in legal and legal:
        divides = num_experts % forced.ep == 0
        yield Problem(
            code="SW262",
            path=f"{_PATH}.ep",
            found=f"{forced.ep} is one rank, of which kind {forced.kind} needs several"
            if divides
            else f"{forced.ep} does not divide model.num_experts ({num_experts})",
            expected=f"a divisor of {num_experts} above 1: {join_numbers(legal)}",
            fix=f"set {_PATH}.ep to {find_nearest(legal, forced.ep)}",
        )


def forced_ranks_are_several(s: Strategy) -> Iterator[Problem]:
    forced = s.runtime.force_routing
    if forced is None or forced.kind not in RANK_KINDS:
        return
    legal = _rank_counts(s.model.num_experts)
    if not legal:
        yield Problem(
            code="SW262",
            path=f"{_PATH}.kind",
            found=f"{forced.kind} needs several ranks, but there is one expert",
            expected="none with a single expert",
            fix=f"set {_PATH} to none",
        )
    elif forced.ep is None and s.parallel.ep == 1:
        yield Problem(
            code="SW262",
            path=f"{_PATH}.kind",
            found=f"{forced.kind} needs several ranks, but parallel.ep is 1",
            expected=f"{_PATH}.ep, or else parallel.ep, one of {join_numbers(legal)}",
            fix=f"set {_PATH}.ep to {legal[0]}",
        )


def _rank_counts(num_experts: int) -> tuple[int, ...]:
    """In how many ranks, more than one, so many experts can be divided."""
    return tuple(degree for degree in divisors(num_experts) if degree > 1)


def forced_routes_have_experts(s: Strategy) -> Iterator[Problem]:
    """A token's experts are all different: enough must be left beside those that are hot or empty."""
    forced = s.runtime.force_routing
    if forced is None or forced.kind in ("balanced", "spread", "ragged"):
        return
    num_experts, k = s.model.num_experts, s.model.num_experts_per_tok
    apart = 1
    if forced.kind in RANK_KINDS:
        ep = forced.ep or s.parallel.ep
        if ep < 2 or num_experts % ep:
            return  # which has a Problem of its own
        apart = num_experts // ep
    if k > num_experts - apart and k <= num_experts:
        yield Problem(
            code="SW263",
            path=f"{_PATH}.kind",
            found=f"{forced.kind} leaves {num_experts - apart} of {num_experts} experts for the other "
            f"tokens, which need {k} each",
            expected=f"more than {apart + k - 1} experts with this kind, or kind balanced or ragged",
            fix=f"set {_PATH} to {{kind: ragged}}",
        )


def forced_routing_has_a_router(s: Strategy) -> Iterator[Problem]:
    if s.runtime.force_routing is None:
        return
    if s.model.dispatch == "deepspeed":
        yield Problem(
            code="SW264",
            path=_PATH,
            found=f"{s.runtime.force_routing.written} with model.dispatch deepspeed: DeepSpeed's gate "
            "chooses the experts",
            expected="none with model.dispatch deepspeed",
            fix=f"set {_PATH} to none, or model.dispatch to dropless",
        )
    if s.model.first_dense_layers >= s.model.num_hidden_layers:
        yield Problem(
            code="SW264",
            path=_PATH,
            found=f"{s.runtime.force_routing.written}, but all layers are dense",
            expected="none without MoE layers",
            fix=f"set {_PATH} to none",
        )


RULES = (
    forced_routing_has_a_share,
    forced_ranks_divide_experts,
    forced_ranks_are_several,
    forced_routes_have_experts,
    forced_routing_has_a_router,
)
