"""SVG picture of a plan: hosts as boxes, ranks as cells in the colour of their stage, groups on hover.

Standard library only, and the same bytes for the same plan. Colours are Okabe and Ito's, which people with a
colour vision deficiency tell apart (https://jfly.uni-koeln.de/color/, 2008); each stage has a letter besides,
or a pattern where cells are too small for text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from planner.plan.plan import Plan
from planner.report.plan_report import layer_text, rank_range
from planner.topology.grid import Grid
from planner.topology.placement import Stage
from planner.units import plural

WIDTH = 960
MARGIN = 20
GAP = 10
PADDING = 8
CELLS_PER_ROW = 8
# Fill and the text colour that has the higher contrast on it.
COLOURS = (
    ("#0072b2", "#ffffff"),
    ("#e69f00", "#000000"),
    ("#009e73", "#000000"),
    ("#cc79a7", "#000000"),
    ("#56b4e9", "#000000"),
    ("#d55e00", "#000000"),
    ("#f0e442", "#000000"),
)
PATTERNS = ("", "M0 6L6 0", "M3 0V6", "M0 3H6")
# An image has a background of its own: as an <img> it does not follow the theme of the page around it.
STYLE = """\
text{font-family:system-ui,sans-serif;fill:#1f2328}
.page{fill:#ffffff}.host{fill:#f6f8fa;stroke:#8c959f}.free{fill:none;stroke:#8c959f;stroke-dasharray:2 2}
.spare{fill:none;stroke-dasharray:5 4}.quiet{fill:#59636e}.tp{fill:#1f2328}
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}
.page{fill:#0d1117}.host{fill:#151b23;stroke:#656c76}.free{stroke:#656c76}
.spare{fill:none}.quiet{fill:#9198a1}.tp{fill:#f0f6fc}}"""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes in pixels; a cell without text is told apart by its pattern, a host without one by hovering."""

    cell: int
    gap: int
    has_text: bool
    has_groups: bool = True

    @property
    def step(self) -> int:
        return self.cell + self.gap

    @property
    def header(self) -> int:
        return 20 if self.has_text else 0


@dataclass(frozen=True, kw_only=True)
class Box:
    """A host of the cluster as it is drawn."""

    name: str
    ranks: tuple[int, ...]
    num_cells: int
    note: str  # "spare", "unused", or empty


def plan_svg(plan: Plan) -> str:
    """The picture as the text of an SVG file."""
    hosts = _boxes(plan)
    scale = _scale(sum(box.num_cells for box in hosts))
    boxes = [box for box in hosts if box.ranks or scale.has_text]
    columns = min(CELLS_PER_ROW, max(box.num_cells for box in boxes))
    rows = max(-(-box.num_cells // columns) for box in boxes)
    width = columns * scale.step - scale.gap + 2 * PADDING
    height = scale.header + rows * (scale.step + 3) + 2 * PADDING - 4
    gap = GAP if scale.has_text else GAP // 2
    per_line = max(1, min(len(boxes), (WIDTH - 2 * MARGIN + gap) // (width + gap)))
    top = 84
    below = top + -(-len(boxes) // per_line) * (height + gap)

    parts = [*_heading(plan, num_left_out=len(hosts) - len(boxes))]
    for i, box in enumerate(boxes):
        line, column = divmod(i, per_line)
        x, y = MARGIN + column * (width + gap), top + line * (height + gap)
        parts.append(f'<g transform="translate({x} {y})">')
        parts += _host(plan, box, scale, columns, width, height)
        parts.append("</g>")
    parts += _legend(plan, scale, below + 14)
    total = below + 30 + 22 * (len(plan.stages) + 1)
    title = f"{plan.strategy.name}: {plan.strategy.parallel.layout_name}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total}" '
            f'viewBox="0 0 {WIDTH} {total}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            *_patterns(plan, scale),
            f'<rect class="page" width="{WIDTH}" height="{total}" rx="8"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _boxes(plan: Plan) -> list[Box]:
    """Hosts that carry ranks, then unused ones, then the spare ones, in the cluster's order."""
    cluster = plan.strategy.cluster
    usable = cluster.hosts.count - cluster.spare_hosts
    used = {host.name: host.ranks for host in plan.hosts}
    boxes = []
    for i, (name, slots) in enumerate(zip(cluster.hosts.names, cluster.slots, strict=True)):
        ranks = used.get(name, ())
        note = "" if ranks else "spare" if i >= usable else "unused"
        boxes.append(Box(name=name, ranks=ranks, num_cells=max(slots, len(ranks)), note=note))
    return sorted(boxes, key=lambda box: (not box.ranks, box.ranks[:1]))


def _scale(num_cells: int) -> Scale:
    if num_cells <= 1024:
        return Scale(cell=24, gap=2, has_text=True)
    if num_cells <= 4096:
        return Scale(cell=10, gap=1, has_text=False)
    return Scale(cell=6, gap=1, has_text=False, has_groups=False)


def _heading(plan: Plan, *, num_left_out: int) -> Iterator[str]:
    parallel, cluster = plan.strategy.parallel, plan.strategy.cluster
    yield _text(
        MARGIN, 36, f"{plan.strategy.name}: {parallel.layout_name}, {parallel.placement}", 20, bold=True
    )
    unit = "processes" if cluster.gpu.is_cpu else f"of {plural(sum(cluster.slots), 'GPU')}"
    hosts = f"{len(plan.hosts)} of {cluster.hosts.count} host{'s' * (cluster.hosts.count > 1)}"
    spare = f", {cluster.spare_hosts} spare" if cluster.spare_hosts else ""
    left_out = " (hosts without ranks are not drawn)" if num_left_out else ""
    batch = plan.batch
    yield _text(
        MARGIN,
        60,
        f"{plan.world_size} {unit} on {hosts}{spare}{left_out}; "
        f"{batch.global_batch} sequences per step in "
        f"{batch.accumulation} micro-batch{'es' * (batch.accumulation > 1)}",
        14,
        css="quiet",
    )


def _host(plan: Plan, box: Box, scale: Scale, columns: int, width: int, height: int) -> Iterator[str]:
    note = f", {box.note}" if box.note else ""
    css = "host spare" if box.note else "host"
    name = f"<title>{escape(box.name + note)}</title>"
    yield f'<rect class="{css}" width="{width}" height="{height}" rx="5">{name}</rect>'
    if scale.has_text:
        yield _text(PADDING, 19, box.name + note, 12, css="quiet" if box.note else "")
    for i in range(box.num_cells):
        row, column = divmod(i, columns)
        x, y = PADDING + column * scale.step, PADDING + scale.header + row * (scale.step + 3) - 2
        if i >= len(box.ranks):
            yield f'<rect class="free" x="{x}" y="{y}" width="{scale.cell}" height="{scale.cell}" rx="2"/>'
            continue
        is_last = i + 1 == len(box.ranks) or column + 1 == columns
        yield from _rank(plan, box, box.ranks[i], x, y, scale, is_last_in_row=is_last)


def _rank(
    plan: Plan, box: Box, rank: int, x: int, y: int, scale: Scale, *, is_last_in_row: bool
) -> Iterator[str]:
    stage = plan.stage_of(rank)
    index = next(i for i, other in enumerate(plan.stages) if other is stage)
    fill, ink = COLOURS[index % len(COLOURS)]
    cell = f'x="{x}" y="{y}" width="{scale.cell}" height="{scale.cell}" rx="2"'
    axes = _axes(stage) if scale.has_groups else []
    groups = "".join(f"\n{axis} group: {_members(grid, axis, rank)}" for grid, axis in axes)
    title = f"rank {rank} on {box.name}\n{stage.name}: {layer_text(stage)}{groups}"
    yield f'<g class="rank"><title>{escape(title)}</title><rect {cell} fill="{fill}"/>'
    if scale.has_text:
        label = f"{_letters(index)}{rank}"
        size = 10 if len(label) < 4 else 8.5 if len(label) == 4 else 7
        middle = x + scale.cell / 2
        yield (
            f'<text x="{middle:g}" y="{y + 16}" font-size="{size:g}" text-anchor="middle" '
            f'style="fill:{ink}">{label}</text>'
        )
        tp = stage.dense.size("tp")
        if tp > 1:
            is_end = stage.dense.coordinate("tp", rank) == tp - 1 or is_last_in_row
            bar = scale.cell if is_end else scale.step
            yield f'<rect class="tp" x="{x}" y="{y + scale.cell + 1}" width="{bar}" height="2"/>'
    elif PATTERNS[index % len(PATTERNS)]:
        yield f'<rect {cell} fill="url(#p{index % len(PATTERNS)})"/>'
    yield "</g>"


def _legend(plan: Plan, scale: Scale, top: int) -> Iterator[str]:
    """One line a stage: its sign, ranks and parts, and the groups of its ranks."""
    for index, stage in enumerate(plan.stages):
        y = top + 22 * index
        fill, ink = COLOURS[index % len(COLOURS)]
        swatch = f'x="{MARGIN}" y="{y}" width="24" height="16" rx="2"'
        yield f'<rect {swatch} fill="{fill}"/>'
        if scale.has_text:
            yield (
                f'<text x="{MARGIN + 12}" y="{y + 12}" font-size="11" text-anchor="middle" '
                f'style="fill:{ink}">{_letters(index)}</text>'
            )
        elif PATTERNS[index % len(PATTERNS)]:
            yield f'<rect {swatch} fill="url(#p{index % len(PATTERNS)})"/>'
        yield _text(MARGIN + 34, y + 13, stage.name, 13, bold=True)
        yield _text(MARGIN + 140, y + 13, f"ranks {rank_range(stage.ranks)}", 13)
        yield _text(MARGIN + 275, y + 13, layer_text(stage), 13)
        yield _text(MARGIN + 490, y + 13, f"groups: {_groups(stage)}", 13)
    has_tp_bar = scale.has_text and any(stage.dense.size("tp") > 1 for stage in plan.stages)
    hints = (
        "Groups: their number × their size.",
        "A bar joins the ranks of a tensor-parallel group." if has_tp_bar else "",
        f"Hover over a rank for its {'groups' if scale.has_groups else 'stage'}.",
    )
    yield _text(MARGIN, top + 22 * len(plan.stages) + 16, " ".join(filter(None, hints)), 12, css="quiet")


def _axes(stage: Stage) -> list[tuple[Grid, str]]:
    """The axes of a stage along which ranks form groups of more than one."""
    axes = [(stage.dense, "tp"), (stage.dense, "data")]
    if stage.expert is not None:
        axes[1:1] = [(stage.expert, "ep"), (stage.expert, "edp")]
    return [(grid, axis) for grid, axis in axes if grid.size(axis) > 1]


def _groups(stage: Stage) -> str:
    counts = [f"{axis} {len(grid.groups(axis))} × {grid.size(axis)}" for grid, axis in _axes(stage)]
    return ", ".join(counts) or "none"


def _members(grid: Grid, axis: str, rank: int) -> str:
    ranks = grid.group_of(axis, rank)
    if ranks[-1] - ranks[0] == len(ranks) - 1:
        return rank_range(ranks)
    shown = ranks if len(ranks) <= 8 else (*ranks[:3], "…", ranks[-1])
    return ", ".join(str(member) for member in shown)


def _letters(index: int) -> str:
    """A, B, … Z, AA, AB, …"""
    first, last = divmod(index, 26)
    return (_letters(first - 1) if first else "") + chr(ord("A") + last)


def _patterns(plan: Plan, scale: Scale) -> Iterator[str]:
    if scale.has_text:
        return
    yield "<defs>"
    for i, path in enumerate(PATTERNS[: len(plan.stages)]):
        if path:
            yield (
                f'<pattern id="p{i}" width="6" height="6" patternUnits="userSpaceOnUse">'
                f'<path d="{path}" stroke="#000000" stroke-width="1.5"/></pattern>'
            )
    yield "</defs>"


def _text(x: int, y: int, text: str, size: int, *, bold: bool = False, css: str = "") -> str:
    weight = ' font-weight="600"' if bold else ""
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x}" y="{y}" font-size="{size}"{weight}{kind}>{escape(text)}</text>'
