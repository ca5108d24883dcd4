"""Page of a report: one run, or several compared and then one by one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.run_report.html import heading, paragraph, table
from launch.run_report.key_values import key_values
from launch.run_report.line_chart import Line, line_chart
from launch.run_report.run_data import RunData, read_run
from launch.run_report.run_section import run_section
from launch.run_report.style import style
from launch.run_report.svg import COLOURS, safe
from planner.version import VERSION

# The page asks for nothing, whatever a name in it contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def report_page(folders: Sequence[Path]) -> str:
    """The report of these runs, in this order."""
    labels = _labels(folders)
    return page([read_run(folder, label) for folder, label in zip(folders, labels, strict=True)])


def page(runs: Sequence[RunData]) -> str:
    """The text of the HTML file; the same for the same files."""
    title = ", ".join(run.label for run in runs[:3]) + (" …" if len(runs) > 3 else "")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{safe(title)}</title>",
        f"<style>{style()}</style></head><body>",
        heading(1, "Training report"),
        paragraph(f"{title}. Written by Switchyard {VERSION}.", "quiet"),
        *(_comparison(runs) if len(runs) > 1 else ()),
        *(run_section(run) for run in runs),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _comparison(runs: Sequence[RunData]) -> Iterator[str]:
    yield heading(2, f"{len(runs)} runs compared")
    values = [key_values(run) for run in runs]
    rows = [(name, *(column[name] for column in values)) for name in values[0]]
    labels = [run.label for run in runs]
    yield table(("", *labels), rows, labels)
    yield heading(3, "Training loss")
    losses = [
        Line(label=run.label, points=tuple((s.step, s.loss) for s in run.steps), colour=i)
        for i, run in enumerate(runs)
    ]
    yield line_chart(losses, "Cross-entropy over steps", "step")
    yield heading(3, "Throughput, tokens/s")
    rates = [
        Line(label=run.label, points=tuple((s.step, s.tokens_per_s) for s in run.steps), colour=i)
        for i, run in enumerate(runs)
    ]
    yield line_chart(rates, "Tokens per second over steps", "step")
    if len(runs) > len(COLOURS):
        yield paragraph(f"Colours repeat after {len(COLOURS)} runs.", "quiet")


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of folders; paths where two have one name."""
    names = [folder.resolve().name for folder in folders]
    return [
        name if names.count(name) == 1 else str(folder) for folder, name in zip(folders, names, strict=True)
    ]
