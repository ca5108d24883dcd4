"""The audit: every figure that someone stated beside what follows from the strategy, with a verdict."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from planner.audit import (
    layout_claims,
    memory_claims,
    model_claims,
    performance_claims,
    search_claims,
    time_claims,
)
from planner.audit.gpus_needed import gpus_needed, too_many_gpus
from planner.audit.old_quantities import as_written_now
from planner.audit.verdicts import (
    FAILS,
    HOLDS,
    IMPOSSIBLE,
    AuditContext,
    Derivation,
    Relation,
    Verdict,
    judge,
    worst,
)
from planner.build import build_plan
from planner.hardware.catalog import device_of
from planner.loading.changed_strategy import changed_strategy
from planner.plan.plan import Plan
from planner.prediction.load_balance import Check, LoadBalance, compatibility_checks, load_balance
from planner.prediction.predict import Prediction, predict
from planner.problems import StrategyError
from planner.strategy.claims import Claim
from planner.strategy.schema import Strategy

Derive = Callable[[AuditContext], Iterator[Derivation]]
# One for each quantity of the closed list but `gpus`, which needs no plan; the first derivation that decides
# is the derived value.
DERIVATIONS: Mapping[str, Derive] = {
    "gpus_available": layout_claims.gpus_available,
    "gpu_memory": layout_claims.gpu_memory,
    "gpu_peak": layout_claims.gpu_peak,
    "link_bandwidth": layout_claims.link_bandwidth,
    "bytes_per_parameter": layout_claims.weight_bytes,
    "tokens_per_batch": layout_claims.tokens_per_batch,
    "parameters": model_claims.parameters,
    "active_parameters": model_claims.active_parameters,
    "forward_flops_per_token": model_claims.forward_flops_per_token,
    "training_flops_per_token": model_claims.training_flops_per_token,
    "flops_per_step": model_claims.flops_per_step,
    "gpus_spare": layout_claims.gpus_spare,
    "gpus_used_share": layout_claims.gpus_used_share,
    "gpus_per_host_used": layout_claims.gpus_per_host_used,
    "experts_per_gpu": layout_claims.experts_per_gpu,
    "expert_instances": layout_claims.expert_instances,
    "embedding_parameters_per_gpu": layout_claims.embedding_parameters,
    "expert_parameters_per_gpu_and_layer": layout_claims.expert_parameters,
    "aggregation_parameters_per_gpu": layout_claims.aggregation_parameters,
    "embedding_memory": memory_claims.embedding_memory,
    "expert_memory": memory_claims.expert_memory,
    "aggregation_memory": memory_claims.aggregation_memory,
    "max_memory": memory_claims.max_memory,
    "memory_share": memory_claims.memory_share,
    "memory_headroom": memory_claims.memory_headroom,
    "memory_balance": memory_claims.balance_of_memory,
    "embedding_compute_share": performance_claims.embedding_compute_share,
    "expert_compute_share": performance_claims.expert_compute_share,
    "aggregation_compute_share": performance_claims.aggregation_compute_share,
    "total_compute_share": performance_claims.total_compute_share,
    "compute_variance": performance_claims.compute_variance,
    "compute_headroom": performance_claims.compute_headroom,
    "utilization": performance_claims.utilization,
    "mfu": performance_claims.mfu,
    "embedding_all_reduce_bandwidth": performance_claims.embedding_all_reduce,
    "all_to_all_bandwidth": performance_claims.all_to_all,
    "aggregation_all_reduce_bandwidth": performance_claims.aggregation_all_reduce,
    "embedding_to_expert_bandwidth": performance_claims.embedding_to_expert,
    "expert_to_aggregation_bandwidth": performance_claims.expert_to_aggregation,
    "communication_share": performance_claims.communication_share,
    "forward_latency": time_claims.forward_latency,
    "embedding_latency": time_claims.embedding_latency,
    "expert_latency": time_claims.expert_latency,
    "aggregation_latency": time_claims.aggregation_latency,
    "communication_latency": time_claims.communication_latency,
    "step_time": time_claims.step_time,
    "tokens_per_second": time_claims.tokens_per_second,
    "batches_per_second": time_claims.batches_per_second,
    "place_by_throughput": search_claims.place_by_throughput,
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim beside its derivations; `verdicts[i]` belongs to `derivations[i]`, decisive or not.

    read_as: the claim as it is written now, where its quantity has an old name.
    """

    claim: Claim
    read_as: Claim
    derivations: tuple[Derivation, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def deciding(self) -> tuple[tuple[Derivation, Verdict], ...]:
        pairs = zip(self.derivations, self.verdicts, strict=True)
        return tuple((derivation, verdict) for derivation, verdict in pairs if derivation.decides)

    @property
    def verdict(self) -> Verdict:
        """The worst of what decides."""
        return worst([verdict for _, verdict in self.deciding])

    @property
    def derived(self) -> Derivation:
        """The derivation that the verdict comes from."""
        return next(derivation for derivation, verdict in self.deciding if verdict == self.verdict)

    @property
    def reason(self) -> str:
        """Why it cannot be met; empty for other verdicts."""
        return self.derived.why if self.verdict == IMPOSSIBLE else ""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All findings in the order of the claims, how evenly the GPUs are loaded, and the checks."""

    findings: tuple[Finding, ...]
    load: LoadBalance
    checks: tuple[Check, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many claims have which verdict."""
        verdicts = [finding.verdict for finding in self.findings]
        return {verdict: verdicts.count(verdict) for verdict in (HOLDS, FAILS, IMPOSSIBLE)}

    @property
    def holds(self) -> bool:
        """Whether every claim holds and every check passes."""
        return self.counts[HOLDS] == len(self.findings) and all(check.passes for check in self.checks)


def audit(plan: Plan, prediction: Prediction, known: Mapping[str, Any] | None = None) -> Audit:
    """Every claim of the plan's strategy, the load balance and the compatibility checks.

    `known`: devices and links that the changes of claims may name (loading.changed_strategy).
    """
    load = load_balance(plan, prediction)
    return Audit(
        findings=tuple(_Judge(plan, prediction, known).findings()),
        load=load,
        checks=compatibility_checks(plan, prediction, load),
    )


@dataclass(frozen=True, kw_only=True)
class _ChangedPlan:
    """The strategy of a claim's `with`, and its plan, or why there is none."""

    strategy: Strategy
    context: AuditContext | None
    why_not: str = ""


class _Judge:
    """The claims of one plan. Those with the same `with` are about one changed plan, which is made once."""

    def __init__(self, plan: Plan, prediction: Prediction, known: Mapping[str, Any] | None) -> None:
        self.plan, self.prediction, self.known = plan, prediction, known
        self.claims = [(claim, as_written_now(claim, plan.strategy)) for claim in plan.strategy.claims]
        self._changed: dict[str, _ChangedPlan] = {}

    def findings(self) -> Iterator[Finding]:
        for claim, read_as in self.claims:
            derivations = tuple(self._derive(read_as))
            verdicts = tuple(judge(float(claim.value), one, claim.dimension) for one in derivations)
            yield Finding(claim=claim, read_as=read_as, derivations=derivations, verdicts=verdicts)

    def _derive(self, claim: Claim) -> Iterator[Derivation]:
        key = str(claim.changes)
        if key not in self._changed:
            self._changed[key] = self._change(claim)
        changed = self._changed[key]
        if claim.quantity == "gpus":
            found = gpus_needed(changed.strategy, claim.changes)
        elif changed.context is None:
            found = iter((_not_planned(changed),))
        else:
            found = DERIVATIONS[claim.quantity](changed.context)
        yield from (_related(one, claim) for one in found)

    def _change(self, claim: Claim) -> _ChangedPlan:
        about = tuple(other for _, other in self.claims if other.changes == claim.changes)
        if not claim.changes:
            context = AuditContext(plan=self.plan, prediction=self.prediction, claims=about)
            return _ChangedPlan(strategy=self.plan.strategy, context=context)
        # On all hosts: how many are left over is one of the questions.
        strategy = changed_strategy(
            self.plan.strategy, {"cluster.spare_hosts": 0, **claim.changes}, self.known
        )
        try:
            plan = build_plan(strategy)
        except StrategyError as error:
            why = "; ".join(f"{problem.path}: {problem.found}" for problem in error.problems)
            return _ChangedPlan(strategy=strategy, context=None, why_not=why)
        is_same = strategy.cluster.gpu == self.plan.strategy.cluster.gpu
        device = self.prediction.device if is_same else device_of(strategy.cluster.gpu)
        context = AuditContext(plan=plan, prediction=predict(plan, device), claims=about)
        return _ChangedPlan(strategy=strategy, context=context)


def _not_planned(changed: _ChangedPlan) -> Derivation:
    too_many = too_many_gpus(changed.strategy)
    return Derivation(
        value=None,
        arithmetic=f"not legal: {changed.why_not}",
        relation="at most" if too_many else "equals",
        exceeds=too_many,
        why="the changed layout needs more GPUs than the cluster has" if too_many else "",
    )


def _related(one: Derivation, claim: Claim) -> Derivation:
    """With the relation that the claim writes; what bounds the quantity's own bounds no other."""
    if claim.relation is None or one.value is None:
        return one
    relation = cast(Relation, claim.relation.replace("_", " "))
    return one if relation == one.relation else replace(one, relation=relation, bound=None)
