"""The devices that a strategy may call by name; the numbers and their sources are in hardware.yaml."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.document import Document, Mapping

CPU = "cpu"


@lru_cache(maxsize=1)
def devices() -> dict[str, dict[str, Any]]:
    """name -> {memory, peak, source} as written in hardware.yaml, quantities as text with their units."""
    document = Document(
        (Path(__file__).parent / "hardware.yaml").read_text(encoding="utf-8"), "hardware.yaml"
    )
    assert document.root is not None
    assert isinstance(document.root.value, Mapping)
    assert not document.problems, document.problems
    return {name: entry.plain() for name, entry in document.root.value.entries.items()}
