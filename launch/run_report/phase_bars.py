"""Bars of the phases of a step: predicted beside measured."""

from collections.abc import Mapping

from launch.run_report.svg import COLOURS, WIDTH, rect, svg, text
from planner.prediction.breakdown import PHASES
from planner.units import milliseconds

_LEFT, _RIGHT, _BAR, _STEP = 130, 190, 11, 34


def phase_bars(predicted: Mapping[str, float], measured: Mapping[str, float]) -> str:
    """Seconds of each phase, and of the step. The predicted bar is above, hatched; the measured below."""
    names = [
        name for name in (*PHASES, "step_s") if predicted.get(name, 0.0) > 0 or measured.get(name, 0.0) > 1e-6
    ]
    longest = max([*(predicted.get(n, 0.0) for n in names), *(measured.get(n, 0.0) for n in names), 1e-9])
    scale = (WIDTH - _LEFT - _RIGHT) / longest
    parts = [
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="6" height="6" fill="none"/>'
        f'<rect width="3" height="6" fill="{COLOURS[0]}"/></pattern></defs>'
    ]
    for i, name in enumerate(names):
        y = 8 + i * _STEP
        before, after = predicted.get(name, 0.0), measured.get(name, 0.0)
        label = "step" if name == "step_s" else name
        parts.append(text(_LEFT - 8, y + 15, label, anchor="end"))
        outline = f' stroke="{COLOURS[0]}"'
        parts.append(
            rect(
                _LEFT,
                y,
                before * scale,
                _BAR,
                "url(#hatch)",
                f"{label} predicted: {milliseconds(before)} ms",
                outline,
            )
        )
        parts.append(
            rect(
                _LEFT,
                y + _BAR + 2,
                after * scale,
                _BAR,
                COLOURS[1],
                f"{label} measured: {milliseconds(after)} ms",
            )
        )
        error = f", {before / after - 1:+.0%}" if after > 0 and before > 0 else ""
        said = f"{milliseconds(before)} / {milliseconds(after)} ms{error}"
        parts.append(text(_LEFT + max(before, after) * scale + 8, y + 16, said, css="small"))
    bottom = 8 + len(names) * _STEP + 14
    parts.append(rect(_LEFT, bottom - 10, 24, 11, "url(#hatch)", "", f' stroke="{COLOURS[0]}"'))
    parts.append(text(_LEFT + 30, bottom, "predicted", css="small"))
    parts.append(rect(_LEFT + 110, bottom - 10, 24, 11, COLOURS[1]))
    parts.append(text(_LEFT + 140, bottom, "measured (median)", css="small"))
    return svg(WIDTH, bottom + 8, parts, "Predicted and measured seconds of each phase of a step")
