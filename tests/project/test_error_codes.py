"""Every Problem and every warning has a code, every code an entry, and the errors page is made from them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.errors.catalog import CODE, error_catalog
from planner.report.errors_page import errors_page, explain_text

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    [path for place in ("planner", "launch", "runtime") for path in (ROOT / place).rglob("*.py")]
    + [ROOT / "train.py"]
)
# The words that the word list in docs/contributing.md rules out.
CLUMSY = re.compile(
    r"\b(is no multiple|is told|goes on|anew|lest|no worth|spoken of|passed over|without a word)\b",
    re.IGNORECASE,
)


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", getattr(node.func, "attr", None)) == name
            ):
                yield path, node


def codes_in_sources() -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in [*SOURCES, *(ROOT / "launch").rglob("*.in")])
    return {code for text in texts for code in re.findall(r"\bSW[1-9]\d\d\b", text)}


def test_every_problem_has_a_code() -> None:
    without = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path, call in calls("Problem")
        if not any(keyword.arg in ("code", None) for keyword in call.keywords)
    ]
    assert not without


def test_every_warning_has_a_code() -> None:
    """The text of a warning begins with its code."""
    without = []
    for path, call in calls("warning"):
        first = call.args[0] if call.args else None
        text = ast.unparse(first) if first is not None else ""
        if not re.match(r"f?[\"\'](\[)?SW[1-9]\d\d", text):
            without.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not without


def test_every_code_has_an_entry_and_every_entry_a_use() -> None:
    assert codes_in_sources() == set(error_catalog())


@pytest.mark.parametrize("code", error_catalog())
def test_an_entry_is_complete_and_its_example_shows_the_code(code: str) -> None:
    entry = error_catalog()[code]
    assert CODE.fullmatch(code)
    assert all(entry.as_dict().values())
    assert code in entry.example
    assert "\n" not in entry.title
    assert not CLUMSY.search(explain_text(entry))


def test_the_errors_page_is_generated() -> None:
    assert (ROOT / "docs/errors.md").read_text(encoding="utf-8") == errors_page()
