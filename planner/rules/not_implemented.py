"""What a strategy may describe but this version cannot run yet: one small rule for each."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.strategy.schema import Strategy


def runnable(strategy: Strategy) -> tuple[Problem, ...]:
    """Everything that keeps this version from training the strategy; empty when it can."""
    return tuple(problem for rule in _RULES for problem in rule(strategy))


def _missing(path: str, value: object, what: str, legal: str) -> Problem:
    return Problem(
        path=path,
        line=None,
        found=f"{value} can be planned, but this version does not run {what} yet",
        expected=legal,
        fix=f"set {path} to {legal} to train, or use `python -m launch plan` only",
    )


def _fp8(s: Strategy) -> Iterator[Problem]:
    if s.training.precision == "fp8":
        yield _missing("training.precision", "fp8", "FP8 training", "bf16")


def _fp8_payload(s: Strategy) -> Iterator[Problem]:
    if s.runtime.fp8_payload:
        yield _missing("runtime.fp8_payload", "true", "FP8 payloads", "false")


def _recompute(s: Strategy) -> Iterator[Problem]:
    if s.runtime.recompute != "none":
        yield _missing("runtime.recompute", s.runtime.recompute, "recomputation", "none")


def _all_to_all(s: Strategy) -> Iterator[Problem]:
    if s.runtime.all_to_all != "flat":
        yield _missing("runtime.all_to_all", s.runtime.all_to_all, "a hierarchical all-to-all", "flat")


def _init_from(s: Strategy) -> Iterator[Problem]:
    if s.model.init_from is not None:
        yield _missing("model.init_from", s.model.init_from, "a start from other weights", "null")


def _deterministic(s: Strategy) -> Iterator[Problem]:
    if (
        s.runtime.deterministic and not s.cluster.gpu.is_cpu
    ):  # on a CPU every kernel used here is deterministic
        yield _missing("runtime.deterministic", "true", "deterministic GPU kernels", "false")


def _operation(s: Strategy) -> Iterator[Problem]:
    """What watches a run beside its own files and TensorBoard."""
    for key, what in (
        ("wandb", "Weights & Biases"),
        ("hook", "the supervisor's hook"),
        ("metrics_port", "a metrics server"),
    ):
        value = getattr(s.operate, key)
        if value is not None:
            shown = " ".join(value) if isinstance(value, tuple) else value
            yield _missing(f"operate.{key}", shown, what, "null")


_RULES = (
    _fp8,
    _fp8_payload,
    _recompute,
    _all_to_all,
    _init_from,
    _deterministic,
    _operation,
)
