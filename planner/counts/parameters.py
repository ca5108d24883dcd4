"""Parameter tensors of a part of the model: name, kind and shape of each, as model/ makes them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Literal

from planner.plan.plan import Plan
from planner.strategy.schema import ModelShape
from planner.topology.grid import share
from planner.topology.placement import Stage, StageContents

TensorKind = Literal[
    "embedding", "attention", "norms", "routers", "experts", "shared", "dense", "aggregation", "head"
]


@dataclass(frozen=True, kw_only=True)
class ParameterTensor:
    """A parameter as one rank holds it; `name` is that of the whole model."""

    name: str
    kind: TensorKind
    shape: tuple[int, ...]
    is_expert: bool = False
    is_split_over_tp: bool = False

    @cached_property
    def num_elements(self) -> int:
        return prod(self.shape)

    @property
    def decays(self) -> bool:
        """Weight decay acts on matrices; norms and embeddings are left alone (runtime.training.engine)."""
        return len(self.shape) > 1 and self.kind != "embedding"


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Elements by kind; `active` is how many of them one token meets."""

    embedding: int = 0
    attention: int = 0
    norms: int = 0
    routers: int = 0
    experts: int = 0
    shared: int = 0
    dense: int = 0
    aggregation: int = 0
    head: int = 0
    active: int = 0

    @property
    def total(self) -> int:
        return sum(count for _, count in self.by_kind)

    @property
    def by_kind(self) -> tuple[tuple[str, int], ...]:
        """The kinds that are there, in the order in which a token meets them."""
        kinds = ("embedding", "attention", "norms", "routers", "experts", "shared", "dense")
        counts = ((kind, getattr(self, kind)) for kind in (*kinds, "aggregation", "head"))
        return tuple((kind, count) for kind, count in counts if count)


def count_parameters(model: ModelShape, tensors: Iterable[ParameterTensor]) -> ParameterCounts:
    """The tensors of a model, or of a rank, by kind."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.kind] = counts.get(tensor.kind, 0) + tensor.num_elements
    idle = counts.get("experts", 0) * (model.num_experts - model.num_experts_per_tok) // model.num_experts
    return ParameterCounts(**counts, active=sum(counts.values()) - idle)


def model_parameters(model: ModelShape) -> ParameterCounts:
    """The parameters of the model by kind, and how many of them one token meets."""
    return count_parameters(model, whole_model(model))


def whole_model(model: ModelShape) -> tuple[ParameterTensor, ...]:
    """Every parameter of the model, unsplit."""
    layers = tuple(range(model.num_hidden_layers))
    return part_of_model(model, StageContents(layers=layers, embedding=True, norm=True, output=True))


def parameters_of(plan: Plan, rank: int) -> tuple[ParameterTensor, ...]:
    """Every parameter that a rank of a plan holds, in the order in which its module names them."""
    stage = plan.stage_of(rank)
    return stage_parameters(plan.strategy.model, stage, stage.dense.coordinate("tp", rank))


def stage_parameters(model: ModelShape, stage: Stage, tp_rank: int = 0) -> tuple[ParameterTensor, ...]:
    """What the ranks of a stage with one place in their TP groups hold; place 0 holds the most."""
    return part_of_model(
        model,
        stage.contents,
        tp=stage.dense.size("tp"),
        tp_rank=tp_rank,
        ep=1 if stage.expert is None else stage.expert.size("ep"),
    )


@lru_cache(maxsize=4096)
def part_of_model(
    model: ModelShape, contents: StageContents, *, tp: int = 1, tp_rank: int = 0, ep: int = 1
) -> tuple[ParameterTensor, ...]:
    """The parameters of some modules, as one rank of a TP and an EP group holds them.

    The ranks of an EP group hold equally much: other experts of the same shapes.
    """
    tensors: list[ParameterTensor] = []
    if contents.embedding:
        rows = share(model.vocab_size, tp, 0)  # a shorter share is padded
        tensors.append(_split("model.embed_tokens.weight", "embedding", (rows, model.hidden_size), tp))
    for layer in contents.layers:
        tensors += _named_layer(model, layer, tp, tp_rank, ep)
    if contents.norm:
        tensors.append(ParameterTensor(name="model.norm.weight", kind="norms", shape=(model.hidden_size,)))
    if contents.output:
        tensors += _output(model, tp, tp_rank)
    return tuple(tensors)


@lru_cache(maxsize=8192)
def _named_layer(
    model: ModelShape, layer: int, tp: int, tp_rank: int, ep: int
) -> tuple[ParameterTensor, ...]:
    tensors = _layer(model, layer < model.first_dense_layers, tp, tp_rank, ep)
    return tuple(replace(tensor, name=f"model.layers.{layer}.{tensor.name}") for tensor in tensors)


def _split(name: str, kind: TensorKind, shape: tuple[int, ...], tp: int) -> ParameterTensor:
    return ParameterTensor(name=name, kind=kind, shape=shape, is_split_over_tp=tp > 1)


@lru_cache(maxsize=1024)
def _layer(model: ModelShape, is_dense: bool, tp: int, tp_rank: int, ep: int) -> tuple[ParameterTensor, ...]:
    hidden = model.hidden_size
    # Heads are never cut.
    q = share(model.num_attention_heads, tp, tp_rank) * model.head_dim
    kv = share(model.num_key_value_heads, tp, tp_rank) * model.head_dim
    tensors = [
        ParameterTensor(name="input_layernorm.weight", kind="norms", shape=(hidden,)),
        _split("self_attn.q_proj.weight", "attention", (q, hidden), tp),
        _split("self_attn.k_proj.weight", "attention", (kv, hidden), tp),
        _split("self_attn.v_proj.weight", "attention", (kv, hidden), tp),
        _split("self_attn.o_proj.weight", "attention", (hidden, q), tp),
    ]
    if model.qk_norm == "head":
        for which in ("q", "k"):
            name = f"self_attn.{which}_norm.weight"
            tensors.append(ParameterTensor(name=name, kind="norms", shape=(model.head_dim,)))
    elif model.qk_norm == "projection":
        tensors.append(_split("self_attn.q_norm.weight", "norms", (q,), tp))
        tensors.append(_split("self_attn.k_norm.weight", "norms", (kv,), tp))
    tensors.append(ParameterTensor(name="post_attention_layernorm.weight", kind="norms", shape=(hidden,)))
    if is_dense:
        assert model.intermediate_size is not None
        tensors += _mlp("mlp", "dense", model, model.intermediate_size, tp, tp_rank)
        return tuple(tensors)
    inner, local = model.moe_intermediate_size, model.num_experts // ep
    first, rows = ("gate_up_proj", 2 * inner) if model.expert == "swiglu" else ("up_proj", inner)
    shapes = {first: (local, rows, hidden), "down_proj": (local, hidden, inner)}
    tensors.append(
        ParameterTensor(name="mlp.router.weight", kind="routers", shape=(model.num_experts, hidden))
    )
    for name, shape in shapes.items():
        tensors.append(
            ParameterTensor(name=f"mlp.experts.{name}", kind="experts", shape=shape, is_expert=True)
        )
    if model.num_shared_experts:
        width = model.num_shared_experts * inner
        tensors += _mlp("mlp.shared_experts", "shared", model, width, tp, tp_rank)
    return tuple(tensors)


def _mlp(
    prefix: str, kind: TensorKind, model: ModelShape, width: int, tp: int, tp_rank: int
) -> Iterator[ParameterTensor]:
    columns, hidden = share(width, tp, tp_rank), model.hidden_size
    for name in ("gate_proj", "up_proj") if model.expert == "swiglu" else ("up_proj",):
        yield _split(f"{prefix}.{name}.weight", kind, (columns, hidden), tp)
    yield _split(f"{prefix}.down_proj.weight", kind, (hidden, columns), tp)


def _output(model: ModelShape, tp: int, tp_rank: int) -> Iterator[ParameterTensor]:
    hidden = model.hidden_size
    if model.aggregation == "linear":
        yield _split("aggregation.weight", "aggregation", (hidden, share(hidden, tp, tp_rank)), tp)
    yield _split("lm_head.weight", "head", (share(model.vocab_size, tp, 0), hidden), tp)
