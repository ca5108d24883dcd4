"""A drill's strategy: the user's own on 8 ranks, by dp first, then ep."""

from pathlib import Path

import pytest

from launch.drill.fit import DrillSite, at_site, fit, memory_problem
from planner import StrategyError, build_plan, load, loads
from planner.paths import PROJECT
from planner.strategy.schema import Strategy

STRATEGY = """
name: small
cluster: {{hosts: {hosts}, gpus_per_host: 4, gpu: cpu, links: {{intra_host: 10 GB/s, inter_host: 10 GB/s}}}}
model: {{num_hidden_layers: 2, num_experts: 8, hidden_size: 32, moe_intermediate_size: 32,
        num_attention_heads: 4, vocab_size: 512}}
parallel: {parallel}
training: {{precision: fp32, seq_length: 32, global_batch: 16, steps: 500, warmup_steps: 100}}
"""


def made(parallel: str, hosts: int = 2) -> Strategy:
    return loads(STRATEGY.format(parallel=parallel, hosts=hosts))


@pytest.mark.parametrize(
    ("parallel", "hosts", "layout"),
    [
        ("{ep: 2}", 1, "EP2_TP1_PP1_DP4"),
        ("{ep: 4, tp: 2, dp: 4}", 4, "EP4_TP2_PP1_DP2"),
        ("{ep: 8, dp: 2}", 4, "EP8_TP1_PP1_DP1"),
        ("{placement: staged, ep: 8, tp: 2}", 3, "EP4_TP2_PP1_DP1"),  # 2 + 4 + 2 ranks
    ],
)
def test_eight_ranks_by_dp_first_then_by_ep(parallel: str, hosts: int, layout: str) -> None:
    fitted = fit(made(parallel, hosts))
    assert fitted.parallel.layout_name == layout
    plan = build_plan(fitted)
    assert [len(host.ranks) for host in plan.hosts] == [2, 2, 2, 2]
    assert fitted.cluster.spare_hosts == 1
    assert fitted.training.steps == 14
    assert fitted.operate.hang_timeout == 10


def test_a_layout_that_has_no_plan_on_eight_ranks_is_refused() -> None:
    # 15 sequences can be shared by 5 ranks, not by 8.
    overrides = ["training.global_batch=15", "model.num_experts=5"]
    strategy = loads(STRATEGY.format(parallel="{ep: 5}", hosts=2), overrides)
    with pytest.raises(StrategyError) as raised:
        fit(strategy)
    assert [problem.code for problem in raised.value.problems] == ["SW472"]


def test_a_model_that_this_machine_cannot_hold_is_refused_with_its_size() -> None:
    plan = build_plan(fit(load(str(PROJECT / "ds_configs" / "ep64_tp2_staged.yaml"))))
    problem = memory_problem(plan, 20 * 2**30)
    assert problem is not None
    assert problem.code == "SW473"
    assert memory_problem(plan, 2**40) is None


def test_its_files_are_the_drill_s_own(tmp_path: Path) -> None:
    names = ("node1", "node2", "node3", "node4", "node5")
    site = DrillSite(folder=tmp_path, hosts=names, ssh_config=tmp_path / "ssh_config", interface="eth0")
    run = at_site(fit(made("{ep: 2}")), site, "ranks")
    assert run.name == "ranks"
    assert Path(run.output.folder) == tmp_path / "runs"
    assert run.cluster.hosts.names == names
    assert run.launch.network_interface == "eth0"
