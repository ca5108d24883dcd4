"""The picture of a run's losses."""

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from planner.prediction.breakdown import PHASES
from runtime.telemetry import loss_curve
from runtime.telemetry.records import StepLine, Telemetry

ROOT = Path(__file__).parents[3]


def train(run_folder: Path, losses: dict[int, float], validation: dict[int, float]) -> None:
    telemetry = Telemetry(run_folder, 0, attempt=1)
    for step, loss in losses.items():
        telemetry.append_step(
            StepLine(
                step=step,
                loss=loss,
                validation_loss=validation.get(step),
                learning_rate=1e-3,
                grad_norm=1.0,
                tokens=1,
                targets=1,
                model_flops=1,
                peak_flops=1.0,
                phases_s=dict.fromkeys(PHASES, 0.1),
                dropped_tokens=0,
            )
        )
    telemetry.close()


def colours(path: Path) -> set[str]:
    pixels = (imread(path)[:, :, :3] * 255).round().astype(int)
    return {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in {tuple(pixel) for row in pixels for pixel in row}}


def test_both_losses_are_drawn(tmp_path):
    train(tmp_path, {step: 8 - step / 10 for step in range(1, 21)}, {10: 7.2, 20: 6.2})
    path = loss_curve.draw_loss_curve(tmp_path, title="tiny_cpu", vocab_size=4096)
    assert path == tmp_path / "loss.png"
    assert {loss_curve.TRAIN, loss_curve.VALIDATION} <= colours(path)
    assert imread(path).shape[:2] == (720, 1280)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("loss")] == ["loss.png"]


@pytest.mark.parametrize("losses", [{}, {1: 8.2}, {1: float("nan")}, {1: 8.0, 2: float("nan"), 3: 7.0}])
def test_few_or_no_numbers_are_no_error(tmp_path, losses):
    train(tmp_path, losses, {})
    assert loss_curve.draw_loss_curve(tmp_path, title="t", vocab_size=4096).stat().st_size > 1000


def test_matplotlib_waits_until_a_picture_is_drawn():
    modules = ("telemetry.loss_curve", "telemetry.records", "telemetry.progress_line", "startup.claims")
    imports = f"import sys, {', '.join(f'runtime.{module}' for module in modules)}"
    program = f"{imports}; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False", "False"]
