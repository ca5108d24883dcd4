"""The audit: every figure that someone stated beside what follows from the strategy, with a verdict."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from planner import derive_layout, derive_memory, derive_speed
from planner.balance import Check, LoadBalance, compatibility_checks, load_balance
from planner.plan import Plan
from planner.predict import Prediction
from planner.quantities import CLAIM_QUANTITIES
from planner.readings import FAILS, HOLDS, IMPOSSIBLE, Case, Reading, Verdict, judge, worst
from planner.strategy import Claim

Derivation = Callable[[Case], Iterator[Reading]]
# One for each quantity of the closed list; the first reading that decides is the derived value.
DERIVATIONS: Mapping[str, Derivation] = {
    "gpus_available": derive_layout.gpus_available,
    "gpu_memory": derive_layout.gpu_memory,
    "gpu_peak": derive_layout.gpu_peak,
    "link_bandwidth": derive_layout.link_bandwidth,
    "bytes_per_parameter": derive_layout.weight_bytes,
    "tokens_per_batch": derive_layout.tokens_per_batch,
    "gpus_used": derive_layout.gpus_used,
    "gpus_spare": derive_layout.gpus_spare,
    "gpus_used_share": derive_layout.gpus_used_share,
    "gpus_per_host_used": derive_layout.gpus_per_host_used,
    "experts_per_gpu": derive_layout.experts_per_gpu,
    "expert_instances": derive_layout.expert_instances,
    "embedding_parameters_per_gpu": derive_layout.embedding_parameters,
    "expert_parameters_per_gpu_and_layer": derive_layout.expert_parameters,
    "aggregation_parameters_per_gpu": derive_layout.aggregation_parameters,
    "embedding_memory": derive_memory.embedding_memory,
    "expert_memory": derive_memory.expert_memory,
    "aggregation_memory": derive_memory.aggregation_memory,
    "max_memory": derive_memory.max_memory,
    "memory_share": derive_memory.memory_share,
    "memory_headroom": derive_memory.memory_headroom,
    "memory_balance": derive_memory.balance_of_memory,
    "embedding_compute_share": derive_speed.embedding_compute_share,
    "expert_compute_share": derive_speed.expert_compute_share,
    "aggregation_compute_share": derive_speed.aggregation_compute_share,
    "compute_variance": derive_speed.compute_variance,
    "compute_headroom": derive_speed.compute_headroom,
    "utilization": derive_speed.utilization,
    "embedding_all_reduce_bandwidth": derive_speed.embedding_all_reduce,
    "all_to_all_bandwidth": derive_speed.all_to_all,
    "aggregation_all_reduce_bandwidth": derive_speed.aggregation_all_reduce,
    "embedding_to_expert_bandwidth": derive_speed.embedding_to_expert,
    "expert_to_aggregation_bandwidth": derive_speed.expert_to_aggregation,
    "communication_share": derive_speed.communication_share,
    "forward_latency": derive_speed.forward_latency,
    "embedding_latency": derive_speed.embedding_latency,
    "expert_latency": derive_speed.expert_latency,
    "aggregation_latency": derive_speed.aggregation_latency,
    "communication_latency": derive_speed.communication_latency,
    "tokens_per_second": derive_speed.tokens_per_second,
    "batches_per_second": derive_speed.batches_per_second,
    "gpus_for_batch_256": derive_layout.gpus_for_batch_256,
    "gpus_for_dp2": derive_layout.gpus_for_dp2,
    "gpus_for_128_experts": derive_layout.gpus_for_128_experts,
    "gpus_for_ep32_tp2": derive_layout.gpus_for_ep32_tp2,
    "gpus_for_ep64_tp4": derive_layout.gpus_for_ep64_tp4,
    "gpus_for_ep64_tp2_pp2": derive_layout.gpus_for_ep64_tp2_pp2,
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim beside its readings; `verdicts[i]` is that of `readings[i]`, whether it decides or not."""

    claim: Claim
    readings: tuple[Reading, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def deciding(self) -> tuple[tuple[Reading, Verdict], ...]:
        pairs = zip(self.readings, self.verdicts, strict=True)
        return tuple((reading, verdict) for reading, verdict in pairs if reading.decides)

    @property
    def verdict(self) -> Verdict:
        """The worst of what decides."""
        return worst([verdict for _, verdict in self.deciding])

    @property
    def derived(self) -> Reading:
        """The reading that the verdict comes from."""
        return next(reading for reading, verdict in self.deciding if verdict == self.verdict)

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
    case = Case(plan=plan, prediction=prediction)
    load = load_balance(plan, prediction)
    return Audit(
        findings=tuple(find(case, claim) for claim in plan.strategy.claims),
        load=load,
        checks=compatibility_checks(plan, prediction, load),
    )


def find(case: Case, claim: Claim) -> Finding:
    """One claim beside what is derived."""
    readings = tuple(DERIVATIONS[claim.quantity](case))
    dimension = CLAIM_QUANTITIES[claim.quantity]
    verdicts = tuple(judge(float(claim.value), reading, dimension) for reading in readings)
    return Finding(claim=claim, readings=readings, verdicts=verdicts)
