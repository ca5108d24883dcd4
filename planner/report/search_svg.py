"""SVG picture of a search: throughput over GPUs, the Pareto front marked, its steps by cause.

Standard library only, and the same bytes for the same rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor, log2, log10
from xml.sax.saxutils import escape

from planner.report.step_svg import bars_height, step_bars
from planner.search.search import Search, SearchRow
from planner.units import plural

_WIDTH, _HEIGHT = 960, 540
_BELOW, _BARS_LEFT, _MARGIN = 50, 30, 10
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 930, 60, 480
_STYLE = """\
text{font-family:system-ui,sans-serif;font-size:13px;fill:#1f2328}
.page{fill:#ffffff}.grid{stroke:#d1d9e0}.row{fill:#8c959f;fill-opacity:.5}
.front{fill:#d55e00}.best{fill:none;stroke:#d55e00;stroke-width:1.5}
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.page{fill:#0d1117}.grid{stroke:#3d444d}}"""


def search_svg(name: str, found: Search, steps: Sequence[tuple[SearchRow, Mapping[str, float]]] = ()) -> str:
    """The picture as the text of an SVG file. Rows on the same pixel are drawn once.

    `steps`: rows of the front, and the seconds of their steps by cause (prediction.breakdown step_causes).
    """
    scale = _Scale(found.rows)
    places = {scale.point(row) for row in found.rows}
    height = _HEIGHT + (bars_height(len(steps)) + _BELOW + _MARGIN if steps else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(name)}: predicted tokens/s over GPUs</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
        f'<text x="{_LEFT}" y="30">{escape(name)}: {len(found.rows):,} plans; orange: the Pareto front of '
        f"throughput, GPUs and memory headroom ({len(found.pareto):,})</text>",
        *_axes(scale),
        *(f'<circle class="row" cx="{x}" cy="{y}" r="2"/>' for x, y in sorted(places)),
        f'<polyline class="best" points="{_steps(scale, found.rows)}"/>',
        *(_mark(scale, row) for row in found.pareto),
        *_step_bars(steps),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _step_bars(steps: Sequence[tuple[SearchRow, Mapping[str, float]]]) -> Iterator[str]:
    if not steps:
        return
    title = "Step by cause of plans on the front, mean over ranks"
    yield f'<text x="{_BARS_LEFT}" y="{_HEIGHT + 20}">{title}</text>'
    titled = [(f"{row.name}, {plural(row.gpus, 'GPU')}", causes) for row, causes in steps]
    yield from step_bars(titled, _BARS_LEFT, _RIGHT, _HEIGHT + _BELOW)


class _Scale:
    """GPUs by powers of two, tokens/s from zero."""

    def __init__(self, rows: Sequence[SearchRow]) -> None:
        gpus = [row.gpus for row in rows] or [1]
        self.first = floor(log2(min(gpus)))
        self.last = max(self.first + 1, ceil(log2(max(gpus))))
        largest = max((row.tokens_per_s for row in rows), default=1.0)
        unit = 10.0 ** floor(log10(largest))
        self.tick = next(unit * part for part in (0.2, 0.5, 1, 2) if largest <= 5 * unit * part)
        self.num_ticks = ceil(largest / self.tick)

    def x(self, gpus: float) -> float:
        share = (log2(gpus) - self.first) / (self.last - self.first)
        return round(_LEFT + share * (_RIGHT - _LEFT), 1)

    def y(self, tokens_per_s: float) -> float:
        return round(_BOTTOM - tokens_per_s / (self.tick * self.num_ticks) * (_BOTTOM - _TOP), 1)

    def point(self, row: SearchRow) -> tuple[int, int]:
        return round(self.x(row.gpus)), round(self.y(row.tokens_per_s))


def _axes(scale: _Scale) -> Iterator[str]:
    for power in range(scale.first, scale.last + 1):
        x = scale.x(2**power)
        yield f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{_BOTTOM}"/>'
        yield f'<text x="{x}" y="{_BOTTOM + 20}" text-anchor="middle">{2**power:,}</text>'
    for i in range(scale.num_ticks + 1):
        y = scale.y(i * scale.tick)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_RIGHT}" y2="{y}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{i * scale.tick:,.10g}</text>'
    yield f'<text x="{_RIGHT}" y="{_BOTTOM + 42}" text-anchor="end">GPUs</text>'
    yield f'<text x="{_LEFT}" y="{_TOP - 14}" text-anchor="end">tokens/s</text>'


def _steps(scale: _Scale, rows: Sequence[SearchRow]) -> str:
    """The most tokens/s on so many GPUs or fewer."""
    points: list[str] = []
    best = 0.0
    for row in sorted(rows, key=lambda row: (row.gpus, -row.tokens_per_s)):
        if row.tokens_per_s > best:
            x = scale.x(row.gpus)
            points += [f"{x},{scale.y(best)}"] if points else []
            points.append(f"{x},{scale.y(row.tokens_per_s)}")
            best = row.tokens_per_s
    return " ".join(points)


def _mark(scale: _Scale, row: SearchRow) -> str:
    x, y = scale.x(row.gpus), scale.y(row.tokens_per_s)
    text = f"{row.name}: {row.gpus:,} GPUs, {row.tokens_per_s:,.0f} tokens/s"
    return f'<circle class="front" cx="{x}" cy="{y}" r="4"><title>{escape(text)}</title></circle>'
