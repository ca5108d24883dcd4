"""The page of a report: complete in itself, true to the files, whatever they contain."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.run_report.page import report_page
from tests.support import recorded_runs as runs
from tests.support.hostile import HOSTILE

VOID = {"meta", "br", "hr", "img", "rect", "circle", "line", "path", "polyline"}


class Page(HTMLParser):
    """Texts, tags, and whether they are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if not (tag in VOID and tag not in ("rect", "circle", "line", "path", "polyline")):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data.strip())


def experts(step: int) -> list[list[int]]:
    """Layer 3 loses expert 17 in the last steps; layer 5 sends most to expert 2."""
    tokens = runs.even_experts(step)
    tokens[3][17] = 100 if step <= 30 else 0
    tokens[5][2] = 450
    return tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = runs.write_run(
        tmp_path_factory.mktemp("runs") / "wagons", "limits.balance_min=0.9", experts=experts
    )
    (run / "timeline.json").write_text(json.dumps(runs.trace()))
    runs.write_lines(
        run / "journal.jsonl",
        [
            {
                "time": runs.BEGAN,
                "event": "restart",
                "text": "a rank was killed: rank 3 ended without a reason",
            }
        ],
    )
    return runs.finish(run)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(report_page([folder]))


def test_the_page_is_balanced_and_asks_for_nothing(folder: Path, page: Page) -> None:
    assert page.open == []
    text = report_page([folder])
    assert not re.search(r"<(script|link|img|iframe|object|embed)\b", text)
    links = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset")]
    assert links == []
    assert "@import" not in text
    # Patterns of the page itself alone: url(#…).
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert (
        "meta",
        "content",
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    ) in page.attributes


def test_every_section_is_there(page: Page) -> None:
    for title in (
        "wagons",
        "What needs a look",
        "Plan: hosts and their ranks, coloured by stage",
        "Loss",
        "Throughput, tokens/s",
        "Step by phase, rank 0: predicted beside measured",
        "Limits of the strategy, over the last steps",
        "Expert load",
        "Timeline of step 3",
        "Attempts, failures and recoveries",
    ):
        assert title in page.texts, title


def test_figures_are_those_of_the_files(page: Page) -> None:
    figures = dict(reversed(list(zip(page.texts, page.texts[1:], strict=False))))  # the first of each name
    assert figures["steps"] == "40 of 150"
    assert figures["loss"] == "7.200"
    assert figures["tokens/s, median"] == "5,000"
    assert figures["step, median"] == "200 ms"
    assert figures["predicted step"] == "-20%"  # 160 ms over 200 ms
    assert figures["goodput"] == "66.7%"
    assert figures["tokens trained"] == "40k"
    assert "80 / 100 ms, -20%" in page.texts  # compute, and the all-to-all


def test_experts_are_named(page: Page) -> None:
    (dead,) = [text for text in page.texts if text.startswith("Dead experts")]
    (overloaded,) = [text for text in page.texts if text.startswith("Overloaded experts")]
    assert dead == "Dead experts from step 31 on: layer 3 expert 17 (0.00×)"
    assert overloaded == "Overloaded experts from step 31 on: layer 5 expert 2 (4.27×)"
    assert "layer 5, step 1: expert 2 has 4.27 times the mean" in page.texts
    assert "layer 3 expert 17: 0.00 times the mean" in page.texts


def test_the_timeline_has_the_collectives_of_a_colocated_plan(page: Page) -> None:
    for text in (
        "rank 0: forward 0, 40 ms",
        "rank 1: all-to-all of tokens, 20 ms",
        "rank 0: gradient reduction, 15 ms",
        "A number at the start of a pass is its micro-batch.",
    ):
        assert text in page.texts
    assert "rank 0: compute, 10 ms" not in page.texts  # it is the pass


def test_decisions_of_the_supervisor(page: Page) -> None:
    place = page.texts.index("a rank was killed: rank 3 ended without a reason")
    assert page.texts[place - 2 : place] == ["2027-01-15 08:00:00", "restart"]


def test_the_plans_style_reaches_its_own_picture_alone(folder: Path) -> None:
    (css,) = re.findall(r"<style>(.*?)</style>", report_page([folder]), re.DOTALL)
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+)\{", css)
    assert ".plan text" in selectors
    assert "text" not in [selector.strip() for selector in selectors]


def test_several_runs_are_compared(folder: Path, tmp_path: Path) -> None:
    slow = [runs.step_line(step, step_s=0.4, loss=6.0) for step in range(1, 41)]
    other = runs.write_run(tmp_path / "slow")
    runs.write_lines(other / "telemetry.jsonl", slow, mode="w")
    found = Page(report_page([folder, runs.finish(other)]))
    place = found.texts.index("tokens/s, median")
    assert found.texts[place : place + 3] == ["tokens/s, median", "5,000", "2,500"]
    place = found.texts.index("loss")
    assert found.texts[place : place + 3] == ["loss", "7.200", "6.000"]
    assert found.texts.count("Attempts, failures and recoveries") == 2


def test_two_runs_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = runs.finish(runs.write_run(tmp_path / "wagons", num_steps=5))
    assert {str(folder), str(other)} <= set(Page(report_page([folder, other])).texts)


def test_a_restart_is_in_the_table_of_attempts(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run", num_steps=20)
    lines = [runs.step_line(step, attempt=2, first_step=11) for step in range(11, 31)]
    runs.write_lines(run / "telemetry.jsonl", lines)
    found = Page(report_page([run]))
    # Attempt 1 ended 5 s after it began, attempt 2 began after 100 s: 95 s; it repeated steps 11 to 20.
    place = found.texts.index("time before it")
    assert found.texts[place + 1 : place + 11] == [
        "1",
        "node-a",
        "1-20",
        "-",
        "-",
        "2",
        "-",
        "11-30",
        "10",
        "95 s",
    ]


# -- folders that are not as they should be


def test_a_run_without_telemetry(tmp_path: Path) -> None:
    runs.write_strategy(tmp_path / "run")
    found = Page(report_page([tmp_path / "run"]))
    for text in (
        "not started: no attempt has claimed the run",
        "telemetry.jsonl is missing: no step was recorded",
        "No step was recorded.",
        "No load of single experts was recorded.",
        "timeline.json is missing: no step was traced",
        "No attempt was recorded.",
    ):
        assert text in found.texts, text


def test_a_run_without_a_plan(tmp_path: Path) -> None:
    run = runs.finish(runs.write_run(tmp_path / "run"))
    (run / "strategy.yaml").unlink()
    found = Page(report_page([run]))
    assert "strategy.yaml is missing: limits, stages and hosts are not known" in found.texts
    assert "Cross-entropy, nats per token, over steps" in found.texts


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"traceEvents": 3}',
        '{"traceEvents": []}',
        '{"traceEvents": [1, {"ph": "X"}, {"ph": "X", "name": "update", "cat": "pass", "ts": "x"}]}',
        '{"traceEvents": [{"ph": "X", "ts": 1, "dur": -1, "pid": 0, "tid": 0}], "otherData": 1}',
    ],
)
def test_a_damaged_trace_is_said_to_be_one(tmp_path: Path, content: str) -> None:
    run = runs.finish(runs.write_run(tmp_path / "run", num_steps=6))
    (run / "timeline.json").write_text(content)
    texts = Page(report_page([run])).texts
    assert any(text.startswith(("timeline.json ", "The trace has no passes")) for text in texts)


def test_gaps_torn_lines_and_jumps_are_said(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run", num_steps=10, num_ranks=3)
    odd = runs.step_line(11, loss=None, not_finite={"loss": "nan"}, time=runs.step_line(11)["time"] - 3600)
    runs.write_lines(run / "telemetry.jsonl", [odd])
    with (run / "telemetry.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    texts = Page(report_page([runs.finish(run)])).texts
    for beginning in (
        "the loss of step 11 is not finite",
        "rank 3 never wrote a step",
        "the last line of telemetry.jsonl is not complete",
        "the clock of rank 0's host jumped back by 3,600 s before step 11",
    ):
        assert any(text.startswith(beginning) for text in texts), beginning


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>&'\"" + HOSTILE
    run = runs.write_run(tmp_path / name.replace("/", ""), num_steps=6)
    problems = [{"found": f"</style><b>{HOSTILE}"}]
    (run / "failed.json").write_text(json.dumps({"attempt": 1, "code": 3, "problems": problems}))
    runs.write_lines(run / "journal.jsonl", [{"time": 1e300, "event": "<i>", "text": "</table>"}])
    text = report_page([run])
    assert Page(text).open == []
    assert not re.search(r"<(script|b|i)>", text)
    assert "\x1b" not in text
    assert "\u202e" not in text


# -- the command


def test_the_page_is_in_the_runs_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    path = folder / "report.html"
    assert capsys.readouterr().out.startswith(f"written: {path} (")
    assert path.read_text() == report_page([folder])


def test_json_names_the_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    assert main(["report", str(folder), "--output", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(path)
    assert path.is_file()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nothing"], "SW460"), ([], "SW482"), (["RUN", "--output", "/proc/nowhere/page.html"], "SW462")],
)
def test_what_cannot_work_is_one_problem(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: str
) -> None:
    assert main(["report", *(str(folder) if text == "RUN" else text for text in arguments)]) == 2
    assert capsys.readouterr().err.startswith(code)


def test_a_long_run_gives_a_page_of_bounded_size(tmp_path: Path) -> None:
    """6,000 steps, of which one loss is a spike: it is still in the picture."""
    run = tmp_path / "run"
    runs.write_strategy(run)
    lines = [runs.step_line(step, loss=100.0 if step == 3_456 else 5.0) for step in range(1, 6_001)]
    runs.write_lines(run / "telemetry.jsonl", lines)
    text = report_page([run])
    assert len(text) < 300_000
    loss = text[text.index("Cross-entropy, nats per token") :]
    heights = [float(pair.split(",")[1]) for pair in re.findall(r'points="([^"]*)"', loss)[0].split()]
    assert min(heights) == 14.0  # the top of the chart: the spike is its highest value
