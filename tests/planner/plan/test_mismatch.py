"""A rank whose plan is not its launch's stops, and says which keys differ."""

from pathlib import Path

import pytest

from planner import build_plan
from planner.plan.mismatch import compare_keys, describe_mismatch, find_launch_problems
from planner.plan.serialization import strategy_yaml
from planner.rules.not_implemented import find_unimplemented
from runtime.process.identity import Identity
from runtime.process.launchers import Launcher
from runtime.process.start import make_plan
from tests.support.examples import TEXT, plan, strategy


def test_keys_that_differ_are_named_with_their_units() -> None:
    was = strategy("launch.environment={A: x}")
    now = strategy(
        "parallel.ep=2", "launch.timeout=90 s", "launch.environment={B: y}", "limits.balance_min=0.5"
    )
    assert list(compare_keys(was, now)) == [
        ("parallel.ep", "1", "2"),
        ("launch.environment.A", "x", "not given"),
        ("launch.environment.B", "not given", "y"),
        ("launch.timeout", "10 min", "90 s"),
    ]


def test_other_plan_says_both_fingerprints_and_the_keys() -> None:
    generated, ours = plan(), plan("training.steps=7")
    problem = describe_mismatch(ours, generated.fingerprint, generated.strategy, "runs/small/strategy.yaml")
    assert problem.code == "SW301"
    assert ours.fingerprint in problem.found
    assert problem.found.endswith(
        f"plan {generated.fingerprint} (SWITCHYARD_PLAN): training.steps was 100, now 7"
    )


@pytest.mark.parametrize(
    ("generated", "words"), [(None, "is missing"), (("training.seed=5",), "was changed")]
)
def test_other_plan_without_what_was_generated_says_so(generated: tuple[str, ...] | None, words: str) -> None:
    written = None if generated is None else strategy(*generated)
    assert words in describe_mismatch(plan(), "0" * 16, written, "runs/small/strategy.yaml").found


def test_a_rank_compares_with_the_strategy_in_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.yaml").write_text(TEXT)
    folder = f"output.folder={tmp_path}"
    generated = build_plan(strategy(folder, "cluster.gpu=cpu", "cluster.hosts=1"))
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "strategy.yaml").write_text(strategy_yaml(generated))
    alone = Identity(rank=0, local_rank=0, world_size=1, host="h", launcher=Launcher.NONE)
    monkeypatch.setenv("SWITCHYARD_PLAN", generated.fingerprint)
    path = str(tmp_path / "small.yaml")
    same = (folder, "cluster.gpu=cpu", "cluster.hosts=1")
    assert make_plan(path, same, alone, find_unimplemented)[1] == ()
    _, (problem,) = make_plan(path, (*same, "training.seed=3"), alone, find_unimplemented)
    assert "training.seed was 1, now 3" in problem.found
    assert find_launch_problems(generated, {}) == ()
