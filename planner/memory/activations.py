"""Activations of a stage as a timeline: what each part of it keeps, and needs while it is at work.

A layer is two parts, its MLP or experts and its attention, because backward lets go of the one before it
computes the other again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from planner.counts import activation_bytes, transient_bytes
from planner.counts.module_flops import end_modules, layer_modules
from planner.counts.parameters import part_of_model
from planner.counts.rank_workload import BALANCED, ExpertImbalance, RankWorkload, rank_workload
from planner.plan.plan import Plan
from planner.strategy.recompute import RecomputeKind
from planner.topology.placement import Stage, StageContents

_INDEX = 8
_WIDE = 4
_SCALED_AT_ONCE = 2**24  # elements (model/lm_head.py)
_SUMS = 64  # loss, auxiliary losses, dropped tokens of a micro-batch


@dataclass(frozen=True, kw_only=True)
class Part:
    """Bytes of one part of a stage for one micro-batch.

    kept: from its forward pass to the end of its backward pass. again: recomputed before its backward pass.
    forward, backward: of its operations, beside; in forward also what it makes and does not keep.
    elements: of its parameters.
    """

    kept: int
    again: int = 0
    forward: int
    backward: int
    elements: int


@dataclass(frozen=True, kw_only=True)
class StageActivations:
    """Runs of equal layers in the order of backward, each (how often, its parts in that order).

    kept: of one micro-batch, everything. forward: the most that operations need beside in the forward pass.
    loss: likewise of the head, which keeps `head_kept` until its backward pass. lasting: of `kept`, what
    stays to the end of the backward pass. inputs: tokens and counts of routes, there for the entire step.
    beside: what the operations of another micro-batch need at the same time.
    """

    runs: tuple[tuple[int, tuple[Part, ...]], ...]
    kept: int
    forward: int
    head_kept: int
    loss: int
    lasting: int
    inputs: int
    beside: int = 0

    @cached_property
    def backward_moments(self) -> tuple[tuple[int, int, int], ...]:
        """While a part is at work in backward: activations of its micro-batch, temporaries, and elements
        whose gradients are made by the end of it. Of equal layers the first and the last: in between both
        change evenly."""
        found = []
        kept, done = self.kept, 0
        for times, parts in self.runs:
            kept_each, elements_each = (
                sum([part.kept for part in parts]),
                sum([part.elements for part in parts]),
            )
            for index in (0, times - 1) if times > 1 else (0,):
                left, made = kept - index * kept_each, done + index * elements_each
                for part in parts:
                    made += part.elements
                    found.append((left + part.again, part.backward, made))
                    left -= part.kept
            kept -= times * kept_each
            done += times * elements_each
        return tuple(found)

    @cached_property
    def backward(self) -> int:
        """The most of activations and temporaries in the backward pass of one micro-batch."""
        return max([kept + temporaries for kept, temporaries, _ in self.backward_moments])


def stage_activations(
    plan: Plan, stage: Stage, imbalance: ExpertImbalance = BALANCED, num_chunks: int = 1
) -> StageActivations:
    """Of a stage's fullest rank. `num_chunks`: in how many parts an output without layers takes its input."""
    p = rank_workload(plan, stage, imbalance, at_peak=True)
    model = p.model
    recompute = plan.strategy.runtime.recompute
    runs: list[tuple[int, tuple[Part, ...]]] = []
    end, head_kept, loss = _end_part(p, stage, num_chunks)
    if end is not None:
        runs.append((1, (end,)))
    for dense, moe, kind in reversed(recompute.split(*stage.num_layers(model.first_dense_layers))):
        if moe:
            runs.append((moe, _layer_parts(p, False, kind)))
        if dense:
            runs.append((dense, _layer_parts(p, True, kind)))
    num_moe = stage.num_layers(model.first_dense_layers)[1]
    lasting = num_moe * activation_bytes.row_order(p)
    runs.append((1, (_first_part(p, stage, lasting),)))
    every = [part for _, parts in runs for part in parts]
    return StageActivations(
        runs=tuple(runs),
        kept=sum(times * part.kept for times, parts in runs for part in parts),
        forward=max(part.forward for part in every) + num_moe * _routing_bytes(p),
        head_kept=head_kept,
        loss=loss,
        lasting=lasting,
        inputs=_INDEX * (p.num_sequences * (p.seq_length + 1) + num_moe * model.num_experts) + _SUMS,
    )


def _first_part(p: RankWorkload, stage: Stage, lasting: int) -> Part:
    """The embedding, or what came from the stage before; what all layers share, and what lasts as long."""
    hidden = p.element_bytes * p.tokens * p.model.hidden_size
    kept = elements = 0
    if stage.contents.embedding:
        (module,) = end_modules(p, StageContents(embedding=True))
        kept, elements = module.activation_bytes, p.vocabulary * p.model.hidden_size
    else:
        kept = hidden  # what came is the input of what comes first
    if stage.layers:
        kept += activation_bytes.rotation(p)
    kept += lasting
    if p.tp == 1:
        return Part(kept=kept, forward=hidden, backward=hidden, elements=elements)
    # Under tp looked up, masked and summed, or gathered; the gradient is summed, or cut.
    masks = p.tokens * (1 + _INDEX)
    return Part(kept=kept, forward=3 * hidden + masks, backward=2 * hidden, elements=elements)


def _end_part(p: RankWorkload, stage: Stage, num_chunks: int) -> tuple[Part | None, int, int]:
    """Final norm and output, what the head keeps, and what the loss needs beside."""
    contents, model = stage.contents, p.model
    modules = end_modules(p, replace(contents, layers=(), embedding=False))
    if not modules:
        return None, 0, 0
    a, hidden = p.element_bytes, _chunk_tokens(p, num_chunks) * model.hidden_size
    weight = p.vocabulary * model.hidden_size
    kept = sum(module.activation_bytes for module in modules)
    elements = sum(
        tensor.num_elements
        for tensor in part_of_model(model, replace(contents, layers=(), embedding=False), tp=p.tp)
    )
    wide = 0 if p.is_fused else _WIDE  # fp32 copies of norms, which fused kernels do not write
    norm = (4 * wide + 4 * a) * hidden if contents.norm else 2 * a * hidden
    if not contents.output:
        return Part(kept=kept, forward=(wide + 3 * a) * hidden, backward=norm, elements=elements), 0, 0
    each = activation_bytes.head_weight(p, _chunk_tokens(p, num_chunks))
    head = a * p.tokens * model.hidden_size + num_chunks * each
    # The head's gradients are scaled in place, in fp32 a piece at a time. The weight's, which is kept, then
    # becomes the parameter's gradient, which counts as one, unless its dtype is another.
    scaled = 0 if a == _WIDE else _WIDE * min(_SCALED_AT_ONCE, max(weight, hidden))
    handed_over = each if each == a * weight else 0
    part = Part(
        kept=kept + head - activation_bytes.head(p),
        forward=(wide + 3 * a) * hidden,
        # Of a tiny model, what is handed over is more than all that is beside it.
        backward=max(0, 2 * a * hidden + max(scaled, norm) - handed_over),
        elements=elements,
    )
    return part, head, _loss_bytes(p, num_chunks)


def _loss_bytes(p: RankWorkload, num_chunks: int) -> int:
    """Of a chunk of tokens: logits as they come, which become their gradient, and in fp32; one tensor in
    fp32, or fused. In bf16 a product that is added to the weight's gradient, if there are several (GPUs add
    it without). Beside: the vectors before norm and aggregation, and after (model/lm_head.py)."""
    a, hidden = p.element_bytes, p.model.hidden_size
    weight, widest = p.vocabulary * hidden, max(p.vocabulary, hidden)
    tokens = _chunk_tokens(p, num_chunks)
    chunk = min(tokens, p.head_chunk_tokens)
    is_wide = a == _WIDE
    is_one = tokens <= p.head_chunk_tokens
    logits = a if is_wide or p.is_fused else _WIDE + a
    product = 0 if is_wide or is_one else a * weight
    vectors = ((0 if p.is_fused else _WIDE) + 3 * a) * tokens * hidden
    small = tokens * (3 * _INDEX + 8) + chunk * (4 * _INDEX + 8 * _WIDE)
    codes = transient_bytes.float8(p, chunk, widest, weight)
    if p.is_float8:  # its weight is quantized once by row and once by column, and the product is copied
        codes += (1 + a) * weight + a * chunk * widest
    return logits * chunk * p.vocabulary + product + vectors + small + codes


def _chunk_tokens(p: RankWorkload, num_chunks: int) -> int:
    return -(-p.num_sequences // num_chunks) * p.seq_length


def _routing_bytes(p: RankWorkload) -> int:
    """What a layer's routing has until the forward pass ends: its counts, and under tp all tokens' logits."""
    everyone = _WIDE * p.tokens if p.tp > 1 else 0
    return p.model.num_experts * (_INDEX + everyone) + _SUMS


@lru_cache(maxsize=4096)
def _layer_parts(p: RankWorkload, is_dense: bool, recompute: RecomputeKind) -> tuple[Part, Part]:
    """A layer's MLP or experts with the norm before, and its attention with the norm before."""
    model = p.model
    hidden = p.element_bytes * p.tokens * model.hidden_size
    norm = activation_bytes.norm(p, p.tokens, model.hidden_size)
    attention = norm + activation_bytes.query_key_norms(p)
    attention += activation_bytes.projections(p) + activation_bytes.attention(p)
    modules = layer_modules(p, int(is_dense), int(not is_dense))
    mlp = norm + sum(m.activation_bytes for m in modules if m.kind not in ("norms", "attention"))
    mlp -= 0 if is_dense else activation_bytes.row_order(p)
    width, shared = _widths(p, is_dense)
    forward = transient_bytes.mlp(p, width, is_backward=False) if width else 0
    backward = transient_bytes.mlp(p, width, is_backward=True) if width else 0
    if not is_dense:
        # Shared experts work beside the result of the routed ones; in backward their gradients are apart.
        forward = max(transient_bytes.moe(p, is_backward=False), forward + hidden * shared)
        backward = max(transient_bytes.moe(p, is_backward=True), backward) + hidden * shared
    attends = transient_bytes.attention(p, is_backward=False)
    attends_back = transient_bytes.attention(p, is_backward=True)
    elements = list(_elements(p, is_dense))
    if recompute == "layer":
        work = max(forward, attends) + hidden  # beside the gradient of the layer's result
        replay = 0 if is_dense else activation_bytes.routing_replay(p)
        return (
            Part(
                kept=0,
                again=mlp + attention,
                forward=forward + mlp,
                backward=max(backward, work),
                elements=elements[0],
            ),
            Part(
                kept=hidden + replay,
                again=attention,
                forward=attends + attention,
                backward=attends_back,
                elements=elements[1],
            ),
        )
    again = rows = 0
    if recompute == "experts" and not is_dense:
        rows = activation_bytes.expert_rows(p)
        again = activation_bytes.experts(p) - rows
    first = Part(
        kept=mlp - again, again=again, forward=forward + again, backward=backward, elements=elements[0]
    )
    if recompute == "attention":
        return first, Part(
            kept=hidden,
            again=attention,
            forward=attends + attention,
            backward=max(attends + hidden, attends_back),
            elements=elements[1],
        )
    return first, Part(kept=attention, forward=attends, backward=attends_back, elements=elements[1])


def _widths(p: RankWorkload, is_dense: bool) -> tuple[int, int]:
    """Local width of a layer's MLP or shared experts, and whether it has shared experts."""
    model = p.model
    if is_dense:
        assert model.intermediate_size is not None
        return -(-model.intermediate_size // p.tp), 0
    return -(-model.num_shared_experts * model.moe_intermediate_size // p.tp), int(
        model.num_shared_experts > 0
    )


def _elements(p: RankWorkload, is_dense: bool) -> Iterator[int]:
    """Of the parameters of a layer's two parts."""
    layer = 0 if is_dense else p.model.first_dense_layers
    tensors = part_of_model(p.model, StageContents(layers=(layer,)), tp=p.tp, ep=p.ep)
    mlp = sum(t.num_elements for t in tensors if ".mlp." in t.name or "post_attention" in t.name)
    yield mlp
    yield sum(t.num_elements for t in tensors) - mlp
