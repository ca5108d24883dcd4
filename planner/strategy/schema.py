"""What a person writes: every section and key of a strategy, its type, its bounds and its default."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from planner.strategy.claim_quantities import CLAIM_QUANTITIES
from planner.strategy.cluster import Cluster
from planner.strategy.execution import Launch, Limits, Operate, Output, Runtime
from planner.strategy.field_types import (
    Decay,
    NotNegative,
    NotNegativeNumber,
    Path,
    Positive,
    PositiveNumber,
    RunName,
    Section,
    Seed,
    Text,
    VocabSize,
    is_text,
    make_error,
    show,
)
from planner.strategy.sources import Sources
from planner.units import EXAMPLES, QuantityError, format_quantity, legal_units, parse_quantity, shorten

Precision = Literal["fp32", "bf16", "fp8"]


class ModelShape(Section):
    """The model: its shape and how tokens reach their experts. Field names are those of its configuration."""

    num_hidden_layers: Positive = Field(description="dense and MoE layers together", examples=[16])
    num_experts: Positive = Field(description="a layer", examples=[64])
    num_experts_per_tok: Positive = Field(default=1, description="k, the experts that each token goes to")
    norm_topk_prob: bool | None = Field(
        default=None, description="renormalise the gates; null: only for k > 1"
    )
    hidden_size: Positive = Field(description="the width of a token", examples=[1024])
    moe_intermediate_size: Positive = Field(description="the inner width of an expert", examples=[2048])
    expert: Literal["mlp", "swiglu"] = Field(
        default="mlp", description="mlp: up, down | swiglu: gate, up, down"
    )
    hidden_act: Literal["silu", "gelu", "relu"] = Field(
        default="silu", description="the activation of experts and dense layers"
    )
    num_shared_experts: NotNegative = Field(default=0, description="experts that every token goes to")
    first_dense_layers: NotNegative = Field(default=0, description="leading layers with an MLP, no experts")
    intermediate_size: Positive | None = Field(
        default=None, description="the inner width of dense layers; required when first_dense_layers > 0"
    )
    num_attention_heads: Positive = Field(description="query heads", examples=[16])
    num_key_value_heads: Positive = Field(
        default_factory=lambda data: data["num_attention_heads"],
        description="null: num_attention_heads; not fewer than tp",
    )
    head_dim: Positive = Field(
        default_factory=lambda data: max(1, data["hidden_size"] // data["num_attention_heads"]),
        description="null: hidden_size / num_attention_heads",
    )
    qk_norm: Literal["none", "head", "projection"] = Field(
        default="none",
        description="RMSNorm of queries and keys: head as in Qwen3-MoE, projection as in OLMoE",
    )
    rope_theta: PositiveNumber = Field(default=10_000.0, description="the base of the rotary embedding")
    rms_norm_eps: PositiveNumber = Field(default=1e-6, description="added to the mean square in every norm")
    vocab_size: VocabSize = Field(
        description="token ids; also the size of a tokenizer that is trained", examples=[4096]
    )
    aggregation: Literal["linear", "none"] = Field(
        default="none", description="linear: hidden × hidden before the head"
    )
    dispatch: Literal["dropless", "capacity", "deepspeed"] = Field(
        default="dropless", description="capacity: drop what is too much | deepspeed: its own MOELayer"
    )
    capacity_factor: PositiveNumber | None = Field(
        default=None,
        description="required for dispatch: capacity; room of an expert is ceil(factor·k·S/num_experts) "
        "of a sequence's S tokens",
    )
    initializer_range: PositiveNumber = Field(
        default=0.02, description="standard deviation of matrices at the start"
    )
    embedding_std: PositiveNumber = Field(
        default=0.5, description="standard deviation of the embedding at the start"
    )
    init_from: Path | None = Field(default=None, description="a Hugging Face folder or a run")

    @model_validator(mode="before")
    @classmethod
    def _null_means_derived(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        derived = ("num_key_value_heads", "head_dim")
        return {key: value for key, value in data.items() if value is not None or key not in derived}

    @property
    def normalizes_gates(self) -> bool:
        """Whether the gates of a token's experts are scaled to a sum of 1."""
        return self.num_experts_per_tok > 1 if self.norm_topk_prob is None else self.norm_topk_prob

    @property
    def num_moe_layers(self) -> int:
        return self.num_hidden_layers - self.first_dense_layers


class Parallel(Section):
    """Where the ranks of a plan stand; also written as a short name (EP64_TP2_PP1_DP1)."""

    placement: Literal["colocated", "staged"] = Field(
        default="colocated", description="staged: embedding, experts and output on ranks of their own"
    )
    ep: Positive = Field(default=1, description="expert parallel degree")
    tp: Positive = Field(default=1, description="tensor parallel degree")
    pp: Positive = Field(default=1, description="pipeline parallel degree")
    dp: Positive = Field(default=1, description="copies of the whole model")
    zero_stage: NotNegative = Field(
        default=1,
        json_schema_extra={"enum": [0, 1, 2]},
        description="what DeepSpeed partitions: 0 nothing, 1 the optimizer, 2 gradients too",
    )
    rank_order: Literal["document", "compact"] = Field(
        default="document", description="staged only: compact numbers the expert stages first"
    )

    @property
    def short_name(self) -> str:
        return f"EP{self.ep}_TP{self.tp}_PP{self.pp}_DP{self.dp}"


SHORT_NAME_PATTERN = r"^(EP|TP|PP|DP)[1-9]\d*(_(EP|TP|PP|DP)[1-9]\d*)*$"


def parse_short_name(text: str) -> dict[str, int]:
    """The degrees in a short name; those left out are 1.

    Raises:
        ValueError: if the text is not a short name.
    """
    degrees: dict[str, int] = {}
    for part in text.split("_"):
        match = re.fullmatch(r"(EP|TP|PP|DP)([1-9]\d{0,8})", part)
        if match is None or match.group(1).lower() in degrees:
            raise ValueError(f"{shorten(text)!r} is not a short name")
        degrees[match.group(1).lower()] = int(match.group(2))
    return degrees


def _parse_parallel(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_short_name(value)
    except ValueError as error:
        raise make_error(
            "SW137", str(error), "EP, TP, PP and DP with their degrees, for example EP64_TP2_PP1_DP1"
        ) from None


class Optimizer(Section):
    """AdamW; no weight decay on norms, embeddings and biases."""

    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.95), description="decay of the two moments")
    eps: PositiveNumber = Field(default=1e-8, description="added to the root of the second moment")
    weight_decay: NotNegativeNumber = Field(default=0.1, description="of matrices, times the learning rate")


class Training(Section):
    """The course of a training: batch, schedule, loss."""

    precision: Precision = Field(
        default="bf16",
        description="bf16 and fp8 hold bf16 weights and fp32 masters, and sum gradients in fp32",
    )
    seq_length: Positive = Field(description="targets of a sequence, in tokens", examples=[1024])
    global_batch: Positive = Field(description="sequences; accumulation follows from it", examples=[128])
    micro_batch: Positive = Field(
        default=1, description="sequences per data-parallel rank of the widest stage"
    )
    steps: Positive = Field(description="updates, those of earlier attempts included", examples=[1000])
    schedule_steps: Positive | None = Field(
        default=None, description="the cosine's horizon; null: steps of the first attempt"
    )
    warmup_steps: NotNegative = Field(default=50, description="steps of linear warm-up")
    learning_rate: PositiveNumber = Field(default=3e-4, description="the peak, after the warm-up")
    min_learning_rate: NotNegativeNumber = Field(
        default=3e-5, description="the end of the cosine, and after it"
    )
    optimizer: Optimizer = Optimizer()
    gradient_clipping: NotNegativeNumber = Field(default=1.0, description="global norm; 0: off")
    balance: Literal["loss", "bias"] = Field(default="loss", description="bias: balance_loss is not applied")
    bias_update_speed: NotNegativeNumber = Field(default=0.001, description="of balance: bias, a step")
    balance_loss: NotNegativeNumber = Field(
        default=0.01, description="the factor of the balance loss B; 0: off"
    )
    z_loss: NotNegativeNumber = Field(
        default=0.001, description="the factor of the router's z-loss Z; 0: off"
    )
    seed: Seed = Field(default=1, description="of initialisation and data order, the only randomness")

    @property
    def element_bytes(self) -> int:
        """Of a weight, and of an activation between modules; fp8 trains bf16 weights."""
        return 4 if self.precision == "fp32" else 2


def _parse_paths(value: Any) -> Any:
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for item in items:
        if not isinstance(item, str) and value is not None:
            raise make_error("SW113", f"{show(item)} is not a path", "a path, a list of paths, or null")
    return items if isinstance(value, list) else value


class Data(Section):
    """The text to train on."""

    path: Annotated[Path | tuple[Path, ...] | None, BeforeValidator(_parse_paths)] = Field(
        default=None,
        description="a file, folder or glob, or a list of them; null: the standard library's sources",
    )
    tokenizer: Path | None = Field(
        default=None, description="a Hugging Face tokenizer; null: one trained on the data"
    )
    validation_sequences: Positive = Field(default=64, description="held out, spread evenly over the data")


class Claim(Section):
    """A figure that someone stated, to be held against what is derived."""

    quantity: Literal[tuple(CLAIM_QUANTITIES)] = Field(  # type: ignore[valid-type]
        description="which figure", examples=["forward_latency"]
    )
    value: Annotated[int | float, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]})] = (
        Field(description="in a unit of the quantity", examples=["12.5 ms"])
    )
    where: Text = Field(description="its place in the document", examples=["Latency Analysis"])

    @field_validator("value", mode="before")
    @classmethod
    def _parse_value(cls, value: Any, info: ValidationInfo) -> Any:
        dimension = CLAIM_QUANTITIES.get(info.data.get("quantity", ""))
        if dimension is None:
            return 0  # the quantity is wrong, so nothing can be said about its value
        expected = f"a number with a unit ({legal_units(dimension)}), for example {EXAMPLES[dimension]}"
        if dimension == "count":
            expected = f"a number, for example {EXAMPLES[dimension]}"
        if isinstance(value, str):
            try:
                return parse_quantity(value, dimension)
            except QuantityError as error:
                raise make_error("SW116", str(error), expected) from None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise make_error("SW116", f"{show(value)} is not a quantity", expected)
        if is_text(info) and dimension not in ("count", "share"):
            raise make_error("SW116", f"{value!r} has no unit", expected, f"write {value!r} with its unit")
        return value


def _write_claims(claims: tuple[Claim, ...], info: SerializationInfo) -> Any:
    def value(claim: Claim) -> Any:
        if not is_text(info) or CLAIM_QUANTITIES[claim.quantity] == "count":
            return claim.value
        return format_quantity(claim.value, CLAIM_QUANTITIES[claim.quantity])

    return [{"quantity": c.quantity, "value": value(c), "where": c.where} for c in claims]


class Strategy(Section):
    """One strategy: the cluster, the model, the degrees, the course."""

    name: RunName = Field(
        default="unnamed", description="the folder under output.folder; read from a file: its name"
    )
    cluster: Cluster
    model: ModelShape
    parallel: Annotated[Parallel, BeforeValidator(_parse_parallel)] = Parallel()
    training: Training
    data: Data = Data()
    runtime: Runtime = Runtime()
    limits: Limits = Limits()
    claims: Annotated[tuple[Claim, ...], PlainSerializer(_write_claims)] = ()
    launch: Launch = Launch()
    operate: Operate = Operate()
    output: Output = Output()
    _sources: Sources = PrivateAttr(default_factory=Sources)  # set by load; neither dumped nor compared

    @property
    def sources(self) -> Sources:
        """Where each key was written; empty for a strategy made in code."""
        return self._sources
