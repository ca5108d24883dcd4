"""SVG in a report: escaped text, ticks, colours that the colour-blind can tell apart."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from planner.terminal_text import escape_controls

WIDTH = 920
# Okabe and Ito's (https://jfly.uni-koeln.de/color/, 2008); lines differ by their dashes too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "7 4", "2 3", "10 3 2 3", "4 4", "1 2")
# Cividis (Nuñez, Anderton and Renslow, 2018): evenly darker, and the same to the colour-blind.
SEQUENTIAL = (
    "#fdea45",
    "#dcc85d",
    "#b9ac70",
    "#9b9377",
    "#7d7c78",
    "#61656f",
    "#434e6c",
    "#1e396d",
    "#00224e",
)
# PuOr (Brewer): orange above the mean, purple below.
DIVERGING = ("#542788", "#998ec3", "#d8daeb", "#f7f7f7", "#fee0b6", "#f1a340", "#b35806")


def safe(text: object) -> str:
    """For HTML and SVG, whoever chose the name."""
    return escape(escape_controls(str(text)))


def svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """An inline picture as wide as the page lets it be, with a name for those who hear it."""
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        'role="img" '
        f'aria-label="{safe(title)}"><title>{safe(title)}</title>\n' + "\n".join(parts) + "\n</svg>"
    )


def text(x: float, y: float, content: object, *, anchor: str = "start", css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{safe(content)}</text>'


def rect(x: float, y: float, width: float, height: float, fill: str, title: str = "", extra: str = "") -> str:
    """A bar or a cell, with what it is on hover."""
    size = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.2):.1f}" height="{height:.1f}"'
    inner = f"<title>{safe(title)}</title>" if title else ""
    return (
        f'<rect {size} fill="{fill}"{extra}>{inner}</rect>'
        if inner
        else f'<rect {size} fill="{fill}"{extra}/>'
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e4:
        for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:g}{unit}"
    return f"{value:.6g}"


def legend(items: Sequence[tuple[str, str]], y: float, *, width: float = WIDTH) -> Iterator[str]:
    """Colour and label of each, in a row or several."""
    x, row = 0.0, 0
    for colour, label in items:
        room = 26 + 6.8 * len(label)
        if x + room > width and x > 0:
            x, row = 0.0, row + 1
        yield rect(x, y + row * 18 - 10, 12, 12, colour)
        yield text(x + 17, y + row * 18, label, css="small")
        x += room


def ramp(colours: Sequence[str], share: float) -> str:
    """The colour at 0 to 1."""
    return colours[min(len(colours) - 1, max(0, round(share * (len(colours) - 1))))]
