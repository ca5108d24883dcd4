"""Line chart over the steps of one run or of several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launch.run_report.svg import COLOURS, DASHES, WIDTH, svg, text, tick_text, ticks

HEIGHT = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 14, 52
_MAX_POINTS = 600


@dataclass(frozen=True, kw_only=True)
class Line:
    """points: x, and y or None where there is no number: the line has a gap there. colour: its number."""

    label: str
    points: tuple[tuple[float, float | None], ...]
    colour: int
    has_markers: bool = False


def line_chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    *,
    marks: Sequence[float] = (),
    from_zero: bool = False,
) -> str:
    """marks: x where an attempt began."""
    values = [y for line in lines for _, y in line.points if y is not None]
    xs = [x for line in lines for x, y in line.points if y is not None]
    if not values:
        return '<p class="empty">No numbers.</p>'
    low, high = (0.0 if from_zero else min(values)), max(values)
    if high == low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    first, last = min(xs), max(xs)
    last = last if last > first else first + 1

    def place_x(x: float) -> float:
        return _LEFT + (x - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _BOTTOM - _TOP)

    parts: list[str] = []
    for value in ticks(low, high):
        y = place_y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(_LEFT - 6, y + 4, tick_text(value), anchor="end", css="small"))
    for value in ticks(first, last, 8):
        if value == int(value):
            parts.append(
                text(place_x(value), HEIGHT - _BOTTOM + 16, tick_text(value), anchor="middle", css="small")
            )
    parts.append(text(WIDTH - _RIGHT, HEIGHT - _BOTTOM + 30, x_label, anchor="end", css="small"))
    for mark in marks:
        x = place_x(mark)
        if _LEFT <= x <= WIDTH - _RIGHT:
            parts.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
            )
    for line in lines:
        colour, dash = COLOURS[line.colour % len(COLOURS)], DASHES[line.colour % len(DASHES)]
        style = f'stroke="{colour}"' + (f' stroke-dasharray="{dash}"' if dash else "")
        for piece in _pieces(line.points):
            path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in thin(piece))
            parts.append(f'<polyline class="line" points="{path}" {style}/>')
            if line.has_markers or len(piece) == 1:
                parts += [
                    f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3" fill="{colour}"/>'
                    for x, y in thin(piece)
                ]
    parts += _legend(lines, has_marks=bool(marks))
    return svg(WIDTH, HEIGHT, parts, title)


def _legend(lines: Sequence[Line], *, has_marks: bool) -> Iterator[str]:
    x, y = float(_LEFT), HEIGHT - 6.0
    for line in lines:
        colour, dash = COLOURS[line.colour % len(COLOURS)], DASHES[line.colour % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        ends = f'x1="{x:.1f}" x2="{x + 28:.1f}" y1="{y - 4}" y2="{y - 4}"'
        yield f'<line class="line" {ends} stroke="{colour}"{dashed}/>'
        yield text(x + 34, y, line.label, css="small")
        x += 56 + 6.8 * len(line.label)
    if has_marks:
        yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 11}" y2="{y + 2}"/>'
        yield text(x + 7, y, "an attempt began", css="small")


def _pieces(points: Sequence[tuple[float, float | None]]) -> Iterator[list[tuple[float, float]]]:
    """Stretches without a gap."""
    piece: list[tuple[float, float]] = []
    for x, y in points:
        if y is not None:
            piece.append((x, y))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """No more points than a picture shows; of each stretch the lowest and the highest stay: a spike does."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    width = -(-len(points) * 2 // _MAX_POINTS)
    kept: list[tuple[float, float]] = [points[0]]
    for i in range(0, len(points), width):
        stretch = points[i : i + width]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return [*kept, points[-1]]
