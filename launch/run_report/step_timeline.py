"""Timeline of the traced step: a row for each rank, its passes, and upon them its waits for other ranks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launch.run_folder.records import number
from launch.run_report.svg import WIDTH, legend, rect, svg, text, tick_text, ticks
from planner.report.timeline_style import LABELS, PASS_COLOURS, WAIT_COLOURS

MAX_ROWS = 32
_LEFT, _ROW = 130, 22

Bar = tuple[int, int, str, str, float, float]  # stage, rank, kind, name, start and duration in ms


def step_timeline(trace: Mapping[str, Any]) -> str:
    """The picture, with a legend; a trace without passes is said to be one."""
    bars = list(_bars(trace["traceEvents"]))
    rows = _rows({(bar[0], bar[1]) for bar in bars})
    shown = [bar for bar in bars if (bar[0], bar[1]) in rows]
    if not shown:
        return '<p class="empty">The trace has no passes.</p>'
    end = max(start + duration for *_, start, duration in shown)
    begin = min(0.0, *(start for *_, start, _ in shown))
    scale = (WIDTH - _LEFT - 10) / (end - begin or 1.0)
    stages = _stage_names(trace["traceEvents"])
    parts = []
    for (stage, rank), row in rows.items():
        name = f"{stages.get(stage, '')} " if len(stages) > 1 else ""
        parts.append(text(_LEFT - 8, row * _ROW + 20, f"{name}rank {rank}", anchor="end", css="small"))
    for stage, rank, kind, name, start, duration in (*_passes(shown), *_merged(shown, (end - begin) / 2000)):
        y = rows[stage, rank] * _ROW + 6
        x, width = _LEFT + (start - begin) * scale, duration * scale
        is_wait = kind in WAIT_COLOURS
        title = f"rank {rank}: {LABELS.get(name, name)}, {duration:.3g} ms"
        if is_wait:
            parts.append(rect(x, y + 8, width, 8, WAIT_COLOURS[kind], title))
            continue
        parts.append(rect(x, y, width, _ROW - 4, PASS_COLOURS[kind], title, ' class="pass"'))
        micro_batch = name.split()[1:]
        if micro_batch and width > 12:
            parts.append(f'<text class="number" x="{x + 3:.1f}" y="{y + 7:.1f}">{micro_batch[0]}</text>')
    bottom = len(rows) * _ROW + 8
    for value in ticks(0.0, end, 8):
        parts.append(
            text(_LEFT + (value - begin) * scale, bottom + 12, tick_text(value), anchor="middle", css="small")
        )
    parts.append(text(WIDTH, bottom + 28, "milliseconds", anchor="end", css="small"))
    kinds = {bar[2] for bar in shown}
    items = [(c, LABELS.get(k, k)) for k, c in (PASS_COLOURS | WAIT_COLOURS).items() if k in kinds]
    parts += legend(items, bottom + 46)
    parts.append(text(0, bottom + 84, "A number at the start of a pass is its micro-batch.", css="small"))
    return svg(WIDTH, bottom + 92, parts, "What each rank did in one step")


def _bars(events: Sequence[Any]) -> Iterator[Bar]:
    for event in events:
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        name, start, duration = str(event.get("name")), number(event.get("ts")), number(event.get("dur"))
        kind = name.partition(" ")[0]
        known = WAIT_COLOURS if event.get("cat") == "phase" else PASS_COLOURS
        stage, rank = event.get("pid"), event.get("tid")
        if kind not in known or type(stage) is not int or type(rank) is not int:
            continue
        if start is not None and duration is not None and duration >= 0:
            yield stage, rank, kind, name, start / 1e3, duration / 1e3


def _rows(ranks: set[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The first ranks of each stage, as many as a picture can show."""
    stages = sorted({stage for stage, _ in ranks})
    each = max(1, MAX_ROWS // max(1, len(stages)))
    chosen = [
        (stage, rank)
        for stage in stages
        for rank in sorted(rank for other, rank in ranks if other == stage)[:each]
    ]
    return {place: row for row, place in enumerate(chosen)}


def _passes(bars: Sequence[Bar]) -> Iterator[Bar]:
    yield from (bar for bar in bars if bar[2] in PASS_COLOURS)


def _merged(bars: Sequence[Bar], gap_ms: float) -> Iterator[Bar]:
    """Waits; those closer than a fraction of a pixel are one: a step of a large model has thousands."""
    last: dict[tuple[int, int, str], Bar] = {}
    for bar in sorted((bar for bar in bars if bar[2] in WAIT_COLOURS), key=lambda bar: bar[4]):
        stage, rank, kind, name, start, duration = bar
        before = last.get((stage, rank, kind))
        if before is not None and start - (before[4] + before[5]) < gap_ms:
            last[stage, rank, kind] = (stage, rank, kind, name, before[4], start + duration - before[4])
            continue
        if before is not None:
            yield before
        last[stage, rank, kind] = bar
    yield from last.values()


def _stage_names(events: Sequence[Any]) -> dict[int, str]:
    found = {}
    for event in events:
        if isinstance(event, dict) and event.get("name") == "process_name" and type(event.get("pid")) is int:
            arguments = event.get("args")
            name = str(arguments.get("name", "")) if isinstance(arguments, dict) else ""
            found[event["pid"]] = name.partition(" ")[2] or name
    return found
