"""What can be planned and not yet run is named, one Problem each."""

import pytest

from planner import load
from planner.rules.not_implemented import runnable
from tests.support.examples import strategy


def test_the_demo_runs() -> None:
    assert runnable(load("ds_configs/tiny_cpu.yaml")) == ()


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (("training.precision=fp8",), "training.precision"),
        (("runtime.recompute=layer",), "runtime.recompute"),
        (("runtime.fp8_payload=true",), "runtime.fp8_payload"),
        (("runtime.all_to_all=hierarchical",), "runtime.all_to_all"),
        (("model.init_from=runs/x",), "model.init_from"),
        (("runtime.deterministic=true",), "runtime.deterministic"),
        (("operate.wandb=project",), "operate.wandb"),
        (("operate.hook=[notify, --x]",), "operate.hook"),
        (("operate.metrics_port=9000",), "operate.metrics_port"),
    ],
)
def test_what_is_not_there_yet_is_one_problem(overrides: tuple[str, ...], path: str) -> None:
    (problem,) = runnable(strategy(*overrides))
    assert problem.path == path
    assert "this version does not run" in problem.found


def test_tensor_parallelism_and_loss_free_balancing_run() -> None:
    assert runnable(strategy("parallel=EP64_TP2", "training.balance=bias")) == ()


def test_stages_run() -> None:
    assert runnable(strategy("parallel.placement=staged")) == ()
    assert runnable(strategy("parallel.pp=2")) == ()
