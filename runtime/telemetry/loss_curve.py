"""Loss curve of a run, drawn as loss.png."""

from __future__ import annotations

import math
from pathlib import Path

from planner.files import replace
from planner.run_files import STEPS_NAME
from runtime.files.json_lines import read_steps

PICTURE_NAME = "loss.png"
# The colour-blind can distinguish blue and orange; validation also has markers.
TRAIN, VALIDATION, FAINT, INK = "#3b6fb6", "#e07b00", "#8a8f98", "#22262c"


def draw_loss_curve(run_folder: Path, *, title: str, vocab_size: int) -> Path:
    """Draw training and validation loss over the steps of a run's telemetry; returns the picture's path.

    The dotted line is ln(vocab_size), the loss of a uniform guess over all tokens.
    """
    from io import BytesIO

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, no display
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = read_steps(run_folder / STEPS_NAME).values()
    train = [(line["step"], line["loss"]) for line in lines if line["loss"] is not None]
    validation = [
        (line["step"], line["validation_loss"]) for line in lines if line["validation_loss"] is not None
    ]
    guess = math.log(vocab_size)

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(8, 4.5), dpi=160, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(guess, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color=TRAIN, linewidth=1.6, label=f"training, {losses[-1]:.2f} at the end")
    if validation:
        steps, losses = zip(*validation, strict=True)
        label = f"validation, {losses[-1]:.2f} at the end"
        axes.plot(steps, losses, color=VALIDATION, linewidth=1.6, marker="o", markersize=5, label=label)

    last_step = max((step for step, _ in (*train, *validation)), default=1)
    axes.set_xlim(0, last_step * 1.02)
    axes.set_ylim(top=max([guess, *(loss for _, loss in (*train, *validation))]) + 0.35)
    axes.annotate(
        f"ln {vocab_size} = {guess:.2f}, a uniform guess",
        xy=(last_step * 1.02, guess),
        xytext=(-4, -5),
        textcoords="offset points",
        ha="right",
        va="top",
        color=FAINT,
        fontsize=9,
    )
    axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold", pad=12)
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel("cross-entropy, nats per token", color=INK)
    axes.tick_params(colors=INK, length=0)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    if train or validation:
        axes.legend(frameon=False, loc="lower left", labelcolor=INK)

    picture = BytesIO()
    figure.savefig(picture, format="png")
    path = run_folder / PICTURE_NAME
    replace(path, picture.getvalue())
    return path
