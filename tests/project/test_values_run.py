"""docs/values-run.md names every key and value of a strategy, and only tests that exist."""

import re

import pytest

from planner.errors.catalog import error_catalog
from tests.support.values_run import PAGE, ROOT, names_of_schema, page, rows


def test_every_key_and_value_of_the_schema_has_a_row() -> None:
    names = names_of_schema()
    assert {"model.dispatch=capacity", "parallel.ep", "runtime.all_to_all=hierarchical"} <= set(names)
    assert set(rows()) == set(names)
    assert len(rows()) == len(names) > 150


def test_the_page_is_what_the_source_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.support.values_run"


@pytest.mark.parametrize("by", sorted(set(rows().values())))
def test_what_is_named_exists(by: str) -> None:
    if by == "none":
        return
    if by.startswith("refused:"):
        code = by.removeprefix("refused:")
        assert code in error_catalog()
        refusing = (ROOT / "planner/rules/not_implemented.py").read_text(encoding="utf-8")
        assert f'"{code}"' in refusing, f"{code} is refused no more"
        return
    file, _, test = by.removeprefix("plan:").partition("::")
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {test}\(", text, re.MULTILINE), by
