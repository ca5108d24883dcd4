"""Summary of a run at its end, also of one that diverged."""

import errno
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from planner import build_plan, loads
from planner.prediction.breakdown import PHASES
from runtime.data.rows import Totals
from runtime.telemetry.reporter import RunReporter
from runtime.training.train_step import StepResult
from runtime.training.trainer import StepReport
from tests.runtime.startup.test_resume import STRATEGY
from tests.support.reference import tiny

FINE = StepResult(
    loss=6.25,
    aux_loss=1.0,
    z_loss=1.0,
    grad_norm=0.5,
    skipped=False,
    dropped_tokens=0,
    expert_tokens=torch.ones(1, 4, dtype=torch.int64),
    passes=(),
    ended_ns=0,
)
NAN = float("nan")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("last", "validation", "words"),
    [
        (replace(FINE, loss=5.5), 5.75, "loss 6.250 → 5.500, validation 5.750;"),
        (
            replace(FINE, loss=NAN, grad_norm=NAN, skipped=True),
            NAN,
            "loss 6.250 → not finite, validation not finite;",
        ),
    ],
)
def test_the_summary_has_the_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last: StepResult, validation: float, words: str
) -> None:
    plan = build_plan(loads(STRATEGY, ["runtime.force_routing={kind: ragged}"]))
    reporter = RunReporter(plan, tmp_path, 0, attempt=1, first_step=1, device=CPU)
    with reporter:
        for step, result in enumerate((FINE, last), start=1):
            reporter.observe(
                StepReport(
                    step=step,
                    result=result,
                    validation_loss=validation if step == 2 else None,
                    learning_rate=1e-3,
                    totals=Totals(num_targets=64, num_tokens=64, num_sequences=2, num_pairs=1056),
                    phases_s=dict.fromkeys(PHASES, 0.1),
                )
            )
    picture = reporter.draw_pictures()
    assert picture is not None
    assert picture.exists()
    assert reporter.result()["force_routing"] == {"kind": "ragged"}  # never silently
    reporter.print_summary(reporter.result() | {"peak_memory_bytes": 3 * 2**30})
    assert f"{tmp_path}: step 2, {words}" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("fault", ["no matplotlib", "a full disk", "damaged telemetry"])
def test_a_picture_that_cannot_be_drawn_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    reporter = RunReporter(build_plan(loads(STRATEGY)), tmp_path, 0, attempt=1, first_step=1, device=CPU)
    with reporter:
        pass
    if fault == "no matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    elif fault == "a full disk":
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr("runtime.telemetry.loss_curve.replace", Mock(side_effect=full))
    else:
        (tmp_path / "telemetry.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "timeline.json").write_text("{")
    assert reporter.draw_pictures() is None
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said] == [
        "SW965 timeline.png could not be drawn",
        "SW965 loss.png could not be drawn",
    ]


@pytest.mark.parametrize(("num_replicas", "name"), [(31, "rank-0000.jsonl"), (32, "host-localhost.jsonl")])
def test_from_256_ranks_on_a_host_has_one_file(tmp_path: Path, num_replicas: int, name: str) -> None:
    parallel = {"ep": 8, "dp": num_replicas}
    plan = build_plan(tiny(parallel=parallel, training__global_batch=8 * num_replicas))
    assert plan.world_size == 8 * num_replicas
    reporter = RunReporter(
        plan, tmp_path, 0, attempt=1, first_step=1, device=CPU, host_folder=tmp_path / "memory"
    )
    report = StepReport(
        step=1,
        result=FINE,
        validation_loss=None,
        learning_rate=1e-3,
        totals=Totals(num_targets=64, num_tokens=64, num_sequences=2, num_pairs=1056),
        phases_s=dict.fromkeys(PHASES, 0.1),
    )
    reporter.__enter__()
    reporter.observe(report)
    reporter.__exit__(KeyboardInterrupt, None, None)  # nobody waits for the other ranks: they are not here
    assert [path.name for path in (tmp_path / "ranks").iterdir()] == [name]
    assert '"step": 1' in (tmp_path / "ranks" / name).read_text()
