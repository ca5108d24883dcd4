"""Lower bounds (roofline) of a forward pass: its FLOPs over the peak, its bytes over the links.

Everything overlaps, nothing waits, no start-up costs, an element travels in the fewest bytes that the
strategy's precision has (fp8: 1, without scales). With runtime.fp8_payload the rows that are sent have a byte
an element and a scale. A stated time below such a bound cannot be met.
"""

from dataclasses import dataclass

from planner.audit.verdicts import AuditContext
from planner.counts.module_flops import stage_modules
from planner.counts.payload import payload_bytes
from planner.counts.rank_workload import rank_workload
from planner.timing.gemm_time import rate
from planner.topology.placement import Stage

PAYLOAD_BYTES = {"fp8": 1, "bf16": 2, "fp32": 4}


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """Seconds of one forward pass of the global batch, and what they are made of, in one line."""

    seconds: float
    why: str


def batch_bytes(context: AuditContext) -> int:
    """The hidden states of the whole batch inside a stage, where they are summed over its TP ranks."""
    training = context.strategy.training
    tokens = training.global_batch * training.seq_length
    return tokens * context.strategy.model.hidden_size * PAYLOAD_BYTES[training.precision]


def sent_row_bytes(context: AuditContext) -> int:
    """A hidden state of one token on its way to an expert or to the next stage."""
    strategy = context.strategy
    hidden = strategy.model.hidden_size
    if strategy.runtime.fp8_payload:
        return payload_bytes(strategy, hidden, 1)
    return hidden * PAYLOAD_BYTES[strategy.training.precision]


def sent_batch_bytes(context: AuditContext) -> int:
    """The hidden states of the whole batch on their way to the next stage."""
    training = context.strategy.training
    return training.global_batch * training.seq_length * sent_row_bytes(context)


def link_bytes_per_s(context: AuditContext) -> float:
    """A GPU's faster link, one way."""
    links = context.strategy.cluster.links
    return float(max(links.intra_host, links.inter_host))


def all_reduce_bytes(context: AuditContext, stage: Stage) -> float:
    """What leaves a TP partner when a hidden state of its sequences is summed over the partners."""
    tp = stage.dense.size("tp")
    return 2 * (tp - 1) / tp * batch_bytes(context) / stage.data_parallel_size


def all_to_all_layer_bytes(context: AuditContext) -> float:
    """What leaves an expert rank one way in one layer, of the whole batch."""
    p, plan = rank_workload(context.plan, context.experts), context.plan
    if p.ep == 1 or not context.strategy.model.num_moe_layers:
        return 0.0
    return plan.batch.accumulation * p.sent_rows * sent_row_bytes(context) * (p.ep - 1) / p.ep


def all_to_all_bytes(context: AuditContext, stage: Stage) -> float:
    """There and back, in all MoE layers of a stage."""
    first_dense = context.strategy.model.first_dense_layers
    return 2 * stage.num_layers(first_dense)[1] * all_to_all_layer_bytes(context)


def stage_p2p_bytes(context: AuditContext, stage: Stage) -> float:
    """A rank's part of what its stage gives to the next, or gets from the one before."""
    return sent_batch_bytes(context) / len(stage.ranks) if len(context.plan.stages) > 1 else 0.0


def stage_flops(context: AuditContext, stage: Stage) -> int:
    """FLOPs of a rank in one forward pass of the batch."""
    return context.plan.batch.accumulation * sum(w.flops_forward for w in stage_modules(context.plan, stage))


def compute_bound(context: AuditContext, stage: Stage) -> LowerBound:
    flops, peak = (
        stage_flops(context, stage),
        rate(context.prediction.device, context.strategy.training.precision)[0],
    )
    why = f"{flops / 1e9:,.1f} GFLOP on one GPU ({stage.name}) at its peak of {peak / 1e12:g} TFLOPS"
    return LowerBound(seconds=flops / peak, why=f"{why} take {1e3 * flops / peak:.3g} ms")


def links_bound(context: AuditContext, stage: Stage, *, is_whole: bool = True) -> LowerBound:
    """Of a stage's rank; `is_whole`: with what it sends to the next stage."""
    parts = {"all-to-all": all_to_all_bytes(context, stage)}
    here = stage.contents
    sums = here.embedding + (here.output and context.strategy.model.aggregation == "linear")
    parts["all-reduce"] = sums * all_reduce_bytes(context, stage)
    if is_whole:
        parts["stage P2P"] = stage_p2p_bytes(context, stage)
    total, link = sum(parts.values()), link_bytes_per_s(context)
    text = " + ".join(f"{name} {value / 1e6:,.1f} MB" for name, value in parts.items() if value)
    why = f"{text or 'nothing'} over one GPU's {link / 1e9:g} GB/s ({stage.name})"
    return LowerBound(seconds=total / link, why=f"{why} take {1e3 * total / link:.3g} ms")


def forward_bound(context: AuditContext) -> LowerBound:
    """The slowest stage's slower resource: stages and resources all work at once."""
    bounds = [
        bound(context, stage) for stage in context.plan.stages for bound in (compute_bound, links_bound)
    ]
    return max(bounds, key=lambda bound: bound.seconds)
