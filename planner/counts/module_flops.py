"""FLOPs, GEMMs and activation bytes of one micro-batch, by module of a stage.

FLOPs are those of matrix products (2·m·n·k), as torch's FlopCounterMode counts them; norms, softmax, rotary
embeddings and activations are left out. Causal attention is counted as causal: (S + 1) / 2S of the whole
square. Everything is one data-parallel rank's, and of its TP partners the first's, which has the most.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from planner.counts import activation_bytes
from planner.counts.parameters import TensorKind
from planner.counts.rank_workload import BALANCED, ExpertImbalance, RankWorkload, rank_workload
from planner.plan.plan import Plan
from planner.strategy.recompute import RecomputeKind
from planner.topology.grid import share
from planner.topology.placement import Stage, StageContents


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """`count` products [m, k] × [k, n], each over `groups` experts: m rows *each*, every one its own weights.

    m is rounded up where experts have a fraction of a row more.
    """

    m: int
    n: int
    k: int
    count: int = 1
    groups: int = 1
    dtype: Literal["weights", "fp32"] = "weights"

    @property
    def flops(self) -> int:
        return 2 * self.m * self.n * self.k * self.count * self.groups


@dataclass(frozen=True, kw_only=True)
class ModuleCost:
    """One kind of module of a stage, all its layers together, for one micro-batch.

    gemms: products of the forward pass; those inside fused attention are in `flops_*` only. Backward has two
        of each, one for the input's gradient and one for the weight's.
    flops_recompute: what backward computes a second time: the scores of fused attention, and under
        runtime.recompute the forward pass of layers.
    activation_bytes: kept from forward to backward when nothing is recomputed.
    is_in_layer: whether it is part of a decoder layer.
    """

    name: str
    kind: TensorKind
    num_layers: int
    is_in_layer: bool = True
    flops_forward: int = 0
    flops_backward: int = 0
    flops_recompute: int = 0
    gemms: tuple[Gemm, ...] = ()
    activation_bytes: int = 0


def stage_modules(plan: Plan, stage: Stage, imbalance: ExpertImbalance = BALANCED) -> tuple[ModuleCost, ...]:
    """The modules of a stage in the order in which a micro-batch meets them; those without layers are out.

    Layers of which different parts are recomputed have modules of their own.
    """
    p = rank_workload(plan, stage, imbalance)
    modules = end_modules(p, replace(stage.contents, layers=()))
    first = int(stage.contents.embedding)
    parts = plan.strategy.runtime.recompute.split(*stage.num_layers(p.model.first_dense_layers))
    layers = [module for dense, moe, kind in parts for module in layer_modules(p, dense, moe, kind)]
    return (*modules[:first], *layers, *modules[first:])


@lru_cache(maxsize=4096)
def layer_modules(
    p: RankWorkload, num_dense: int, num_moe: int, recompute: RecomputeKind = "none"
) -> tuple[ModuleCost, ...]:
    """The modules of some layers of a stage."""
    return tuple(
        replace(m, flops_recompute=m.flops_recompute + _flops_again(m, recompute, p.is_float8))
        for m in _layers(p, num_dense, num_moe)
    )


def is_recomputed(module: ModuleCost, recompute: RecomputeKind) -> bool:
    """Whether backward computes the forward pass of a module again. Router and dispatch are outside of
    `experts`; the norm before attention is part of `attention`, and has no products."""
    if recompute == "attention":
        return module.kind == "attention"
    if recompute == "experts":
        return module.name == "experts"
    return recompute == "layer" and module.is_in_layer


def gemms_again(module: ModuleCost, recompute: RecomputeKind, *, is_float8: bool = False) -> tuple[Gemm, ...]:
    """The products of a module that backward makes a second time.

    The second pass stops at the last tensor that backward needs (torch's checkpoint, early_stop): the last
    product of what is recomputed is left out, for it keeps its input only. Of a layer that is the MLP's or
    the routed experts', which come after the shared ones. An FP8 product keeps its inputs when it is done.
    """
    if not is_recomputed(module, recompute):
        return ()
    if is_float8:
        return module.gemms
    is_last = {
        "attention": module.name == "projections",
        "experts": module.name == "experts",
        "layer": module.name in ("dense MLP", "experts"),
    }
    return module.gemms[:-1] if is_last[recompute] else module.gemms


def _flops_again(module: ModuleCost, recompute: RecomputeKind, is_float8: bool) -> int:
    if not module.gemms:  # fused attention
        return module.flops_forward if is_recomputed(module, recompute) else 0
    # In proportion: rows of experts are rounded up in their products only.
    again = sum(gemm.flops for gemm in gemms_again(module, recompute, is_float8=is_float8))
    return module.flops_forward * again // sum(gemm.flops for gemm in module.gemms)


@lru_cache(maxsize=4096)
def end_modules(p: RankWorkload, contents: StageContents) -> tuple[ModuleCost, ...]:
    """The modules of a stage that are in no layer: the embedding, the final norm, the output."""
    modules: list[ModuleCost] = []
    if contents.embedding:
        modules.append(
            ModuleCost(
                name="embedding",
                kind="embedding",
                num_layers=1,
                is_in_layer=False,
                activation_bytes=activation_bytes.embedding(p),
            )
        )
    if contents.norm:
        modules.append(_final_norm(p))
    if contents.output:
        modules += (replace(module, is_in_layer=False) for module in _output(p))
    return tuple(modules)


def _layers(p: RankWorkload, num_dense: int, num_moe: int) -> Iterator[ModuleCost]:
    if num_dense + num_moe:
        yield from _attention(p, num_dense + num_moe)
    if num_dense:
        assert p.model.intermediate_size is not None
        yield _mlp(p, "dense MLP", "dense", p.model.intermediate_size, num_dense, keeps_input=True)
    if num_moe:
        yield _router(p, num_moe)
        yield _dispatch(p, num_moe)
        yield _experts(p, num_moe)
        if p.model.num_shared_experts:
            width = p.model.num_shared_experts * p.model.moe_intermediate_size
            keeps = activation_bytes.shared_keeps_input(p)
            yield _mlp(p, "shared experts", "shared", width, num_moe, keeps_input=keeps)


def _attention(p: RankWorkload, layers: int) -> Iterator[ModuleCost]:
    hidden = p.model.hidden_size
    yield ModuleCost(
        name="layer norms",
        kind="norms",
        num_layers=layers,
        activation_bytes=layers * activation_bytes.layer_norms(p),
    )
    gemms = (
        Gemm(m=p.tokens, n=p.q, k=hidden, count=layers),
        Gemm(m=p.tokens, n=p.kv, k=hidden, count=2 * layers),
        Gemm(m=p.tokens, n=hidden, k=p.q, count=layers),
    )
    yield _of_gemms("projections", "attention", layers, gemms, layers * activation_bytes.projections(p))
    # Scores and their product with the values, of the S·(S + 1)/2 pairs that a causal mask allows.
    pairs = p.num_sequences * p.seq_length * (p.seq_length + 1) // 2
    product = layers * 2 * pairs * p.q
    yield ModuleCost(
        name="attention",
        kind="attention",
        num_layers=layers,
        flops_forward=2 * product,
        flops_backward=4 * product,
        # Fused attention keeps no scores: backward makes them again (Dao et al. 2022, FlashAttention, 3.1).
        flops_recompute=product,
        activation_bytes=layers * activation_bytes.attention(p) + activation_bytes.rotation(p),
    )


def _of_gemms(
    name: str, kind: TensorKind, layers: int, gemms: tuple[Gemm, ...], activation_bytes: int
) -> ModuleCost:
    flops = sum(gemm.flops for gemm in gemms)
    return ModuleCost(
        name=name,
        kind=kind,
        num_layers=layers,
        flops_forward=flops,
        flops_backward=2 * flops,
        gemms=gemms,
        activation_bytes=activation_bytes,
    )


def _mlp(
    p: RankWorkload, name: str, kind: TensorKind, whole: int, layers: int, *, keeps_input: bool
) -> ModuleCost:
    width, hidden = share(whole, p.tp, 0), p.model.hidden_size
    inward = 2 if p.model.expert == "swiglu" else 1
    gemms = (
        Gemm(m=p.tokens, n=width, k=hidden, count=inward * layers),
        Gemm(m=p.tokens, n=hidden, k=width, count=layers),
    )
    kept = layers * activation_bytes.mlp(p, width, keeps_input=keeps_input)
    return _of_gemms(name, kind, layers, gemms, kept)


def _router(p: RankWorkload, layers: int) -> ModuleCost:
    """Under tp every partner also takes the logits of all tokens, without gradient, to decide the routes."""
    num_experts, hidden = p.model.num_experts, p.model.hidden_size
    mine = Gemm(m=p.share_tokens, n=num_experts, k=hidden, count=layers, dtype="fp32")
    everyone = Gemm(m=p.tokens, n=num_experts, k=hidden, count=layers, dtype="fp32")
    gemms = (mine,) if p.tp == 1 else (mine, everyone)
    return ModuleCost(
        name="router",
        kind="routers",
        num_layers=layers,
        flops_forward=sum(gemm.flops for gemm in gemms),
        flops_backward=2 * mine.flops,
        gemms=gemms,
        activation_bytes=layers * activation_bytes.router(p),
    )


def _dispatch(p: RankWorkload, layers: int) -> ModuleCost:
    """Row movement, no GEMM; DeepSpeed's stock layer moves them by two einsums over all experts."""
    gemms: tuple[Gemm, ...] = ()
    flops = 0
    if p.model.dispatch == "deepspeed":
        rows = p.model.num_experts * p.stock_capacity
        gemms = (
            Gemm(m=rows, n=p.model.hidden_size, k=p.tokens, count=layers),
            Gemm(m=p.tokens, n=p.model.hidden_size, k=rows, count=layers),
        )
        flops = gemms[0].flops
    return ModuleCost(
        name="dispatch",
        kind="experts",
        num_layers=layers,
        flops_forward=2 * flops,
        flops_backward=3 * flops,  # the mask of the first einsum has no gradient
        gemms=gemms,
        activation_bytes=layers * activation_bytes.dispatch(p),
    )


def _experts(p: RankWorkload, layers: int) -> ModuleCost:
    hidden, inner = p.model.hidden_size, p.model.moe_intermediate_size
    inward = 2 if p.model.expert == "swiglu" else 1
    local = p.model.num_experts // p.ep
    rows = -(-p.computed // local)
    flops = 2 * p.computed * hidden * inner * (inward + 1) * layers
    return ModuleCost(
        name="experts",
        kind="experts",
        num_layers=layers,
        flops_forward=flops,
        flops_backward=2 * flops,
        gemms=(
            Gemm(m=rows, n=inward * inner, k=hidden, count=layers, groups=local),
            Gemm(m=rows, n=hidden, k=inner, count=layers, groups=local),
        ),
        activation_bytes=layers * activation_bytes.experts(p),
    )


def _final_norm(p: RankWorkload) -> ModuleCost:
    return ModuleCost(
        name="final norm",
        kind="norms",
        num_layers=1,
        is_in_layer=False,
        activation_bytes=activation_bytes.norm(p, p.tokens, p.model.hidden_size),
    )


def _output(p: RankWorkload) -> Iterator[ModuleCost]:
    hidden = p.model.hidden_size
    if p.model.aggregation == "linear":
        gemms = (Gemm(m=p.tokens, n=hidden, k=share(hidden, p.tp, 0)),)
        yield _of_gemms("aggregation", "aggregation", 1, gemms, activation_bytes.aggregation(p))
    full, rest = divmod(p.tokens, p.head_chunk_tokens)  # a GEMM for each chunk of tokens
    chunks = (Gemm(m=p.head_chunk_tokens, n=p.vocabulary, k=hidden, count=full),) if full else ()
    gemms = (*chunks, *((Gemm(m=rest, n=p.vocabulary, k=hidden),) if rest else ()))
    yield _of_gemms("head", "head", 1, gemms, activation_bytes.head(p))
