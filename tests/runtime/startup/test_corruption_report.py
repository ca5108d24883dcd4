"""What is said of silent corruption: ranks and their hosts, whom to believe, what to do."""

import json
from pathlib import Path

import pytest

from planner import build_plan, loads
from planner.errors.catalog import error_catalog
from runtime.startup.context import RunContext
from runtime.startup.corruption_report import corruption_json, corruption_problem
from runtime.startup.exit_reporter import ExitReporter
from runtime.training.corruption import Corrupted, Finding
from tests.runtime.startup.test_exit_reporter import reporter

STRATEGY = """
name: moe
cluster: {hosts: [host-00, host-01], gpus_per_host: 2, gpu: cpu,
  links: {intra_host: 1 GB/s, inter_host: 1 GB/s}}
model: {num_hidden_layers: 2, num_experts: 4, hidden_size: 16, moe_intermediate_size: 16,
  num_attention_heads: 2, vocab_size: 300}
parallel: {dp: 4}
training: {seq_length: 32, global_batch: 4, steps: 20, precision: fp32}
"""
PLAN = build_plan(loads(STRATEGY))
ONE_HOST = build_plan(loads(STRATEGY, ("cluster.hosts=1", "cluster.gpus_per_host=4")))
NORM = "weight model.norm.weight"


def corrupted(*findings: Finding, code: str = "SW902", folder: Path | None = None) -> Corrupted:
    return Corrupted(code, step=120, findings=findings, folder=folder)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            corrupted(Finding(what=NORM, ranks=(3,), others=(0, 1, 2))),
            f"step 120: copies differ: {NORM} of rank 3 on host-01 is not what ranks 0-2 hold",
        ),
        (
            corrupted(Finding(what=NORM, ranks=(1, 2))),
            f"step 120: copies differ: {NORM} of ranks 1,2 on host-00, host-01, of which none is known to be "
            "right",
        ),
        (
            corrupted(Finding(what="the output of model.norm in micro-batch 0", ranks=(2,)), code="SW908"),
            "step 120: a micro-batch that was computed twice differs: the output of model.norm in "
            "micro-batch 0 of rank 2 on host-01",
        ),
    ],
)
def test_ranks_are_named_with_their_hosts(error: Corrupted, found: str) -> None:
    assert corruption_problem(error, PLAN, 100).found == found


def test_the_messages_are_those_of_the_catalog() -> None:
    folder = Path("runs/moe/corruption/step-00000120")
    for finding, code in (
        (Finding(what=NORM, ranks=(3,), others=(0, 1, 2)), "SW902"),
        (Finding(what="the output of model.layers.3.mlp.experts in micro-batch 0", ranks=(3,)), "SW908"),
    ):
        problem = corruption_problem(corrupted(finding, code=code, folder=folder), PLAN, 100)
        assert error_catalog()[code].example.strip() == str(problem)


def test_what_to_do_depends_on_the_hosts_and_the_checkpoint() -> None:
    error = corrupted(Finding(what=NORM, ranks=(1, 2)))
    fix = corruption_problem(error, PLAN, None).fix
    assert "`python -m launch cordon STRATEGY host-00 host-01`" in fix
    assert "no checkpoint was saved before" in fix
    alone = corruption_problem(error, ONE_HOST, 7).fix
    assert alone.startswith("check the memory and the devices of localhost, then start it again")
    assert alone.endswith("it resumes from the checkpoint of step 7")


def test_many_findings_are_all_in_the_file() -> None:
    error = corrupted(*(Finding(what=f"weight {i}", ranks=(i % 2,)) for i in range(5)))
    problem = corruption_problem(error, PLAN, 100)
    assert problem.found.endswith("and 2 more findings (failed.json)")
    content = corruption_json(error, problem, PLAN)
    assert (content["step"], content["ranks"], content["hosts"]) == (120, [0, 1], ["host-00"])
    assert [one["what"] for one in content["findings"]] == [f"weight {i}" for i in range(5)]


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_ends_with_3_and_rank_0_alone_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rank: int
) -> None:
    told: ExitReporter = reporter(tmp_path, rank, plan=PLAN, problems=())
    context: RunContext = told.context
    context.attempt = 1
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "0001.json").write_text("{}")
    assert told.failed(corrupted(Finding(what=NORM, ranks=(3,), others=(0, 1, 2)))) == 3
    printed = capsys.readouterr().err
    assert ("SW902 step 120: copies differ" in printed) == (rank == 0)
    assert (tmp_path / "failed.json").exists() == (rank == 0)
    if rank == 0:
        content = json.loads((tmp_path / "failed.json").read_bytes())
        assert (content["code"], content["problems"][0]["hosts"]) == (3, ["host-01"])
