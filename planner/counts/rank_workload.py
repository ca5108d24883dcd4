"""Workload of one rank for one micro-batch: tokens, its share of them, rows that reach its experts."""

from dataclasses import dataclass
from math import ceil

from planner.counts.forced_load import forced_load
from planner.counts.forced_routes import forced_routes
from planner.counts.head_chunk import head_chunk_tokens
from planner.counts.sent_rows import balanced_ranks, forced_ranks
from planner.plan.plan import Plan
from planner.strategy.schema import ModelShape
from planner.topology.grid import share
from planner.topology.placement import Stage


@dataclass(frozen=True, kw_only=True)
class ExpertImbalance:
    """How evenly tokens reach experts: rows of the fullest rank over the mean. 1.0 is balanced."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        assert self.factor >= 1.0, self

    @property
    def balance(self) -> float:
        """As telemetry and limits.balance_min have it: the mean over the fullest rank."""
        return 1 / self.factor


BALANCED = ExpertImbalance()


@dataclass(frozen=True, kw_only=True)
class RankWorkload:
    """A micro-batch on one data-parallel rank; of its TP partners the first, which has the most.

    tokens: whole sequences, the same on all partners. share_tokens: those that this partner dispatches.
    sent: routes of its tokens, in one layer. received: routes to its experts; the fullest rank's under the
    stated load. computed: with the padding of stock dispatch. sent_rows, received_rows: rows that EP
    exchanges for them, one for all routes of a token to a rank. head_chunk_tokens: see
    planner/counts/head_chunk.py. packs_documents: positions differ from sequence to sequence;
    joins_documents: their results are joined.
    """

    model: ModelShape
    num_sequences: int
    seq_length: int
    tp: int
    ep: int
    element_bytes: int  # of weights and activations
    sent: int
    received: int
    computed: int
    sent_rows: int
    received_rows: int
    head_chunk_tokens: int
    is_fused: bool = False  # runtime.kernels fused
    is_float8: bool = False  # training.precision fp8
    sends_float8: bool = False  # runtime.fp8_payload
    packs_documents: bool = False
    joins_documents: bool = False

    @property
    def tokens(self) -> int:
        return self.num_sequences * self.seq_length

    @property
    def share_tokens(self) -> int:
        return ceil(self.tokens / self.tp)

    @property
    def heads(self) -> int:
        return share(self.model.num_attention_heads, self.tp, 0)

    @property
    def q(self) -> int:
        """Width of the queries of this partner's heads; `kv` of its keys."""
        return self.heads * self.model.head_dim

    @property
    def kv(self) -> int:
        return share(self.model.num_key_value_heads, self.tp, 0) * self.model.head_dim

    @property
    def vocabulary(self) -> int:
        return share(self.model.vocab_size, self.tp, 0)

    @property
    def stock_capacity(self) -> int:
        """Rows of every expert and source rank in stock dispatch, which pads all to the fullest."""
        return self.computed * self.tp // self.model.num_experts


def rank_workload(
    plan: Plan, stage: Stage, imbalance: ExpertImbalance = BALANCED, at_peak: bool = False
) -> RankWorkload:
    """What a rank of a stage sees of one micro-batch; with `at_peak` of the fullest one of a step.

    Where runtime.force_routing is set, the load that it implies takes the place of `imbalance`.
    """
    model, training = plan.strategy.model, plan.strategy.training
    tp = stage.dense.size("tp")
    num_sequences = plan.batch.micro_batch_of(stage)
    ep = 1 if stage.expert is None else stage.expert.size("ep")
    # A rank that holds all experts computes its own tokens; no rank gets more than its group sends.
    forced = forced_load(plan, stage)
    if forced is not None:
        imbalance = ExpertImbalance(factor=forced.peak_factor if at_peak else forced.factor)
    factor = min(imbalance.factor, float(ep))
    sent, received, computed = _rows(model, num_sequences, training.seq_length, tp, factor)
    sent_rows, received_rows = sent, received
    if not at_peak and model.dispatch != "deepspeed":
        # Never more than routes, which is what a memory bound takes: a micro-batch may have no token twice.
        sent_rows, received_rows = _exchanged(
            plan, sent, received, ceil(num_sequences * training.seq_length / tp), ep
        )
    packs_documents = plan.strategy.data.packing == "documents"
    return RankWorkload(
        model=model,
        num_sequences=num_sequences,
        seq_length=training.seq_length,
        tp=tp,
        ep=ep,
        element_bytes=training.element_bytes,
        sent=sent,
        received=received,
        computed=computed,
        sent_rows=sent_rows,
        received_rows=received_rows,
        head_chunk_tokens=head_chunk_tokens(plan.strategy, tp),
        is_fused=plan.strategy.runtime.kernels == "fused",
        is_float8=training.precision == "fp8",
        sends_float8=plan.strategy.runtime.fp8_payload,
        packs_documents=packs_documents,
        # model/document_attention.py has one kernel for all of them on GPUs.
        joins_documents=packs_documents and plan.strategy.cluster.gpu.is_cpu,
    )


def _exchanged(plan: Plan, sent: int, received: int, tokens: int, ep: int) -> tuple[int, int]:
    """Rows for so many routes sent and received: expected ones, or those that runtime.force_routing makes."""
    model = plan.strategy.model
    routes = forced_routes(plan.strategy, 1)
    if routes is None:
        ranks = balanced_ranks(model.num_experts, model.num_experts_per_tok, ep)
        fullest = ranks * received / max(1, sent) / ep
    else:
        ranks, fullest = forced_ranks(routes, ep)
    # A rank gets a token of its group once at most.
    return min(sent, ceil(tokens * ranks)), min(received, ceil(tokens * ep * min(1.0, fullest)))


def _rows(
    model: ModelShape, num_sequences: int, seq_length: int, tp: int, imbalance: float
) -> tuple[int, int, int]:
    """Rows sent, received and computed by one rank in one layer. A balanced rank receives what it sends."""
    k, num_experts, tokens = model.num_experts_per_tok, model.num_experts, num_sequences * seq_length
    imbalance -= imbalance * 1e-12  # so that a quotient of counts gives the count back, not one more
    routes = ceil(tokens / tp) * k
    if model.dispatch == "capacity":
        assert model.capacity_factor is not None
        capacity = ceil(model.capacity_factor * k * seq_length / num_experts)  # of a sequence and expert
        # A rank's experts hear tokens of num_sequences · ep / tp sequences, and hold num_experts / ep.
        most = max(1, num_experts * capacity * num_sequences // tp)
        sent = min(routes, most)
        received = min(ceil(sent * imbalance), most)
        return sent, received, received
    if model.dispatch == "deepspeed":
        capacity = ceil(imbalance * tokens * k / num_experts)
        padded = num_experts * ceil(capacity / tp)
        return padded, padded, padded
    received = ceil(routes * imbalance)
    return routes, received, received
