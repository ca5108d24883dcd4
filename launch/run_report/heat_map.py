"""Heat maps of the experts' load: layers over time, and layers over experts now."""

import math
from collections.abc import Sequence

from launch.run_folder.experts import DEAD, OVERLOADED, shares
from launch.run_report.run_data import ExpertTime
from launch.run_report.svg import DIVERGING, SEQUENTIAL, WIDTH, legend, ramp, rect, svg, text

_LEFT, _TOP = 62, 20
_MOST = 16.0  # times the mean: the darkest colour
_TITLED_CELLS = 6000  # more than these have no text of their own on hover


def over_time(experts: ExpertTime) -> str:
    """The busiest expert of each layer over the layer's mean."""
    num_layers = len(experts.columns[0][2])
    cell = max(5.0, min(18.0, 300 / num_layers))
    width = (WIDTH - _LEFT) / len(experts.columns)
    parts = [text(_LEFT - 6, _TOP - 6, "layer", anchor="end", css="small")]
    for i, (first, last, tokens) in enumerate(experts.columns):
        for layer, load in enumerate(shares(tokens)[:num_layers]):
            most = max(load)
            steps = f"step {first}" if first == last else f"steps {first}-{last}"
            title = f"layer {layer}, {steps}: expert {load.index(most)} has {most:.2f} times the mean"
            colour = ramp(SEQUENTIAL, _position(most))
            parts.append(rect(_LEFT + i * width, _TOP + layer * cell, width + 0.3, cell, colour, title))
    bottom = _TOP + num_layers * cell
    parts += _layer_names(num_layers, cell)
    parts.append(text(_LEFT, bottom + 15, f"step {experts.columns[0][0]}", css="small"))
    parts.append(text(WIDTH, bottom + 15, f"step {experts.columns[-1][1]}", anchor="end", css="small"))
    marks = (1.0, 2.0, 4.0, 8.0, _MOST)
    labels = [(ramp(SEQUENTIAL, _position(m)), f"{m:g}×{' or more' if m == _MOST else ''}") for m in marks]
    parts += legend(labels, bottom + 36)
    return svg(WIDTH, bottom + 46, parts, "Busiest expert of each layer over time, times the layer's mean")


def by_expert(experts: ExpertTime) -> str:
    """Each expert's tokens over its layer's mean, in the last steps."""
    load = shares(experts.latest)
    num_layers, num_experts = len(load), len(load[0])
    cell = max(5.0, min(18.0, 300 / num_layers))
    width = min(30.0, (WIDTH - _LEFT) / num_experts)
    has_titles = num_layers * num_experts <= _TITLED_CELLS
    parts = [text(_LEFT - 6, _TOP - 6, "layer", anchor="end", css="small")]
    parts.append(text(_LEFT, _TOP - 6, f"expert 0 … {num_experts - 1}", css="small"))
    for layer, row in enumerate(load):
        for expert, share in enumerate(row):
            x, y = _LEFT + expert * width, _TOP + layer * cell
            title = f"layer {layer} expert {expert}: {share:.2f} times the mean" if has_titles else ""
            parts.append(rect(x, y, width + 0.2, cell, _diverging(share), title))
            if share < DEAD:
                parts.append(
                    f'<path class="dead" d="M{x + 1:.1f} {y + 1:.1f}L{x + width - 1:.1f} {y + cell - 1:.1f}'
                    f'M{x + width - 1:.1f} {y + 1:.1f}L{x + 1:.1f} {y + cell - 1:.1f}"/>'
                )
            elif share > OVERLOADED:
                parts.append(
                    f'<circle class="over" cx="{x + width / 2:.1f}" cy="{y + cell / 2:.1f}" r="1.8"/>'
                )
    parts += _layer_names(num_layers, cell)
    bottom = _TOP + num_layers * cell
    labels = [(_diverging(m), f"{m:g}×") for m in (0.25, 0.5, 1.0, 2.0, 4.0)]
    parts += legend(labels, bottom + 22)
    parts.append(
        text(
            WIDTH,
            bottom + 22,
            f"× dead (below {DEAD:g}), dot: above {OVERLOADED:g} times the mean",
            anchor="end",
            css="small",
        )
    )
    return svg(WIDTH, bottom + 32, parts, "Load of each expert, times its layer's mean")


def _position(times: float) -> float:
    """Of a multiple of the mean on the scale, 0 to 1: each doubling is as far as the next."""
    return math.log2(max(1.0, times)) / math.log2(_MOST)


def _diverging(share: float) -> str:
    """Even is the middle; a quarter of the mean is as far from it as four times."""
    position = math.log2(max(share, 1e-3)) / 2
    return ramp(DIVERGING, (max(-1.0, min(1.0, position)) + 1) / 2)


def _layer_names(num_layers: int, cell: float) -> Sequence[str]:
    every = max(1, math.ceil(12 / cell))
    return [
        text(_LEFT - 6, _TOP + layer * cell + cell / 2 + 4, layer, anchor="end", css="small")
        for layer in range(0, num_layers, every)
    ]
