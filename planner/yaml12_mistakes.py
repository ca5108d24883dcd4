"""Mistakes of form that people make in YAML, by the line: a tab, `key = value`, `key:value`, `// text`."""

import re

_EXPECTED = "correct this line (indent with spaces, close quotes and brackets)"
_KEY = r"(?P<key>[A-Za-z_][\w.-]*)"


def fix_of_line(text: str, first: int, last: int) -> tuple[int, str]:
    """The line that is wrong and its fix.

    Args:
        first: the line, from 1, where what the parser was reading begins.
        last: the line where it stopped, which is behind the mistake where a colon is missing.
    """
    lines = text.splitlines()
    for number in dict.fromkeys((first, last)):
        line = lines[number - 1] if 0 < number <= len(lines) else ""
        found = _fix(line)
        if found is not None:
            return number, found
    comment = next((n for n, line in enumerate(lines[:last], 1) if re.match(r"\s*(//|;|--\s)", line)), None)
    return (last, _EXPECTED) if comment is None else (comment, "begin a comment with #")


def _fix(line: str) -> str | None:
    indent = re.match(r"[ \t]*", line)
    if indent is not None and "\t" in indent[0]:
        return "indent with spaces in place of tabs (expand -t 2 FILE prints the file so)"
    if re.search(r"[\u00a0\u2000-\u200b\u202f\u3000]", line):
        return "write ordinary spaces: this line has others, which look the same"
    if match := re.fullmatch(rf"\s*{_KEY}\s*=\s*(?P<value>[^=\s].*?)\s*", line):
        return f"write {match['key']}: {match['value']}"
    if match := re.fullmatch(rf"\s*{_KEY}:(?P<value>[^\s:/].*?)\s*", line):
        return f"write {match['key']}: {match['value']}, with a space behind the colon"
    return "begin a comment with #" if re.match(r"\s*(//|;|--\s)", line) else None
