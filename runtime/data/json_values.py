"""JSON values of a text that need not fit in memory: an array's elements, or values one after another."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

BLANK = re.compile(r"[ \t\n\r]*")
# Between values one after another: a comma, the separator of RFC 7464, a byte order mark.
BETWEEN = ",\x1e\ufeff"
# An error this close to the end of what was read so far may only mean that the rest is missing.
NEAR_END = 16
LINE_DECODER = json.JSONDecoder(strict=False)
LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")  # what the end may cut
TRAILING_COMMA = "a comma after the last element"


def json_line(line: str) -> str:
    """The JSON text of a line without what is around it: a comma after an object, the separator of RFC 7464,
    a byte order mark. Empty for a bracket that only encloses all lines."""
    text = line.strip(" \t\r\n\x1e\ufeff")
    if text in ("[", "]"):
        return ""
    return text.removesuffix(",") if text.startswith("{") else text


def parse_json_line(text: str) -> Any:
    """The value of a line's JSON text; a tab in a string need not be escaped.

    Raises:
        ValueError, RecursionError: if it is not JSON.
    """
    return LINE_DECODER.decode(text)


class JsonValue(NamedTuple):
    """A value and the line where it begins, from 1."""

    line: int
    value: Any


class JsonDamaged(ValueError):
    """The text is not JSON, or it ends too early; `line` is where."""

    def __init__(self, line: int, why: str) -> None:
        self.line = line
        super().__init__(why)


def read_json_values(parts: Iterable[str]) -> Iterator[JsonValue]:
    """The elements if the text is one array; otherwise each of the values that it consists of.

    Values one after another may have a comma or the separator of RFC 7464 between them.

    Raises:
        JsonDamaged: where the text stops being JSON; the values before it were yielded.
    """
    text = _Text(parts)
    if text.peek() != "[":
        while text.peek():
            if text.peek() in BETWEEN:
                text.skip()
                continue
            yield text.take_value()
        return
    text.skip()
    if text.peek() == "]":
        text.skip()
    else:
        while True:
            yield text.take_value()
            separator = text.peek()
            if separator not in (",", "]"):
                raise JsonDamaged(text.line, _what_follows(separator, "the next element or the array's end"))
            line = text.line
            text.skip()
            if separator == "]":
                break
            if text.peek() == "]":
                raise JsonDamaged(line, TRAILING_COMMA)
    if text.peek():
        raise JsonDamaged(text.line, "more text after the array's end")


class _Text:
    """What was read and not yet consumed, with the number of the current line."""

    def __init__(self, parts: Iterable[str]) -> None:
        self.parts = iter(parts)
        self.rest = ""
        self.position = 0
        self.line = 1
        self.is_complete = False
        self.decoder = json.JSONDecoder()

    def read_more(self) -> None:
        """Reads at least as much again as is pending, so that a long value costs linear time."""
        pending = [self.rest[self.position :]]
        wanted = max(1, len(pending[0]))
        while wanted > 0 and not self.is_complete:
            part = next(self.parts, None)
            self.is_complete = part is None
            pending.append(part or "")
            wanted -= len(pending[-1])
        self.rest, self.position = "".join(pending), 0

    def move_to(self, position: int) -> None:
        self.line += self.rest.count("\n", self.position, position)
        self.position = position

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            blank = BLANK.match(self.rest, self.position)
            assert blank is not None
            self.move_to(blank.end())
            if self.position < len(self.rest) or self.is_complete:
                return self.rest[self.position : self.position + 1]
            self.read_more()

    def skip(self) -> None:
        self.move_to(self.position + 1)

    def take_value(self) -> JsonValue:
        self.peek()
        line = self.line
        while True:
            try:
                value, end = self.decoder.raw_decode(self.rest, self.position)
            except RecursionError:
                raise JsonDamaged(line, "nested too deeply") from None
            except json.JSONDecodeError as error:
                may_continue = error.msg.startswith("Unterminated") or error.pos > len(self.rest) - NEAR_END
                if may_continue and not self.is_complete:
                    self.read_more()
                    continue
                if may_continue and self._ends_at(error):
                    raise JsonDamaged(line, "the file ends inside this value") from None
                raise JsonDamaged(line, error.msg) from None
            except ValueError as error:  # a number of thousands of digits
                raise JsonDamaged(line, str(error)) from None
            # A number near the end of what was read may have more digits.
            if end > len(self.rest) - NEAR_END and not self.is_complete:
                self.read_more()
                continue
            self.move_to(end)
            return JsonValue(line, value)

    def _ends_at(self, error: json.JSONDecodeError) -> bool:
        """Whether the text ended where the decoder wanted more: not before another character."""
        tail = self.rest[error.pos :].strip()
        if error.msg.startswith(("Unterminated", "Invalid \\u")):  # of a string
            return '"' not in tail[1:]
        return any(word.startswith(tail) for word in LITERALS)


def _what_follows(found: str, expected: str) -> str:
    return f"{found!r} in place of {expected}" if found else f"the file ends before {expected}"
