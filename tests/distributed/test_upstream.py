"""DeepSpeed defects with a workaround: each test passes while the defect of 0.19.8 exists.

A failure here is good news: look at the workaround it names and take it out.
"""

import importlib
import inspect
from typing import Any

import pytest
import torch

import runtime.training.engine
from model.observers import NO_CLOCK
from planner import Plan, build_plan
from runtime.data.rows import Rows, Totals
from runtime.training.micro_batch import training_batches
from runtime.training.train_step import train_step
from tests.support.layout import start
from tests.support.ranks import run_ranks
from tests.support.reference import tiny, tokens_of


def _batches(plan: Plan, engine: Any, groups: Any) -> tuple[list[Any], Totals]:
    rows = Rows(tokens_BS1=tokens_of(plan.strategy, 0))
    batches = training_batches(rows.part, plan.batch, groups.stage, groups.data.rank, engine.device)
    return batches, rows.totals()


def _norm(plan: Plan, exact: bool) -> float | None:
    """The norm of one step, by our definition or by DeepSpeed's own."""
    if not exact:
        runtime.training.engine._use_exact_norm = lambda engine, groups, limit: None
    engine, groups = start(plan)
    batches, totals = _batches(plan, engine, groups)
    if exact:
        return train_step(engine, groups, batches, totals, NO_CLOCK).grad_norm
    for batch in batches:
        loss, _ = engine(batch, totals)
        engine.backward(loss * plan.batch.accumulation)
        engine.step()
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _plan(zero_stage: int, **changes: Any) -> Plan:
    return build_plan(tiny(parallel={"ep": 4, "tp": 2, "zero_stage": zero_stage}, **changes))


def test_zero_0_still_gives_no_norm() -> None:
    """runtime.training.engine._use_exact_norm, for ZeRO 0: runtime/utils.py:413, engine.py:3502."""
    plan = _plan(0, training__micro_batch=8)
    assert run_ranks(4, _norm, plan, True)[0] > 0.1
    assert run_ranks(4, _norm, plan, False)[0] is None


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_the_norm_under_tp_still_misses_experts(zero_stage: int) -> None:
    """runtime.training.engine._use_exact_norm, for ZeRO 1 and 2: zero/stage_1_and_2.py:2682."""
    plan = _plan(zero_stage, training__micro_batch=8)
    exact, theirs = run_ranks(4, _norm, plan, True)[0], run_ranks(4, _norm, plan, False)[0]
    assert theirs < 0.999 * exact


def _first_gradient(plan: Plan, by: str) -> torch.Tensor:
    """A dense gradient after all micro-batches, before the step: (a) our factor, (b) DeepSpeed's switch."""
    engine, groups = start(plan)
    batches, totals = _batches(plan, engine, groups)
    for number, batch in enumerate(batches):
        loss, _ = engine(batch, totals)
        if by == "factor":
            engine.backward(loss * plan.batch.accumulation)
        else:
            engine.backward(loss, scale_wrt_gas=False)
        if number < len(batches) - 1:
            engine.step()
    return dict(engine.module.named_parameters())["model.model.norm.weight"].grad.clone()


def test_scale_wrt_gas_is_still_ignored() -> None:
    """runtime.training.train_step.train_step multiplies by the accumulation: engine.py:3179."""
    plan = _plan(0, training__micro_batch=4)
    assert plan.batch.accumulation == 2
    right, theirs = (
        run_ranks(4, _first_gradient, plan, "factor"),
        run_ranks(4, _first_gradient, plan, "switch"),
    )
    assert torch.allclose(theirs[0] * 2, right[0])


def _losses_without_contiguous_gradients(plan: Plan, contiguous: bool) -> list[float]:
    original = runtime.training.engine.ds_config

    def changed(plan: Plan) -> dict[str, Any]:
        config = original(plan)
        config["zero_optimization"]["contiguous_gradients"] = contiguous
        return config

    runtime.training.engine.ds_config = changed
    engine, groups = start(plan)
    batches, totals = _batches(plan, engine, groups)
    return [train_step(engine, groups, batches, totals, NO_CLOCK).grad_norm for _ in range(2)]


def test_zero_1_still_needs_contiguous_gradients_for_experts() -> None:
    """planner.plan.ds_config sets contiguous_gradients at ZeRO 1 too: stage_1_and_2.py:866."""
    plan = build_plan(tiny(parallel={"ep": 2, "dp": 2, "zero_stage": 1}, training__micro_batch=2))
    right, theirs = (run_ranks(4, _losses_without_contiguous_gradients, plan, on)[0] for on in (True, False))
    assert abs(theirs[0] - right[0]) > 1e-3 * right[0] or abs(theirs[1] - right[1]) > 1e-3 * right[1]


def test_the_cpu_op_is_still_built_at_the_start() -> None:
    """runtime.training.engine.make_engine switches the op off: comm/torch.py:49."""
    backend = importlib.import_module("deepspeed.comm.torch")
    assert "builder.load()" in inspect.getsource(backend.build_shm_op)
    assert "build_shm_op" in inspect.getsource(backend.TorchBackend.__init__)


def _start_auto_ep() -> str:
    from benchmarks import peers
    from benchmarks.competitors import COMPETITORS
    from benchmarks.setting import Setting
    from benchmarks.step import TINY

    peers.mend_auto_ep = lambda: None
    setting = Setting(competitor="autoep", shape=TINY, precision="fp32", num_ranks=1)
    try:
        COMPETITORS["autoep"](setting, 0, torch.device("cpu"))
    except TypeError as error:
        return str(error)
    return "started"


def test_auto_ep_still_fails_with_transformers() -> None:
    """benchmarks.peers.mend_auto_ep: module_inject/auto_ep_presets/base.py:326."""
    (answer,) = run_ranks(1, _start_auto_ep)
    assert "get() takes 2 positional arguments but 3 were given" in answer


def _gather_rows() -> str:
    import deepspeed
    import deepspeed.moe.mappings
    from deepspeed.utils import groups as theirs

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)

    class TwoPartners:
        def get_tensor_model_parallel_world_size(self) -> int:
            return 2

        def get_tensor_model_parallel_group(self) -> Any:
            return torch.distributed.group.WORLD

    theirs.mpu = TwoPartners()
    try:
        deepspeed.moe.mappings._gather_tokens(torch.ones(3, 4))
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


def test_the_stock_gather_still_fails_on_gloo() -> None:
    """model.deepspeed_dispatch replaces it: moe/mappings.py:40."""
    assert all("size" in answer for answer in run_ranks(2, _gather_rows))
