"""Published training runs beside their predictions: `python -m benchmarks.published`.

Each run is planned with runtime.kernels fused and gradients reduced once a step, predicted, and held against
its source. One factor, of compute only, is fitted on the first run and applied to all.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner import Plan, __version__, build_plan, loads
from planner.counts.flops import model_flops
from planner.counts.rank_workload import BALANCED
from planner.hardware.catalog import device_of
from planner.prediction.roofline import roofline
from planner.standard_streams import run_program
from planner.timing.layer_time import PassTime
from planner.timing.pipeline_time import Bracket, step_bracket
from planner.timing.stage_time import StageTime
from planner.timing.time_model import StepTime, TimeModel

_CLUSTER = "{gpus_per_host: 8, gpu: H100, links: {intra_host: 450 GB/s, inter_host: 400 Gbps}, hosts: "
_QWEN3_30B_A3B = """\
model: {num_hidden_layers: 48, num_experts: 128, num_experts_per_tok: 8, hidden_size: 2048,
  moe_intermediate_size: 768, expert: swiglu, num_attention_heads: 32, num_key_value_heads: 4, head_dim: 128,
  qk_norm: head, vocab_size: 151936, aggregation: none}
"""
_MIXTRAL_8X7B = """\
model: {num_hidden_layers: 32, num_experts: 8, num_experts_per_tok: 2, hidden_size: 4096,
  moe_intermediate_size: 14336, expert: swiglu, num_attention_heads: 32, num_key_value_heads: 8,
  vocab_size: 32000, aggregation: none}
"""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A run that others measured: tokens/s of a GPU, or model TFLOPS of a GPU. strategy: as it is planned."""

    name: str
    source: str
    strategy: str
    tokens_per_s: tuple[float, ...] = ()
    tflops: float | None = None


RUNS = (
    Published(
        name="Qwen3-30B-A3B, bf16, 8 H100, ep 8",
        source="docs.nvidia.com/nemo/automodel/performance/performance-summary.md, June 2026",
        tokens_per_s=(12_040,),
        strategy=f"""\
name: qwen3-30b-a3b-bf16
cluster: {_CLUSTER}1}}
{_QWEN3_30B_A3B}\
parallel: {{ep: 8, zero_stage: 2}}
training: {{precision: bf16, seq_length: 4096, global_batch: 512, micro_batch: 4, steps: 1}}
runtime: {{kernels: fused, reduce: once, recompute: layer}}
""",
    ),
    Published(
        name="Qwen3-30B-A3B, fp8, 16 H100, ep 16",
        # Batch and recomputation: Megatron-Bridge, perf_recipes/qwen/h100/qwen3_moe.py, 16gpu_h100_fp8cs.
        source="docs.nvidia.com/nemo/megatron-bridge performance-summary(-archive), 26.04 and 26.06",
        tokens_per_s=(8_826, 8_960),
        strategy=f"""\
name: qwen3-30b-a3b-fp8
cluster: {_CLUSTER}2}}
{_QWEN3_30B_A3B}\
parallel: {{ep: 16, zero_stage: 2}}
training: {{precision: fp8, seq_length: 4096, global_batch: 1024, micro_batch: 1, steps: 1}}
runtime: {{kernels: fused, reduce: once}}
""",
    ),
    Published(
        name="Mixtral 8x7B, bf16, 64 H100, ep 8, pp 4",
        source="Megatron-LM, megatron/core/transformer/moe/README.md, MCore v0.9",
        tflops=468,
        strategy=f"""\
name: mixtral-8x7b
cluster: {_CLUSTER}8}}
{_MIXTRAL_8X7B}\
parallel: {{ep: 8, pp: 4, dp: 2, zero_stage: 1}}
training: {{precision: bf16, seq_length: 4096, global_batch: 256, micro_batch: 1, steps: 1}}
runtime: {{kernels: fused, reduce: once}}
""",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Tokens/s of a GPU: measured (the mean where a source has two), expected, and with the factor."""

    name: str
    source: str
    measured: float
    bracket: tuple[float, float]  # slowest, fastest
    roofline: float
    expected: float
    adjusted: float
    tflops_per_token: float

    @property
    def is_inside(self) -> bool:
        return self.bracket[0] <= self.measured <= self.bracket[1]

    @property
    def error(self) -> float:
        """Of the adjusted value."""
        return self.adjusted / self.measured - 1


def compare() -> tuple[float, tuple[Comparison, ...]]:
    """The factor of compute and every run."""
    plans = [build_plan(loads(run.strategy, [])) for run in RUNS]
    steps = [TimeModel(device_of(plan.strategy.cluster.gpu)).step(plan) for plan in plans]
    factor = fit_factor(steps[0], tokens_of(plans[0]) / measured_of(RUNS[0], plans[0]))
    found = []
    for run, plan, step in zip(RUNS, plans, steps, strict=True):
        tokens, bracket = tokens_of(plan), step.bracket
        bound = roofline(plan, device_of(plan.strategy.cluster.gpu), BALANCED)
        found.append(
            Comparison(
                name=run.name,
                source=run.source,
                measured=measured_of(run, plan),
                bracket=(tokens / bracket.no_overlap_s, tokens / bracket.full_overlap_s),
                roofline=tokens / bound.step_s,
                expected=tokens / bracket.expected_s,
                adjusted=tokens / scaled(step, factor).expected_s,
                tflops_per_token=flops_of(plan) / tokens / 1e12,
            )
        )
    return factor, tuple(found)


def tokens_of(plan: Plan) -> float:
    """Of a step, for each GPU."""
    training = plan.strategy.training
    return training.global_batch * training.seq_length / plan.world_size


def flops_of(plan: Plan) -> float:
    return model_flops(plan).total / plan.world_size


def measured_of(run: Published, plan: Plan) -> float:
    """Tokens/s of a GPU; of a rate in FLOPS, by this planner's model FLOPs of a token."""
    if run.tflops is not None:
        return run.tflops * 1e12 / flops_of(plan) * tokens_of(plan)
    return sum(run.tokens_per_s) / len(run.tokens_per_s)


def scaled(step: StepTime, factor: float) -> Bracket:
    """The step with every second of compute times the factor."""
    stages = [_scaled_stage(stage, factor) for stage in step.stages]
    return step_bracket(stages, step.boundaries, step.accumulation)


def _scaled_stage(stage: StageTime, factor: float) -> StageTime:
    def one(found: PassTime) -> PassTime:
        return PassTime(
            compute_s=factor * found.compute_s,
            all_to_all_s=found.all_to_all_s,
            tensor_parallel_s=found.tensor_parallel_s,
        )

    own = stage.micro_batch
    return replace(stage, micro_batch=replace(own, forward=one(own.forward), backward=one(own.backward)))


def fit_factor(step: StepTime, seconds: float) -> float:
    """The factor of compute with which a step takes so long: the step is linear in it for one stage."""
    low, high = 0.01, 10.0
    while high / low > 1 + 1e-9:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if scaled(step, middle).expected_s < seconds else (low, middle)
    return high


def main(argv: Sequence[str]) -> int:
    """0 where every run is inside its bracket and within 25 % of the adjusted value; else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__)
    parser.add_argument("--version", action="version", version=f"switchyard {__version__}")
    parser.parse_args(argv)
    factor, found = compare()
    print(f"compute x {factor:.3f}, fitted on the first run; tokens/s of a GPU (model TFLOPS, causal)")
    for one in found:

        def both(value: float, per: float = one.tflops_per_token) -> str:
            return f"{value:,.0f} ({value * per:.0f})"

        print(f"{one.name}: {one.source}")
        print(
            f"  measured {both(one.measured)}; fused runtime {both(one.bracket[0])} to {both(one.bracket[1])}"
        )
        print(f"  expected {both(one.expected)}, with the factor {both(one.adjusted)}: {one.error:+.0%}")
        print(
            f"  no runtime beats {both(one.roofline)}; inside the bracket: {'yes' if one.is_inside else 'no'}"
        )
    return 0 if all(one.is_inside and abs(one.error) <= 0.25 for one in found) else 1


if __name__ == "__main__":
    run_program(lambda: sys.exit(main(sys.argv[1:])))
