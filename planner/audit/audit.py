"""The audit: every figure that someone stated beside what follows from the strategy, with a verdict."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from planner.audit import layout_claims, memory_claims, performance_claims
from planner.audit.verdicts import FAILS, HOLDS, IMPOSSIBLE, AuditContext, Derivation, Verdict, judge, worst
from planner.plan.plan import Plan
from planner.prediction.load_balance import Check, LoadBalance, compatibility_checks, load_balance
from planner.prediction.predict import Prediction
from planner.strategy.claim_quantities import CLAIM_QUANTITIES
from planner.strategy.claims import Claim

Derive = Callable[[AuditContext], Iterator[Derivation]]
# One for each quantity of the closed list; the first derivation that decides is the derived value.
DERIVATIONS: Mapping[str, Derive] = {
    "gpus_available": layout_claims.gpus_available,
    "gpu_memory": layout_claims.gpu_memory,
    "gpu_peak": layout_claims.gpu_peak,
    "link_bandwidth": layout_claims.link_bandwidth,
    "bytes_per_parameter": layout_claims.weight_bytes,
    "tokens_per_batch": layout_claims.tokens_per_batch,
    "gpus_used": layout_claims.gpus_used,
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
    "compute_variance": performance_claims.compute_variance,
    "compute_headroom": performance_claims.compute_headroom,
    "utilization": performance_claims.utilization,
    "embedding_all_reduce_bandwidth": performance_claims.embedding_all_reduce,
    "all_to_all_bandwidth": performance_claims.all_to_all,
    "aggregation_all_reduce_bandwidth": performance_claims.aggregation_all_reduce,
    "embedding_to_expert_bandwidth": performance_claims.embedding_to_expert,
    "expert_to_aggregation_bandwidth": performance_claims.expert_to_aggregation,
    "communication_share": performance_claims.communication_share,
    "forward_latency": performance_claims.forward_latency,
    "embedding_latency": performance_claims.embedding_latency,
    "expert_latency": performance_claims.expert_latency,
    "aggregation_latency": performance_claims.aggregation_latency,
    "communication_latency": performance_claims.communication_latency,
    "tokens_per_second": performance_claims.tokens_per_second,
    "batches_per_second": performance_claims.batches_per_second,
    "gpus_for_batch_256": layout_claims.gpus_for_batch_256,
    "gpus_for_dp2": layout_claims.gpus_for_dp2,
    "gpus_for_128_experts": layout_claims.gpus_for_128_experts,
    "gpus_for_ep32_tp2": layout_claims.gpus_for_ep32_tp2,
    "gpus_for_ep64_tp4": layout_claims.gpus_for_ep64_tp4,
    "gpus_for_ep64_tp2_pp2": layout_claims.gpus_for_ep64_tp2_pp2,
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim beside its derivations; `verdicts[i]` belongs to `derivations[i]`, decisive or not."""

    claim: Claim
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


def audit(plan: Plan, prediction: Prediction) -> Audit:
    """Every claim of the plan's strategy, the load balance and the compatibility checks."""
    context = AuditContext(plan=plan, prediction=prediction)
    load = load_balance(plan, prediction)
    return Audit(
        findings=tuple(find(context, claim) for claim in plan.strategy.claims),
        load=load,
        checks=compatibility_checks(plan, prediction, load),
    )


def find(context: AuditContext, claim: Claim) -> Finding:
    """One claim beside what is derived."""
    derivations = tuple(DERIVATIONS[claim.quantity](context))
    dimension = CLAIM_QUANTITIES[claim.quantity]
    verdicts = tuple(judge(float(claim.value), derivation, dimension) for derivation in derivations)
    return Finding(claim=claim, derivations=derivations, verdicts=verdicts)
