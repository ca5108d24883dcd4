"""SVG bars of predicted steps: what each plan's ranks do with their time, as shares of the step."""

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from planner.units import milliseconds

# Okabe and Ito's colours, which remain distinct to colour-blind readers, and greys: compute first.
_COLOURS = {
    "matmuls": "#0072b2",
    "memory-bound operations": "#56b4e9",
    "issuing operations": "#999999",
    "optimizer": "#009e73",
    "all-to-all": "#d55e00",
    "TP collectives": "#e69f00",
    "gradient reduction": "#cc79a7",
    "other stages": "#f0e442",
    "data and other": "#c8c8c8",
}
_BAR, _GAP, _LABEL, _STEP = 16, 24, 330, 90
LEGEND_HEIGHT = 54


def step_bars(
    steps: Sequence[tuple[str, Mapping[str, float]]], left: int, right: int, top: int
) -> Iterator[str]:
    """A legend, then one bar for each step: its title, its causes in seconds, its length in ms.

    Between x `left` and `right`, from y `top` on; `bars_height` says how far.
    """
    start, end = left + _LABEL, right - _STEP
    used = [cause for cause in _COLOURS if any(causes.get(cause) for _, causes in steps)]
    for i, cause in enumerate(used):
        x, y = left + i % 4 * (right - left) // 4, top + i // 4 * 20
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{_COLOURS[cause]}"/>'
        yield f'<text x="{x + 18}" y="{y}">{escape(cause)}</text>'
    for i, (title, causes) in enumerate(steps):
        y = top + LEGEND_HEIGHT + i * _GAP
        step_s = sum(causes.values())
        yield f'<text x="{left}" y="{y + 13}">{escape(title)}</text>'
        edge = float(start)
        for cause in used:
            share = causes.get(cause, 0.0) / step_s
            width = share * (end - start)
            said = f"{cause}: {milliseconds(share * step_s)} ms, {share:.0%}"
            if width >= 0.05:
                size = f'width="{width:.1f}" height="{_BAR}"'
                yield f'<rect x="{edge:.1f}" y="{y}" {size} fill="{_COLOURS[cause]}">'
                yield f"<title>{escape(said)}</title></rect>"
            edge += width
        yield f'<text x="{right}" y="{y + 13}" text-anchor="end">{milliseconds(step_s)} ms</text>'


def bars_height(num_steps: int) -> int:
    """Height that the legend and so many bars take."""
    return LEGEND_HEIGHT + num_steps * _GAP
