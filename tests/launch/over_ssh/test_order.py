"""68 ranks on nine hosts, started by the generated files: who is where, and what each was given.

Expected values are the strategy document's: ranks 0-1 embed, 2-65 are experts, 66-67 aggregate, eight to a
host and four on the last.
"""

import json
from pathlib import Path

import pytest

from launch.scripts.launch_files import launch_files
from launch.scripts.template import LaunchPaths
from planner import StrategyError, build_plan, loads
from tests.support.hosts import LoopbackHosts
from tests.support.jobs import STRATEGY, Job

# The short host is named first, and must come last.
NAMES = ("node9 slots=4", "node2", "node7", "node1", "node3", "node4", "node5", "node6", "node8")
ORDER = ("node2", "node7", "node1", "node3", "node4", "node5", "node6", "node8", "node9")
STAGED = (
    f"cluster.hosts=[{', '.join(NAMES)}]",
    "cluster.gpus_per_host=8",
    "parallel={placement: staged, ep: 64, tp: 2, zero_stage: 1}",
    "model.num_experts=64",
    "training.global_batch=64",
    "training.micro_batch=1",
)
VALUES = {
    "WORDS": "two words, and  two blanks",
    "QUOTED": "it's 'quoted'; (a) {b} [c] *?~ <in >out & | # ! end=",
    "UNICODE": "grün",
    "EMPTY": "",
}
ALTERED = ["a $HOME", "`id`", 'say "yes"', "back\\slash", "50%n", " blank"]


@pytest.mark.slow
def test_each_rank_is_where_the_plan_has_it_and_gets_what_was_written(
    tmp_path: Path, hosts: LoopbackHosts
) -> None:
    written = json.dumps(VALUES, ensure_ascii=False)
    job = Job(tmp_path, "sixty-eight", hosts.ssh_config, *STAGED, f"launch.environment={written}", light=True)
    try:
        job.start()
        seen = job.wait_for_light_ranks()
        job.let_go()
        code, said = job.finish()
    finally:
        job.kill_all()
    assert code == 0, said
    assert job.read("done.json")
    assert job.processes() == []
    given = dict.fromkeys(ORDER[:8], 8) | {"node9": 4}
    logs = job.output.read_text().split("log of rank 0: ")[1].partition("_rank0.log")[0]
    assert Path(logs).parent == job.run / "logs"
    rows = {row["rank"]: row for row in job.read("plan.json")["ranks"]}
    for rank, rank_saw in seen.items():
        env, host = rank_saw["environment"], rank // 8
        assert rank_saw["hosts"] == given
        assert (env["CROSS_RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]) == (str(host), str(rank % 8), "68")
        row = rows[rank]
        assert (row["host"], row["local_rank"]) == (ORDER[host], rank % 8)
        stage = "embedding" if rank < 2 else "experts" if rank < 66 else "aggregation"
        assert row["stage"] == stage
        # The numbers of the address: the last part is the host's own.
        assert env["SSH_CONNECTION"].split()[2] == f"127.0.7.{ORDER[host].removeprefix('node')}"
        assert rank_saw["arguments"] == [*("--strategy", str(job.run / "strategy.yaml")), "--rank-logs", logs]
        assert {name: env.get(name) for name in VALUES} == VALUES
        assert env["SWITCHYARD_PLAN"] == job.plan.fingerprint
        groups = (env["EMBEDDING_GPUS"], env["EXPERT_GPUS"], env["AGGREGATION_GPUS"])
        assert groups == ("0,1", "2-65", "66,67")
        assert int(env["MAX_MEMORY_PER_GPU"]) > 0
        assert 0 < float(env["MEMORY_FRACTION"]) <= 1


@pytest.mark.parametrize("value", ALTERED)
def test_a_value_that_would_be_altered_is_a_problem_before_anything_starts(
    tmp_path: Path, value: str
) -> None:
    text = STRATEGY.format(name="x", text=tmp_path / "text", runs=tmp_path)
    hosts = ("cluster.hosts=[node1, node2]", "cluster.gpus_per_host=2")
    plan = build_plan(loads(text, [*hosts, f"launch.environment={json.dumps({'A_VALUE': value})}"]))
    paths = LaunchPaths(project=tmp_path, run=tmp_path / "x", python="/usr/bin/python3", ssh_config=None)
    with pytest.raises(StrategyError) as caught:
        launch_files(plan, paths, {})
    assert [problem.path for problem in caught.value.problems] == ["launch.environment.A_VALUE"]
