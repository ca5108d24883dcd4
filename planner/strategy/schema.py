"""Schema of a strategy: all its sections; the model and the data here, the others in files of their own."""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    model_validator,
)

from planner.strategy.claims import Claim, write_claims
from planner.strategy.cluster import Cluster
from planner.strategy.corpora import MixPart, Paths
from planner.strategy.execution import Limits, Operate, Output, Runtime
from planner.strategy.field_types import (
    NotNegative,
    Path,
    Positive,
    PositiveNumber,
    RunName,
    Section,
    Text,
    VocabSize,
)
from planner.strategy.launch import Launch
from planner.strategy.parallel import Parallel, parse_parallel
from planner.strategy.sources import Sources
from planner.strategy.training import Training


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


TEXT_FIELD = "text"


class Data(Section):
    """The text to train on."""

    path: Paths = Field(
        default=None,
        description="file, folder or glob, or a list of them; null: sources of Python's standard library",
    )
    mix: tuple[MixPart, ...] | None = Field(
        default=None,
        description="corpora with weights, in place of path",
    )
    text_field: Text = Field(
        default=TEXT_FIELD,
        description="key or column of JSON, CSV, Parquet and Arrow that holds the text; a.b: b inside a; "
        "with format chat the key of the messages, where it is not messages",
    )
    tokenizer: Path | None = Field(
        default=None, description="Hugging Face tokenizer; null: train one on the data"
    )
    format: Literal["text", "chat", "prompt"] = Field(
        default="text",
        description="chat: records of messages, prompt: of a prompt and its completion, both through the "
        "tokenizer's chat template, with a loss on the answers only",
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
    parallel: Annotated[Parallel, BeforeValidator(parse_parallel)] = Parallel()
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
