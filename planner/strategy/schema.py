"""Schema of a strategy: every section and key, its type, bounds and default."""

import re
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from planner.strategy.claims import Claim, write_claims
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
    Tokens,
    VocabSize,
    check_path,
    is_text,
    make_error,
    show,
)
from planner.strategy.sources import Sources
from planner.units import shorten

Precision = Literal["fp32", "bf16", "fp8"]
MomentPrecision = Literal["fp32", "bf16"]


class ModelShape(Section):
    """The model: its shape and the dispatch of tokens to experts, named as in its configuration."""

    num_hidden_layers: Positive = Field(description="dense and MoE layers", examples=[16])
    num_experts: Positive = Field(description="experts per MoE layer", examples=[64])
    num_experts_per_tok: Positive = Field(default=1, description="top-k: experts per token")
    norm_topk_prob: bool | None = Field(
        default=None, description="scale the gates of a token to sum to 1; null: only for k > 1"
    )
    hidden_size: Positive = Field(description="width of the residual stream", examples=[1024])
    moe_intermediate_size: Positive = Field(description="inner width of an expert", examples=[2048])
    expert: Literal["mlp", "swiglu"] = Field(
        default="mlp", description="mlp: up, down | swiglu: gate, up, down"
    )
    hidden_act: Literal["silu", "gelu", "relu"] = Field(
        default="silu", description="activation function of experts and dense layers"
    )
    num_shared_experts: NotNegative = Field(default=0, description="experts that process every token")
    first_dense_layers: NotNegative = Field(
        default=0, description="leading layers with an MLP instead of experts"
    )
    intermediate_size: Positive | None = Field(
        default=None, description="inner width of dense layers; required when first_dense_layers > 0"
    )
    num_attention_heads: Positive = Field(description="query heads", examples=[16])
    num_key_value_heads: Positive = Field(
        default_factory=lambda data: data["num_attention_heads"],
        description="key/value heads; null: num_attention_heads; tp must divide it",
    )
    head_dim: Positive = Field(
        default_factory=lambda data: max(1, data["hidden_size"] // data["num_attention_heads"]),
        description="null: hidden_size / num_attention_heads",
    )
    qk_norm: Literal["none", "head", "projection"] = Field(
        default="none",
        description="RMSNorm of queries and keys: per head as in Qwen3-MoE, or of the projection as in OLMoE",
    )
    rope_theta: PositiveNumber = Field(default=10_000.0, description="base of the rotary embedding")
    rms_norm_eps: PositiveNumber = Field(default=1e-6, description="epsilon of every RMSNorm")
    vocab_size: VocabSize = Field(
        description="number of token ids; a tokenizer trained on the data gets this size", examples=[4096]
    )
    aggregation: Literal["linear", "none"] = Field(
        default="none", description="linear: a hidden × hidden matrix before the head"
    )
    dispatch: Literal["dropless", "capacity", "deepspeed"] = Field(
        default="dropless",
        description="capacity: drop tokens beyond capacity_factor | deepspeed: DeepSpeed's MOELayer",
    )
    capacity_factor: PositiveNumber | None = Field(
        default=None,
        description="for dispatch: capacity; an expert takes up to ceil(factor·k·S/num_experts) tokens "
        "of a sequence of S tokens",
    )
    initializer_range: PositiveNumber = Field(
        default=0.02, description="standard deviation of initial matrices"
    )
    embedding_std: PositiveNumber = Field(
        default=0.5, description="standard deviation of the initial embedding"
    )
    init_from: Path | None = Field(
        default=None, description="initial weights: a Hugging Face folder or a run"
    )

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


def _parse_cut(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Parallel(Section):
    """Parallel degrees and placement; also written as a short name (EP64_TP2_PP1_DP1)."""

    placement: Literal["colocated", "staged"] = Field(
        default="colocated", description="staged: embedding, experts and output on separate ranks"
    )
    ep: Positive = Field(default=1, description="expert parallel degree")
    tp: Positive = Field(default=1, description="tensor parallel degree")
    pp: Positive = Field(default=1, description="pipeline parallel degree")
    dp: Positive = Field(default=1, description="data parallel degree: replicas of the model")
    layers_per_stage: Annotated[tuple[Positive, ...] | None, BeforeValidator(_parse_cut)] = Field(
        default=None,
        description="layers of each of the pp stages, in order; null: as even as possible, the first stages "
        "one more",
    )
    zero_stage: NotNegative = Field(
        default=1,
        json_schema_extra={"enum": [0, 1, 2]},
        description="partitioned by DeepSpeed: 0 nothing, 1 optimizer state, 2 also gradients",
    )
    rank_order: Literal["document", "compact"] = Field(
        default="document", description="staged only: compact numbers the expert stages first"
    )

    @property
    def short_name(self) -> str:
        return f"EP{self.ep}_TP{self.tp}_PP{self.pp}_DP{self.dp}"

    @property
    def layout_name(self) -> str:
        """The short name, and behind it how the layers are cut where that is written: 13+13+13+9, 31×2+1."""
        if self.layers_per_stage is None:
            return self.short_name
        parts: list[str] = []
        for count, run in groupby(self.layers_per_stage):
            number = len(list(run))
            parts += [f"{number}×{count}"] if number > 3 else [str(count)] * number
        return f"{self.short_name} {'+'.join(parts)}"


_DEGREE = r"(EP|TP|PP|DP)[1-9]\d{0,8}"
SHORT_NAME_PATTERN = rf"^(?!.*(EP|TP|PP|DP).*\1){_DEGREE}(_{_DEGREE})*$"


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

    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.95), description="decay rates of the two moments")
    eps: PositiveNumber = Field(default=1e-8, description="added to the square root of the second moment")
    weight_decay: NotNegativeNumber = Field(
        default=0.1, description="weight decay of matrices, multiplied by the learning rate"
    )
    moments: MomentPrecision = Field(default="fp32", description="dtype in which both moments are kept")


class Training(Section):
    """The training recipe: batch, schedule, optimizer, loss."""

    precision: Precision = Field(
        default="bf16",
        description="bf16 and fp8: bf16 weights with fp32 master weights, gradients summed in fp32",
    )
    seq_length: Positive = Field(description="tokens per sequence that are predicted", examples=[1024])
    global_batch: Positive = Field(
        description="sequences per update; accumulation follows from it", examples=[128]
    )
    micro_batch: Positive = Field(
        default=1, description="sequences per data-parallel rank of the widest stage"
    )
    tokens: Tokens | None = Field(
        default=None,
        description="tokens to train on, in place of steps, which follow by rounding up: 1T, 300B, 131072000",
    )
    steps: Positive = Field(
        default_factory=lambda data: steps_for(data["tokens"], data["global_batch"] * data["seq_length"]),
        description="updates in total, including those before a resume; null: from training.tokens",
        examples=[1000],
    )
    schedule_steps: Positive | None = Field(
        default=None, description="length of the cosine schedule; null: steps of the first attempt"
    )
    warmup_steps: NotNegative = Field(default=50, description="steps of linear warm-up")
    learning_rate: PositiveNumber = Field(default=3e-4, description="peak, reached after the warm-up")
    min_learning_rate: NotNegativeNumber = Field(
        default=3e-5, description="at the end of the cosine and after it"
    )
    optimizer: Optimizer = Optimizer()
    gradient_clipping: NotNegativeNumber = Field(
        default=1.0, description="maximum global gradient norm; 0: off"
    )
    balance: Literal["loss", "bias"] = Field(
        default="loss",
        description="load balancing by an auxiliary loss or by per-expert biases (without balance_loss)",
    )
    bias_update_speed: NotNegativeNumber = Field(
        default=0.001, description="change of a bias per step (balance: bias)"
    )
    balance_loss: NotNegativeNumber = Field(
        default=0.01, description="coefficient of the load-balancing loss; 0: off"
    )
    z_loss: NotNegativeNumber = Field(default=0.001, description="coefficient of the router z-loss; 0: off")
    seed: Seed = Field(default=1, description="seed of initialization and data order, the only randomness")

    @model_validator(mode="before")
    @classmethod
    def _null_steps_follow(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("steps", 0) is None:
            return {key: value for key, value in data.items() if key != "steps"}
        return data

    @model_serializer(mode="wrap")
    def _write_tokens_or_steps(
        self, write: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if is_text(info) and self.tokens is not None:
            written.pop("steps", None)  # it follows; both are a Problem
        return written

    @property
    def element_bytes(self) -> int:
        """Of a weight, and of an activation between modules; fp8 trains bf16 weights."""
        return 4 if self.precision == "fp32" else 2


def steps_for(tokens: int | None, tokens_per_step: int) -> int:
    """The steps that see so many tokens; 1 where neither is written, which is a Problem of its own."""
    return 1 if tokens is None else -(-tokens // tokens_per_step)


def _parse_paths(value: Any) -> Any:
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for place, item in enumerate(items, start=1):
        if item == "" and isinstance(value, (list, tuple)):
            kept = [path for path in items if path != ""]
            raise make_error(
                "SW117", f"item {place} of the list is empty", "paths, or null", meant=kept or ["texts"]
            )
        if not isinstance(item, str) and value is not None:
            raise make_error("SW113", f"{show(item)} is not a path", "a path, a list of paths, or null")
        if isinstance(item, str):
            check_path(item)
    return items if isinstance(value, list) else value


class Data(Section):
    """The text to train on."""

    path: Annotated[Path | tuple[Path, ...] | None, BeforeValidator(_parse_paths)] = Field(
        default=None,
        description="file, folder or glob, or a list of them; null: sources of Python's standard library",
    )
    text_field: Text = Field(
        default="text",
        description="key or column of JSON, CSV, Parquet and Arrow that holds the text; a.b: b inside a",
    )
    tokenizer: Path | None = Field(
        default=None, description="Hugging Face tokenizer; null: train one on the data"
    )
    packing: Literal["stream", "documents"] = Field(
        default="stream",
        description="stream: documents joined and cut into sequences; documents: complete documents in each "
        "sequence, attention and positions of each on its own, padding at the end",
    )
    validation_sequences: Positive = Field(
        default=64, description="sequences held out, spread evenly over the data"
    )


class Strategy(Section):
    """A strategy: cluster, model, parallel degrees, training recipe."""

    name: RunName = Field(
        default="unnamed",
        description="name of the run's folder under output.folder; default: the file's name",
    )
    cluster: Cluster
    model: ModelShape
    parallel: Annotated[Parallel, BeforeValidator(_parse_parallel)] = Parallel()
    training: Training
    data: Data = Data()
    runtime: Runtime = Runtime()
    limits: Limits = Limits()
    claims: Annotated[tuple[Claim, ...], PlainSerializer(write_claims)] = ()
    launch: Launch = Launch()
    operate: Operate = Operate()
    output: Output = Output()
    _sources: Sources = PrivateAttr(default_factory=Sources)  # set by load; neither dumped nor compared

    @property
    def sources(self) -> Sources:
        """Where each key was written; empty for a strategy made in code."""
        return self._sources
