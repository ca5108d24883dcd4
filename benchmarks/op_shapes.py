"""Shapes that operations are counted on: every key of the model varies, and so do tp and ep."""

from dataclasses import dataclass

from planner import Strategy, loads

_BASE = """\
name: counted
cluster: {hosts: 1, gpus_per_host: 1, gpu: cpu, links: {intra_host: 1 GB/s, inter_host: 1 GB/s}}
model:
  num_hidden_layers: 2
  num_experts: 8
  hidden_size: 128
  moe_intermediate_size: 192
  num_attention_heads: 4
  vocab_size: 2048
  aggregation: none
training: {precision: fp32, seq_length: 256, global_batch: 1, steps: 1}
"""


@dataclass(frozen=True)
class Shape:
    """A strategy by its overrides, on rank 0 of tp and ep ranks."""

    overrides: tuple[str, ...]
    tp: int = 1
    ep: int = 1

    @property
    def title(self) -> str:
        degrees = tuple(f"{name}={n}" for name, n in (("tp", self.tp), ("ep", self.ep)) if n > 1)
        return ", ".join((*self.overrides, *degrees)) or "base"

    def strategy(self, precision: str) -> Strategy:
        return loads(
            _BASE,
            [
                *(o if o.startswith("training.") else f"model.{o}" for o in self.overrides),
                f"training.precision={precision}",
            ],
        )


_PAIR = ("training.micro_batch=2", "training.global_batch=2")
_LONG = (
    "training.seq_length=2048",
    "training.micro_batch=8",
    "training.global_batch=8",
    "num_hidden_layers=1",
)
_MANY_HEADS = ("num_attention_heads=64", "head_dim=8", "training.seq_length=128")
_MANY_TOKENS = (
    "training.seq_length=2048",
    "training.micro_batch=32",
    "training.global_batch=32",
    "num_hidden_layers=1",
    "vocab_size=512",
)
_NARROW = ("moe_intermediate_size=32", "num_attention_heads=2", "num_hidden_layers=1")
_WIDE = (
    "num_hidden_layers=1",
    "num_experts=4",
    "num_attention_heads=64",
    "num_key_value_heads=4",
    "head_dim=128",
)

SHAPES = (
    Shape(()),
    Shape(("hidden_size=256", "num_experts_per_tok=2")),
    Shape(("num_attention_heads=8", "head_dim=64", "num_key_value_heads=2")),
    Shape(("qk_norm=head", "head_dim=16", "expert=swiglu", "num_experts_per_tok=2")),
    Shape(("qk_norm=head", "num_attention_heads=8", "num_key_value_heads=2", "head_dim=32")),
    Shape(("qk_norm=projection", "num_attention_heads=8", "num_key_value_heads=4", "head_dim=32")),
    Shape(("expert=swiglu", "num_experts_per_tok=4", "num_experts=16", "hidden_size=192")),
    Shape(("expert=swiglu", "moe_intermediate_size=512", "num_experts_per_tok=2", "num_shared_experts=2")),
    Shape(("num_shared_experts=1", "moe_intermediate_size=320", "num_experts=64")),
    Shape(("vocab_size=65536", "training.seq_length=512", "hidden_size=64")),
    Shape(("vocab_size=151936", "hidden_size=64", "num_hidden_layers=1")),
    Shape(("vocab_size=32768", "hidden_size=320", "training.seq_length=512", "num_experts=32")),
    Shape(("first_dense_layers=1", "intermediate_size=640", "expert=swiglu", *_PAIR)),
    Shape(("first_dense_layers=1", "intermediate_size=384", "num_experts_per_tok=2", "hidden_size=64")),
    Shape(("num_experts=128", "num_experts_per_tok=8", "expert=swiglu", "training.seq_length=512")),
    Shape(("num_experts=256", "num_attention_heads=2", "num_key_value_heads=1", "hidden_size=64", *_LONG)),
    # As wide as published models, one layer with few experts.
    Shape((*_WIDE, "hidden_size=4096", "moe_intermediate_size=512", "qk_norm=head", "expert=swiglu")),
    Shape((*_WIDE, "hidden_size=256", "moe_intermediate_size=14336", "num_experts_per_tok=2")),
    Shape((*_MANY_HEADS, "hidden_size=32", "moe_intermediate_size=32", "vocab_size=512", "num_experts=2")),
    Shape(
        (*_MANY_TOKENS, "hidden_size=32", "num_attention_heads=1", "head_dim=32", "moe_intermediate_size=64")
    ),
    Shape(
        (*_WIDE[:2], "hidden_size=7168", "num_attention_heads=128", "head_dim=32", "moe_intermediate_size=64")
    ),
    Shape(("num_experts=512", "num_experts_per_tok=16", "head_dim=256", "num_shared_experts=8", *_NARROW)),
    Shape(("num_experts_per_tok=2", "expert=swiglu"), ep=4),
    Shape(("num_experts=16", "hidden_size=320", "moe_intermediate_size=128"), ep=4),
    Shape(("num_experts=32", "num_experts_per_tok=4", "training.seq_length=512"), ep=8),
    Shape(("hidden_size=192",), ep=8),  # one expert a rank
    Shape(("num_experts=24", "hidden_size=160", "training.seq_length=384"), ep=4),
    Shape(("num_experts=64", "num_experts_per_tok=8", "expert=swiglu", "training.seq_length=512"), ep=8),
    Shape(("num_experts=64", "num_experts_per_tok=4", "hidden_size=64", "training.seq_length=1024"), ep=2),
    Shape(("num_experts=32", "num_experts_per_tok=2", "hidden_size=384", *_PAIR), ep=16),
    Shape(("num_shared_experts=1", "qk_norm=head", "hidden_size=256"), tp=2, ep=2),
    Shape(
        ("num_experts_per_tok=2", "expert=swiglu", "num_experts=64", "training.seq_length=512"), tp=4, ep=4
    ),
    Shape(
        (
            "first_dense_layers=1",
            "intermediate_size=512",
            "num_attention_heads=8",
            "head_dim=64",
            "vocab_size=40960",
        ),
        tp=2,
    ),
    Shape(("num_hidden_layers=1", "vocab_size=8192"), tp=2),
)
