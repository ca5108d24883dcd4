"""What a bench trains: a model, its tokens and experts, the same for this program and its peers."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from planner import Plan, build_plan, loads
from planner.counts.flops import model_flops
from planner.counts.forced_routes import forced_routes

# This program, whose step times the others' are divided by.
OURS = "switchyard"
LEARNING_RATE, CLIPPING = 1e-4, 1.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model, and the tokens of a rank: `num_sequences` of `seq_length`."""

    num_layers: int = 4
    hidden_size: int = 256
    moe_intermediate_size: int = 512
    num_experts: int = 64
    top_k: int = 2
    num_heads: int = 4
    num_key_value_heads: int = 4
    head_dim: int = 64
    vocab_size: int = 4096
    seq_length: int = 1024
    num_sequences: int = 1
    # A plan's, of this program alone: keys of a strategy's model section that the peers do not have.
    expert: str = "swiglu"

    @property
    def num_tokens(self) -> int:
        return self.num_sequences * self.seq_length


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a world trains: `competitor` is a key of COMPETITORS; `overrides` are of this program only."""

    competitor: str
    shape: Shape
    precision: str
    num_ranks: int
    capacity_factor: float | None = None
    overrides: tuple[str, ...] = ()
    gpu: Any = "cpu"  # as cluster.gpu


def strategy_text(setting: Setting, kind: str = "balanced", share: float | None = None) -> str:
    """This program's strategy of a setting, with forced routing, as YAML."""
    shape, ranks = setting.shape, setting.num_ranks
    routing = {"kind": kind} | ({"share": share} if share is not None else {})
    names = ("hidden_size", "moe_intermediate_size", "num_experts", "head_dim", "vocab_size", "expert")
    return json.dumps(
        {
            "name": "bench",
            "cluster": {
                "hosts": 1,
                "gpus_per_host": ranks,
                "gpu": setting.gpu,
                "links": {"intra_host": "2 GB/s", "inter_host": "2 GB/s"},
            },
            "model": {name: value for name, value in asdict(shape).items() if name in names}
            | {
                "num_hidden_layers": shape.num_layers,
                "num_experts_per_tok": shape.top_k,
                "num_attention_heads": shape.num_heads,
                "num_key_value_heads": shape.num_key_value_heads,
                "dispatch": "dropless" if setting.capacity_factor is None else "capacity",
            }
            | ({} if setting.capacity_factor is None else {"capacity_factor": setting.capacity_factor}),
            "parallel": {"ep": ranks, "tp": 1, "zero_stage": zero_stage(setting)},
            "training": {
                "precision": setting.precision,
                "seq_length": shape.seq_length,
                "global_batch": shape.num_sequences * ranks,
                "micro_batch": shape.num_sequences,
                "steps": 100,
                "warmup_steps": 1,
                "learning_rate": LEARNING_RATE,
                "min_learning_rate": LEARNING_RATE,
                "gradient_clipping": CLIPPING,
                "balance_loss": 0,
                "z_loss": 0,
            },
            "runtime": {"force_routing": routing},
        }
    )


def zero_stage(setting: Setting) -> int:
    """0 where it works, for one rank in fp32: there ZeRO 1 shares nothing and copies every gradient."""
    return 0 if setting.num_ranks == 1 and setting.precision == "fp32" else 1


def plan_of(setting: Setting) -> Plan:
    return build_plan(loads(strategy_text(setting), setting.overrides))


def step_flops(setting: Setting) -> int:
    """FLOPs of the matrix products of a step, over all ranks: what the model asks, whoever computes it."""
    return model_flops(plan_of(setting)).total


def forced_experts(setting: Setting, kind: str, share: float | None) -> np.ndarray:
    """The experts of every token of the global batch, [tokens, K], as runtime.force_routing has them."""
    strategy = loads(strategy_text(setting, kind, share), setting.overrides)
    routes = forced_routes(strategy, 1)
    assert routes is not None
    return np.stack(routes.experts_of(np.arange(setting.shape.num_tokens * setting.num_ranks)), axis=-1)


def tokens_of(setting: Setting) -> np.ndarray:
    """The global batch, int64 [sequences, seq_length + 1], the same for every competitor."""
    shape = setting.shape
    rows = shape.num_sequences * setting.num_ranks
    return np.random.default_rng(0).integers(0, shape.vocab_size, (rows, shape.seq_length + 1))
