"""pytest plugin that fails a run with skips whose reason is not listed in .ci/expected-skips.txt.

pytest -p tests.support.expected_skips
"""

import os
import re
from pathlib import Path

import pytest

REASONS = Path(__file__).parents[2] / ".ci" / "expected-skips.txt"
_skipped: list[tuple[str, str]] = []


def expected_reasons() -> list[str]:
    """The listed reasons, and one more in EXPECTED_SKIPS, for versions other than the pinned ones."""
    lines = [*REASONS.read_text(encoding="utf-8").splitlines(), os.environ.get("EXPECTED_SKIPS", "").strip()]
    return [line for line in lines if line and not line.startswith("#")]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append((report.nodeid, reason))


def _unexpected() -> list[tuple[str, str]]:
    patterns = expected_reasons()
    return [skip for skip in _skipped if not any(re.search(pattern, skip[1]) for pattern in patterns)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unexpected() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for nodeid, reason in _unexpected():
        terminalreporter.write_line(f"UNEXPECTED SKIP {nodeid}: {reason}", red=True)
