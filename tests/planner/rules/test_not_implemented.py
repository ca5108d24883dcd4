"""What can be planned and not yet run is named, one Problem each."""

import pytest

from planner import load
from planner.rules.not_implemented import find_unimplemented
from tests.support.examples import strategy

# DeepSpeed's dispatch, which has neither loss.
STOCK = ("model.dispatch=deepspeed", "training.balance_loss=0", "training.z_loss=0")


@pytest.mark.parametrize("name", ["tiny_cpu", "ep64_tp2", "ep64_tp2_staged"])
def test_the_shipped_strategies_run(name: str) -> None:
    assert find_unimplemented(load(f"ds_configs/{name}.yaml")) == ()


def test_fp8_runs() -> None:
    assert find_unimplemented(strategy("training.precision=fp8", "runtime.fp8_payload=true")) == ()


@pytest.mark.parametrize(
    ("overrides", "code", "path"),
    [
        (("runtime.recompute=layer", *STOCK), "SW283", "runtime.recompute"),
        (("runtime.recompute={layers: 2}", *STOCK), "SW283", "runtime.recompute"),
        (("runtime.all_to_all=hierarchical", *STOCK), "SW284", "runtime.all_to_all"),
        (("runtime.overlap_reduce=true", "training.precision=fp32"), "SW297", "runtime.overlap_reduce"),
        (("runtime.overlap_all_to_all=true",), "SW290", "runtime.overlap_all_to_all"),
        (("training.optimizer.moments=bf16",), "SW296", "training.optimizer.moments"),
        (("model.init_from=runs/x",), "SW285", "model.init_from"),
    ],
)
def test_what_is_not_implemented_is_one_problem(overrides: tuple[str, ...], code: str, path: str) -> None:
    (problem,) = find_unimplemented(strategy(*overrides))
    assert (problem.code, problem.path) == (code, path)


def test_tensor_parallelism_and_loss_free_balancing_run() -> None:
    assert find_unimplemented(strategy("parallel=EP64_TP2", "training.balance=bias")) == ()


@pytest.mark.parametrize("recompute", ["none", "layer", "attention", "experts", "{layers: 2}"])
def test_recomputation_runs(recompute: str) -> None:
    assert find_unimplemented(strategy(f"runtime.recompute={recompute}")) == ()
    stock = find_unimplemented(strategy(f"runtime.recompute={recompute}", *STOCK))
    assert bool(stock) == (recompute in ("layer", "{layers: 2}"))


def test_both_kinds_of_all_to_all_run() -> None:
    assert find_unimplemented(strategy("runtime.all_to_all=hierarchical")) == ()


@pytest.mark.parametrize(
    ("overrides", "runs"),
    [
        (("parallel.zero_stage=2",), True),
        (("parallel.zero_stage=2", "training.precision=fp32"), True),
        (("parallel.zero_stage=1", "training.precision=fp32"), False),
        (("parallel.zero_stage=1", "training.precision=bf16", "training.micro_batch=1"), True),
        (("parallel.zero_stage=1", "training.precision=bf16", "training.micro_batch=8"), False),
    ],
)
def test_gradients_are_reduced_beside_backward_under_zero_2(overrides: tuple[str, ...], runs: bool) -> None:
    """8 sequences on one rank: in bf16 several micro-batches make ZeRO 1 DeepSpeed's ZeRO 2."""
    own = ("runtime.overlap_reduce=true", "training.global_batch=8", *overrides)
    assert bool(find_unimplemented(strategy(*own))) != runs


def test_fused_kernels_run() -> None:
    assert find_unimplemented(strategy("runtime.kernels=fused")) == ()


def test_stages_run() -> None:
    assert find_unimplemented(strategy("parallel.placement=staged")) == ()
    assert find_unimplemented(strategy("parallel.pp=2")) == ()
