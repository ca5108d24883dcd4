"""The bound that no runtime beats, by hand and for every plan."""

import pytest

from planner import build_plan, load
from planner.counts.flops import model_flops
from planner.counts.parameters import model_parameters
from planner.counts.rank_workload import BALANCED
from planner.hardware.catalog import device_of
from planner.plan.plan import Plan
from planner.prediction.predict import predict
from planner.prediction.roofline import roofline
from tests.planner.prediction.test_predict import PLANS
from tests.support.examples import plan


def bound(built: Plan) -> float:
    return roofline(built, device_of(built.strategy.cluster.gpu), BALANCED).step_s


@pytest.mark.parametrize("overrides", PLANS)
@pytest.mark.parametrize("kernels", ["eager", "fused"])
def test_no_bracket_beats_the_bound(overrides: tuple[str, ...], kernels: str) -> None:
    built = plan(*overrides, f"runtime.kernels={kernels}")
    assert 0 < bound(built) <= predict(built).bracket.full_overlap_s


def test_one_gpu_needs_its_flops_at_the_peak() -> None:
    one = [
        "cluster.gpu=H100",
        "cluster.gpus_per_host=1",
        "training.precision=bf16",
        "parallel={ep: 1, tp: 1}",
    ]
    built = build_plan(load("ds_configs/tiny_cpu.yaml", one))
    found = roofline(built, device_of(built.strategy.cluster.gpu), BALANCED)
    assert found.compute_s == pytest.approx(model_flops(built).total / 989e12)
    assert found.links_s is None
    # bf16 weights read forward and backward, and AdamW's three fp32 tensors read and written, at 3.35 TB/s
    parameters = model_parameters(built.strategy.model).total
    assert found.memory_s == pytest.approx((2 * 2 + 3 * 4 * 2) * parameters / 3.35e12)


def test_shared_or_oversubscribed_links_never_lower_the_bound_and_do_not_count_inside_a_host() -> None:
    usual = plan("parallel={ep: 8}", "cluster.hosts=1")
    shared = plan("parallel={ep: 8}", "cluster.hosts=1", "cluster.links.oversubscription=4")
    assert bound(shared) == bound(usual)
    over = ("parallel={ep: 16}", "cluster.hosts=2")
    assert bound(plan(*over, "cluster.links.oversubscription=4")) >= bound(plan(*over))


def test_links_carry_every_routed_row_once_each_way() -> None:
    """8 ranks on 8 hosts, k 1, 16 sequences of 1,024 a rank and step, hidden 1,024 in bf16, 16 layers.

    Rows: 2 MiB a sequence, 7/8 of them leave, there and back, forward and backward: 4 · 16 · 16 times.
    Gradients of what all 8 hold (all but the experts), summed once: 2 · 7/8.
    """
    built = plan("parallel={ep: 8}", "cluster.hosts=8", "cluster.gpus_per_host=1")
    found = roofline(built, device_of(built.strategy.cluster.gpu), BALANCED)
    rows = 2 * 1024 * 1024 * 7 / 8 * 4 * 16 * 16
    dense = 16 * (4 * 1024**2 + 64 * 1024 + 2 * 1024) + 1024 + 2 * 4096 * 1024 + 1024**2
    assert found.links_s == pytest.approx((rows + 2 * 7 / 8 * 2 * dense) / 12.5e9, rel=0.01)
