"""Training section of a strategy: the recipe, that is batch, schedule, optimizer and loss."""

from typing import Any, Literal

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from planner.strategy.field_types import (
    Decay,
    LearningRate,
    NotNegative,
    NotNegativeNumber,
    Positive,
    PositiveNumber,
    Section,
    Seed,
    Tokens,
    is_text,
)

Precision = Literal["fp32", "bf16", "fp8"]
MomentPrecision = Literal["fp32", "bf16"]


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
        description="bf16 and fp8: bf16 weights with fp32 master weights, gradients summed in fp32; fp8: "
        "products of linear layers and experts in e4m3, their weights' gradients in bf16",
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
    learning_rate: LearningRate = Field(default=3e-4, description="peak, reached after the warm-up")
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
