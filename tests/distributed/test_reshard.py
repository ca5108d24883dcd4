"""A resharded checkpoint is, byte by byte, the one that a run in that layout would have saved."""

from pathlib import Path
from typing import Any

import pytest

from planner import build_plan
from runtime.checkpoint.manifest import CheckpointError, read_manifest
from runtime.checkpoint.reshard import reshard
from runtime.checkpoint.store import find_damage, newest
from tests.support.layout import Leg, run_leg
from tests.support.reference import tiny

STEP = "step-00000002"
# Sizes that neither TP nor partitions divide; layers that are dense, shared experts and a bias.
MODEL = {
    "model__vocab_size": 47,
    "model__num_shared_experts": 1,
    "model__first_dense_layers": 1,
    "model__intermediate_size": 24,
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "ep 2, tp 2, ZeRO 2": {"parallel": {"ep": 2, "tp": 2, "zero_stage": 2}},
    "ep 2, dp 2, ZeRO 0": {"parallel": {"ep": 2, "dp": 2, "zero_stage": 0}},
    "staged": {"parallel": {"placement": "staged", "ep": 2, "tp": 2, "zero_stage": 1}},
    "ep 2, tp 2, dp 2": {"parallel": {"ep": 2, "tp": 2, "dp": 2, "zero_stage": 1}},
}


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A precision, and a checkpoint of a run in it with ep 4."""
    folder = tmp_path_factory.mktemp("saved")
    strategy = _strategy(request.param, {"parallel": {"ep": 4, "zero_stage": 1}})
    run_leg(strategy, Leg(last=2, saved=folder))
    return request.param, folder


def _strategy(precision: str, changes: dict[str, Any]) -> Any:
    return tiny(training__precision=precision, training__balance="bias", **MODEL, **changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_what_the_layout_would_have_saved(saved: tuple[str, Path], layout: str, tmp_path: Path) -> None:
    precision, folder = saved
    changes = LAYOUTS[layout]
    if precision == "bf16":  # which has masters under ZeRO 1 and 2 only
        changes = {"parallel": {**changes["parallel"], "zero_stage": changes["parallel"]["zero_stage"] or 1}}
    strategy = _strategy(precision, changes)
    run_leg(strategy, Leg(first=2, last=2, loaded=folder, saved=tmp_path / "expected"))
    info, ranks = newest(folder), []
    assert info is not None
    written = reshard(info, build_plan(strategy), tmp_path / "out", ranks.append)
    assert written == tmp_path / "out" / STEP
    assert ranks == list(range(build_plan(strategy).world_size))
    expected, found = (read_manifest(tmp_path / name / STEP) for name in ("expected", "out"))
    assert found.files == expected.files
    assert found.tensors == expected.tensors
    assert found.meta.layout == expected.meta.layout
    opened = newest(tmp_path / "out")
    assert opened is not None
    assert find_damage(opened) == ()


def test_another_model_is_refused_and_nothing_is_left(saved: tuple[str, Path], tmp_path: Path) -> None:
    precision, folder = saved
    info = newest(folder)
    assert info is not None
    wider = build_plan(_strategy(precision, {"model__hidden_size": 24, **LAYOUTS["staged"]}))
    with pytest.raises(
        CheckpointError,
        match=r"SW808 .*: aggregation.weight has shape \[16, 16\], the strategy's .* \[24, 24\]",
    ):
        reshard(info, wider, tmp_path / "out", lambda _: None)
    deeper = build_plan(_strategy(precision, {"model__num_hidden_layers": 3, **LAYOUTS["staged"]}))
    with pytest.raises(CheckpointError, match=r"SW808 .*: no weight of model\.layers\.2\."):
        reshard(info, deeper, tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out" / STEP).exists()
