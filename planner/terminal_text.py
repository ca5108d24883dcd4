"""Text for a terminal: control characters in it are escaped, as Python writes them in a string.

A name, a path or another program's output may come from anybody: ESC moves the cursor and rewrites what
was printed before, and bidirectional controls show a text in another order than it is in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# C0 but tab and line feed, DEL, C1 (of which U+009B is CSI); the bidirectional controls of UAX #9; separators
# that some terminals take for a line's end.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escape_controls(text: str) -> str:
    r"""The text with `\x1b` in the place of ESC, and `\u202e` in the place of a right-to-left override."""
    return _CONTROLS.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def make_console(**options: object) -> Console:
    """rich's console, whose colours reach the terminal while what it is given is escaped."""
    # rich takes 50 ms to import, which a log or a pipe need not pay.
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class EscapingConsole(Console):
        """Escapes each text once it is laid out; rich's own controls are segments of their own."""

        @property
        def file(self) -> IO[str]:
            """Where it writes: not through the stream that escapes, nor while a live display redirects it."""
            # Of a stdout that it redirects, rich 15.0 takes the stream behind it (console.py:760): once more.
            found = super().file
            as_is: IO[str] = getattr(found, "rich_proxied_file", found)
            return as_is

        @file.setter
        def file(self, new_file: IO[str]) -> None:
            self._file = new_file

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(escape_controls(text), style)

    return EscapingConsole(**options)  # type: ignore[arg-type]
