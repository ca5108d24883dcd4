"""The page in a real browser, headless Chromium: what is drawn, in light, in the dark and on paper."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launch.run_report.page import report_page
from tests.support import recorded_runs as runs

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def chromium(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        # Whatever a page asked for would fail: nothing but files.
        "--proxy-server=127.0.0.1:9",
        f"--user-data-dir={folder / 'profile'}",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = runs.write_run(tmp_path_factory.mktemp("runs") / "wagons")
    (run / "timeline.json").write_text(json.dumps(runs.trace()))
    (run / "report.html").write_text(report_page([runs.finish(run)]))
    return run / "report.html"


def pixels(picture: Path) -> Any:
    from matplotlib.image import imread  # not in the light environment, which collects this file too

    return imread(picture)[:, :, :3]


def brightness(picture: Path) -> float:
    """Of the page's corner, 0 to 1."""
    return float(pixels(picture)[:20, :20].mean())


def test_a_browser_reads_it_without_a_complaint(page: Path) -> None:
    done = chromium(page.parent, "--enable-logging=stderr", "--dump-dom", page.as_uri())
    assert done.stdout.count("<svg") == report_page([page.parent]).count("<svg")
    assert "Timeline of step 3" in done.stdout
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []


@pytest.mark.parametrize(("options", "is_dark"), [((), False), (("--force-dark-mode",), True)])
def test_it_is_light_or_dark_as_the_reader_has_it(
    page: Path, tmp_path: Path, options: tuple[str, ...], is_dark: bool
) -> None:
    picture = tmp_path / "page.png"
    chromium(page.parent, *options, f"--screenshot={picture}", "--window-size=1040,3000", page.as_uri())
    assert (brightness(picture) < 0.3) is is_dark
    assert pixels(picture).std() > 0.02  # something is drawn


def test_it_prints_on_white_paper(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    chromium(
        page.parent, "--force-dark-mode", f"--print-to-pdf={paper}", "--no-pdf-header-footer", page.as_uri()
    )
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 2
