"""The errors page (docs/errors.md) and the text of `python -m launch explain`, from the error catalog."""

from collections.abc import Iterator

from planner.errors.catalog import GROUPS, ErrorEntry, error_catalog

_INTRODUCTION = """\
# Errors

<!-- Made by `python -m planner.generated` from planner/errors/*.yaml: change those, not this file. -->

Every problem and every warning has a stable code. `python -m launch explain SW201` prints the same.
"""


def explain_text(entry: ErrorEntry) -> str:
    """Cause, example and fix of one code, as plain text."""
    example = "\n".join(f"  {line}" for line in entry.example.splitlines())
    return f"{entry.code}: {entry.title}\n\n{entry.cause}\n\nExample:\n{example}\n\nFix: {entry.fix}"


def errors_page() -> str:
    """The bytes of docs/errors.md."""
    return "\n".join([_INTRODUCTION, *_groups()])


def _groups() -> Iterator[str]:
    catalog = error_catalog()
    for digit, (_, heading) in GROUPS.items():
        entries = [entry for entry in catalog.values() if entry.code[2] == digit]
        if entries:
            yield f"## SW{digit}xx: {heading}\n"
            yield from map(_entry, entries)


def _entry(entry: ErrorEntry) -> str:
    return (
        f"### {entry.code}: {entry.title}\n\n{entry.cause}\n\n```\n{entry.example}\n```\n\nFix: {entry.fix}\n"
    )
