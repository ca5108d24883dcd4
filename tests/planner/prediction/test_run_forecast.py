"""What a run takes, costs and loses to failures, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.counts.rank_workload import ExpertImbalance
from planner.prediction.predict import predict
from planner.prediction.run_forecast import forecast_run, run_assumptions
from planner.prediction.sensitivity import sensitivity
from planner.prediction.training_time import CheckpointCosts
from planner.report.key_figures import key_figure_lines, key_figures
from tests.support.examples import plan

LAYOUT = "parallel=EP64_TP2_PP1_DP1"


def test_training_time_ratio_by_hand() -> None:
    # M: 1,000 GPUs of 50,000 h each fail every 180,000 s.
    # 1 / (1 + 10/600 + (310 + 300 + 10) / 180,000) = 1 / 1.0201111
    costs = CheckpointCosts(stall_s=10, write_s=10, recovery_s=310, mtbf_s=180_000)
    assert costs.training_time_ratio(600) == pytest.approx(0.980285, abs=1e-6)
    assert costs.best_interval_s == pytest.approx(3_600_000**0.5)


def test_no_checkpoint_is_made_before_the_last_one_is_complete() -> None:
    costs = CheckpointCosts(stall_s=0.01, write_s=300, recovery_s=60, mtbf_s=1_000)
    assert costs.best_interval_s == 300  # sqrt(2 · 0.01 · 1,000) = 4.5 s


SECONDS = st.floats(1e-3, 1e5)


@given(SECONDS, SECONDS, SECONDS, st.floats(1.0, 1e9), st.floats(0.5, 2.0))
def test_no_interval_is_better_than_the_best(
    stall_s: float, write_s: float, recovery_s: float, mtbf_s: float, times: float
) -> None:
    costs = CheckpointCosts(stall_s=stall_s, write_s=write_s, recovery_s=recovery_s, mtbf_s=mtbf_s)
    best = costs.best_interval_s
    other = max(best * times, write_s)
    assert costs.training_time_ratio(other) <= costs.training_time_ratio(best) * (1 + 1e-12)
    assert 0 < costs.training_time_ratio(best) < 1


def test_a_run_costs_its_gpu_hours() -> None:
    built = plan(LAYOUT, "cluster.cost=2.5 $/GPU-hour")
    run = forecast_run(built, predict(built))
    assert run.cost == pytest.approx(2.5 * run.gpu_hours)
    assert forecast_run(plan(LAYOUT), predict(built)).cost is None


def test_the_share_of_checkpoints_in_a_runs_time() -> None:
    """The last step is saved too: a run of fewer steps than the interval is written once."""
    each_s = 52_458_565_632 / 8e9
    for steps, every, between in ((100, 10, 10), (100, 1000, 100)):
        built = plan(LAYOUT, f"training.steps={steps}", f"output.checkpoint_every={every}")
        prediction = predict(built)
        share = forecast_run(built, prediction).checkpoint_share
        assert share == pytest.approx(each_s / (each_s + between * prediction.step_s))
        line = next(
            line
            for line in key_figure_lines(built, prediction, forecast_run(built, prediction))
            if "write" in line
        )
        assert f"{share:.1%} of the time" in line


def test_failures_of_a_run() -> None:
    built = plan(LAYOUT, "cluster.mtbf=64000 h", "output.checkpoint_every=10")
    prediction = predict(built)
    run = forecast_run(built, prediction)
    # 12 bytes of 4,371,547,136 parameters, by 8 hosts at 1 GB/s; then 5 min to restart and as long to read.
    assert run.checkpoint_s == pytest.approx(52_458_565_632 / 8e9)
    assert run.failures is not None
    assert run.failures.costs.mtbf_s == 1_000 * 3600
    assert run.failures.costs.recovery_s == pytest.approx(300 + run.checkpoint_s)
    assert run.failures.interval_s == pytest.approx(10 * prediction.step_s)
    assert run.failures.best_ratio > run.failures.ratio
    assert forecast_run(plan(LAYOUT), prediction).failures is None


def test_training_waits_only_for_the_copy_of_an_async_save() -> None:
    built = plan(LAYOUT, "cluster.mtbf=64000 h", "output.async_save=true")
    run = forecast_run(built, predict(built))
    assert run.checkpoint_s == pytest.approx(52_458_565_632 / 8e9)
    assert run.stall_s == pytest.approx(52_458_565_632 / 64 / 5e9)  # 64 ranks at 5 GB/s
    assert run.failures is not None
    assert (run.failures.costs.stall_s, run.failures.costs.write_s) == (run.stall_s, run.checkpoint_s)
    assert any("a copy of 6.56 GB in each host's memory" in line for line in run_assumptions(built, run))


def test_figures_that_are_compared_first() -> None:
    """The small strategy: 16 layers of 64 experts, hidden 1024, inner 2048, 16 heads of 64, 4096 tokens.

    A layer's matrices: 4 · 1024² of attention, 64 · 1024 of the router, 2 · 1024 · 2048 of one expert; the
    head 1024 · 4096: in all 139,460,608. Each pair of a causal mask costs 4 · 1024 in a layer, (1024 + 1) / 2
    pairs a token: 33,587,200 for 16 layers.
    """
    built = plan(LAYOUT)
    prediction = predict(built)
    figures = key_figures(built, prediction)
    assert figures.active_parameters == 139_460_608 + 4096 * 1024 + 33 * 1024
    assert figures.parameters == figures.active_parameters + 16 * 63 * 2 * 1024 * 2048
    assert figures.forward_flops_per_token == 2 * 139_460_608 + 33_587_200
    assert figures.training_flops_per_token == 3 * figures.forward_flops_per_token
    per_s = 937_525_248 * 131_072 / prediction.step_s
    assert figures.model_flops_per_s_per_gpu == pytest.approx(per_s / 64)
    assert prediction.mfu == pytest.approx(per_s / 64 / 400e12)
    assert figures.tokens_per_s_per_gpu == pytest.approx(131_072 / prediction.step_s / 64)


def test_sensitivity_is_the_prediction_of_the_changed_strategy() -> None:
    built = plan(LAYOUT)
    found = {one.change: one for one in sensitivity(built, predict(built))}
    links = ("cluster.links.intra_host=200 Gbps", "cluster.links.inter_host=200 Gbps")
    slower = ("cluster.links.intra_host=50 Gbps", "cluster.links.inter_host=50 Gbps")
    expected = {
        "links ½ as fast": predict(plan(LAYOUT, *slower)),
        "links 2 × as fast": predict(plan(LAYOUT, *links)),
        "balance 0.7": predict(built, imbalance=ExpertImbalance(factor=1 / 0.7)),
        "balance 0.5": predict(built, imbalance=ExpertImbalance(factor=2.0)),
        "micro_batch 2": predict(plan(LAYOUT, "training.micro_batch=2")),
        "moments in bf16": predict(plan(LAYOUT, "training.optimizer.moments=bf16")),
        "overlap_all_to_all": predict(plan(LAYOUT, "runtime.overlap_all_to_all=true")),
    }
    for change, prediction in expected.items():
        assert found[change].tokens_per_s == pytest.approx(prediction.tokens_per_s), change
    assert set(found) == {*expected, "peak 2 × as high"}


def test_twice_the_peak_is_less_than_twice_as_fast() -> None:
    built = plan(LAYOUT, "model.hidden_size=8192", "model.moe_intermediate_size=16384")
    now = predict(built).tokens_per_s
    (one,) = [one for one in sensitivity(built, predict(built)) if one.change == "peak 2 × as high"]
    assert one.tokens_per_s is not None
    assert 1.02 * now < one.tokens_per_s < 2 * now


def test_links_that_a_host_shares_are_faster_too() -> None:
    """400 Gbps of 8 ranks are what limits: twice that helps, twice the ranks' own links does not."""
    built = plan("parallel=EP64", "cluster.links.per_host=400 Gbps", "cluster.links.intra_host=4000 Gbps")
    (faster,) = [o for o in sensitivity(built, predict(built)) if o.change == "links 2 × as fast"]
    both = plan("parallel=EP64", "cluster.links.per_host=800 Gbps", "cluster.links.intra_host=8000 Gbps")
    assert faster.tokens_per_s == pytest.approx(predict(both).tokens_per_s)


def test_sensitivity_says_which_change_is_not_legal() -> None:
    built = plan(LAYOUT, "training.global_batch=32")
    (one,) = [one for one in sensitivity(built, predict(built)) if one.change == "micro_batch 2"]
    assert (one.tokens_per_s, one.peak_bytes) == (None, None)
    assert "training.global_batch" in one.why_not
