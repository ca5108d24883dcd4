"""Key figures of a plan: what people compare first, as lines of a first screen and as plain data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from planner.counts.flops import model_flops, token_flops
from planner.counts.parameters import model_parameters
from planner.counts.replays import replays_per_step
from planner.memory.fit import fits, fullest_rank
from planner.memory.replicated_state import replicated_state
from planner.plan.memory_limit import memory_limit
from planner.plan.plan import Plan
from planner.prediction.predict import Prediction
from planner.prediction.run_forecast import FailureForecast, RunForecast
from planner.prediction.sensitivity import Variation
from planner.report.tables import Table
from planner.units import (
    format_bytes,
    format_count,
    format_flops,
    format_money,
    format_number,
    format_seconds,
    plural,
)

_INDENT = 17  # of the figures, after their name


@dataclass(frozen=True, kw_only=True)
class KeyFigures:
    """Figures by which plans, models and machines are compared; FLOPs are of the model, causally masked."""

    parameters: int
    active_parameters: int
    forward_flops_per_token: int
    training_flops_per_token: int
    model_flops_per_s_per_gpu: float
    tokens_per_s_per_gpu: float
    peak_bytes: int


def key_figures(plan: Plan, prediction: Prediction) -> KeyFigures:
    counts = model_parameters(plan.strategy.model)
    forward = token_flops(plan.strategy.model, plan.strategy.training.seq_length)
    flops = model_flops(plan)
    return KeyFigures(
        parameters=counts.total,
        active_parameters=counts.active,
        forward_flops_per_token=forward,
        training_flops_per_token=flops.total // prediction.tokens_per_step,
        model_flops_per_s_per_gpu=flops.total / prediction.step_s / plan.world_size,
        tokens_per_s_per_gpu=prediction.tokens_per_s / plan.world_size,
        peak_bytes=fullest_rank(plan, prediction.imbalance).peak_bytes,
    )


def key_figure_lines(plan: Plan, prediction: Prediction, run: RunForecast) -> tuple[str, ...]:
    """A name and its figures on each line."""
    return tuple(f"{name:<{_INDENT}}{text}" for name, text in _lines(plan, prediction, run))


def _lines(plan: Plan, prediction: Prediction, run: RunForecast) -> Iterator[tuple[str, str]]:
    figures = key_figures(plan, prediction)
    unit = "process" if plan.strategy.cluster.gpu.is_cpu else "GPU"
    each = f" per {unit}" if plan.world_size > 1 else ""
    yield (
        "parameters",
        f"{format_count(figures.parameters)}, {format_count(figures.active_parameters)} active per token",
    )
    yield (
        "FLOPs per token",
        f"{format_flops(figures.training_flops_per_token)} to train, "
        f"{format_flops(figures.forward_flops_per_token)} forward (causal attention)",
    )
    every = f" ({format_number(prediction.tokens_per_s)} in all)" if plan.world_size > 1 else ""
    yield (
        "throughput",
        f"{format_number(figures.tokens_per_s_per_gpu)} tokens/s{each}{every}, "
        f"step {format_seconds(prediction.step_s)}",
    )
    yield (
        "compute rate",
        f"{format_flops(figures.model_flops_per_s_per_gpu, 'FLOPS')} of the model{each}: "
        f"MFU {prediction.mfu:.1%}, HFU {prediction.hfu:.1%}",
    )
    limit = memory_limit(plan.strategy)
    verdict = "" if fits(plan, prediction.imbalance) else ": does not fit"
    yield (
        "memory",
        f"{format_bytes(figures.peak_bytes)} on the fullest rank, of {format_bytes(limit)}{verdict}",
    )
    yield "run", _run_text(run)
    beside = ""
    if run.stall_s < run.checkpoint_s:
        beside = f", of which training waits {format_seconds(run.stall_s, 2)}"
    yield (
        "checkpoint",
        f"{format_bytes(run.checkpoint_bytes)}, about {format_seconds(run.checkpoint_s, 2)} to write"
        f"{beside} (assumed rate), every {plural(plan.strategy.output.checkpoint_every, 'step')}: "
        f"{run.checkpoint_share:.1%} of the time",
    )
    if run.failures is not None:
        yield "with failures", _failure_text(run, run.failures)
        yield (
            "best interval",
            f"{plural(run.failures.best_interval_steps, 'step')} between checkpoints: ETTR "
            f"{run.failures.best_ratio:.1%}",
        )
    yield "silent faults", _checks_text(plan, prediction)


def _checks_text(plan: Plan, prediction: Prediction) -> str:
    runtime = plan.strategy.runtime
    comparing_s = max(stage.time.checks_s for stage in prediction.stages)
    found = (
        f"{replicated_state(plan).share:.1%} of weights, masters and moments compared every "
        f"{plural(runtime.check_replicas_every, 'step')}, {comparing_s / prediction.step_s:.2%} of the time"
    )
    if runtime.replay_every is None:
        return f"{found}; nothing computed twice"
    return (
        f"{found}; 1 of {plural(plan.batch.accumulation, 'micro-batch')} computed twice every "
        f"{plural(runtime.replay_every, 'step')}"
    )


def _run_text(run: RunForecast) -> str:
    epochs = "" if run.epochs is None else f" ({run.epochs:.2f} epochs)"
    cost = "" if run.cost is None else f", {format_money(run.cost)}"
    return (
        f"{format_count(run.tokens)} tokens{epochs} in {plural(run.steps, 'step')}: "
        f"{format_seconds(run.seconds)}, {format_number(run.gpu_hours)} GPU-hours{cost}"
    )


def _failure_text(run: RunForecast, failures: FailureForecast) -> str:
    return (
        f"one every {format_seconds(failures.costs.mtbf_s)}: {failures.ratio:.1%} of the time trains "
        f"(ETTR), {format_seconds(run.seconds / failures.ratio)} in all"
    )


def key_figures_dict(plan: Plan, prediction: Prediction) -> dict[str, Any]:
    """The same for machines, in base units."""
    figures, state = key_figures(plan, prediction), replicated_state(plan)
    return {
        "parameters": {"total": figures.parameters, "active": figures.active_parameters},
        "flops_per_token": {
            "forward": figures.forward_flops_per_token,
            "training": figures.training_flops_per_token,
            "attention": "causal",
        },
        "model_flops_per_s_per_gpu": figures.model_flops_per_s_per_gpu,
        "mfu": prediction.mfu,
        "hfu": prediction.hfu,
        "tokens_per_s": prediction.tokens_per_s,
        "tokens_per_s_per_gpu": figures.tokens_per_s_per_gpu,
        "memory_bytes": figures.peak_bytes,
        "memory_limit_bytes": memory_limit(plan.strategy),
        "state_bytes": state.total,
        "state_compared_bytes": state.compared,
        "replays_per_step": replays_per_step(plan),
        "comparing_s_per_step": max(stage.time.checks_s for stage in prediction.stages),
    }


def failures_dict(failures: FailureForecast | None) -> dict[str, Any] | None:
    """The forecast with failures for machines, in seconds."""
    if failures is None:
        return None
    return {
        "mtbf_s": failures.costs.mtbf_s,
        "stall_s": failures.costs.stall_s,
        "write_s": failures.costs.write_s,
        "recovery_s": failures.costs.recovery_s,
        "interval_s": failures.interval_s,
        "effective_training_time_ratio": failures.ratio,
        "best_interval_s": failures.costs.best_interval_s,
        "best_interval_steps": failures.best_interval_steps,
        "best_effective_training_time_ratio": failures.best_ratio,
    }


def sensitivity_table(plan: Plan, prediction: Prediction, variations: tuple[Variation, ...]) -> Table:
    """One row for each change, beside the plan as it is."""
    now, peak = prediction.tokens_per_s, fullest_rank(plan, prediction.imbalance).peak_bytes
    verdict = "" if fits(plan, prediction.imbalance) else "does not fit"
    rows = [("as it is", format_number(now), "", format_bytes(peak), verdict)]
    for one in variations:
        if one.tokens_per_s is None or one.peak_bytes is None:
            rows.append((one.change, "-", "", "-", one.why_not))
            continue
        change = f"{one.tokens_per_s / now - 1:+.1%}"
        rows.append(
            (one.change, format_number(one.tokens_per_s), change, format_bytes(one.peak_bytes), one.why_not)
        )
    return Table(
        title="If it were different",
        columns=("change", "tokens/s", "differs by", "memory", ""),
        rows=tuple(rows),
        numeric=frozenset({"tokens/s", "differs by", "memory"}),
    )


def sensitivity_dict(variations: tuple[Variation, ...]) -> list[dict[str, Any]]:
    """The same for machines."""
    return [
        {
            "change": one.change,
            "tokens_per_s": one.tokens_per_s,
            "memory_bytes": one.peak_bytes,
            "why_not": one.why_not or None,
        }
        for one in variations
    ]
