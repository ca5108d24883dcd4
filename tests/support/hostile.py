"""A text that a terminal would obey, and the streams of a program that prints it."""

import io
import sys
from pathlib import Path

import pytest

from planner.standard_streams import _Stream

# Clears the screen, sets the title, rings; CSI as one character; shows text in another order; goes back.
HOSTILE = "a\x1b[2J\x1b]0;t\x07b\x9b1Ac\u202ed\u2066e\rf\x08g\x7f"
ESCAPED = "a\\x1b[2J\\x1b]0;t\\x07b\\x9b1Ac\\u202ed\\u2066e\\x0df\\x08g\\x7f"
CONTROLS = frozenset(character for character in HOSTILE if not character.isprintable())


class Streams:
    """stdout and stderr of a program, in one file."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self._monkeypatch = path, monkeypatch

    def open(self) -> None:
        """In the test: pytest sets streams of its own between a fixture and its test."""
        for name in ("stdout", "stderr"):
            raw = io.FileIO(str(self.path), "ab")
            self._monkeypatch.setattr(sys, name, _Stream(io.BufferedWriter(raw), encoding="utf-8"))

    def printed(self) -> str:
        sys.stdout.flush()
        sys.stderr.flush()
        return self.path.read_bytes().decode()  # not read_text, which reads \r as a line's end

    def assert_escaped(self) -> None:
        """The text was printed, and nothing in it is obeyed."""
        printed = self.printed()
        assert ESCAPED in printed.replace("\n", ""), printed
        self.assert_nothing_obeyed()

    def assert_nothing_obeyed(self) -> None:
        printed = self.printed()
        assert not CONTROLS & set(printed), printed
