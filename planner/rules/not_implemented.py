"""Keys that can be planned and that this version does not train yet: one small rule for each."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.strategy.schema import Strategy
from planner.topology.deepspeed_zero import deepspeed_zero_stage


def find_unimplemented(strategy: Strategy) -> tuple[Problem, ...]:
    """Everything that keeps this version from training the strategy; empty when it can."""
    return tuple(problem for rule in _RULES for problem in rule(strategy))


def _missing(code: str, path: str, value: object, feature: str, legal: str) -> Problem:
    return Problem(
        code=code,
        path=path,
        found=f"{value} can be planned, but {feature} is not implemented yet",
        expected=legal,
        fix=f"set {path} to {legal} to train, or use `python -m launch plan` only",
    )


def _recompute(s: Strategy) -> Iterator[Problem]:
    """DeepSpeed's gate keeps no routes: a layer that is recomputed would route its tokens a second time."""
    recompute = s.runtime.recompute
    if recompute.kind == "layer" and s.model.dispatch == "deepspeed":
        yield Problem(
            code="SW283",
            path="runtime.recompute",
            found=f"{recompute} can be planned, but with model.dispatch deepspeed, which routes inside "
            "DeepSpeed, every token would be routed twice",
            expected="none, attention or experts with model.dispatch deepspeed",
            fix="set runtime.recompute to experts, or model.dispatch to dropless",
        )


def _all_to_all(s: Strategy) -> Iterator[Problem]:
    """DeepSpeed's layer makes its all-to-all itself, in one step."""
    if s.runtime.all_to_all == "hierarchical" and s.model.dispatch == "deepspeed":
        yield Problem(
            code="SW284",
            path="runtime.all_to_all",
            found="hierarchical can be planned, but with model.dispatch deepspeed DeepSpeed sends the "
            "tokens, in one step",
            expected="flat with model.dispatch deepspeed",
            fix="set runtime.all_to_all to flat, or model.dispatch to dropless",
        )


def _init_from(s: Strategy) -> Iterator[Problem]:
    if s.model.init_from is not None:
        yield _missing(
            "SW285", "model.init_from", s.model.init_from, "initialization from other weights", "null"
        )


def _overlap_reduce(s: Strategy) -> Iterator[Problem]:
    """Under ZeRO 0 and 1 DeepSpeed reduces when backward has ended."""
    zero = deepspeed_zero_stage(s)
    if s.runtime.overlap_reduce and zero != 2:
        yield Problem(
            code="SW297",
            path="runtime.overlap_reduce",
            found=f"true can be planned, but under ZeRO {zero} DeepSpeed reduces gradients after the "
            "backward pass, not in it",
            expected="false, or parallel.zero_stage 2",
            fix="set parallel.zero_stage to 2, or runtime.overlap_reduce to false",
        )


def _overlap_all_to_all(s: Strategy) -> Iterator[Problem]:
    if s.runtime.overlap_all_to_all:
        feature = "computing one micro-batch while another is exchanged"
        yield _missing("SW290", "runtime.overlap_all_to_all", "true", feature, "false")


def _moments(s: Strategy) -> Iterator[Problem]:
    if s.training.optimizer.moments != "fp32":
        path = "training.optimizer.moments"
        yield _missing("SW296", path, s.training.optimizer.moments, "keeping moments in bf16", "fp32")


_RULES = (
    _recompute,
    _all_to_all,
    _init_from,
    _overlap_reduce,
    _overlap_all_to_all,
    _moments,
)
