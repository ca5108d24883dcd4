"""Unknown keys that hold an anchor, `base: &b {…}`: without the key a *b would have nothing to refer to."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from planner.problems import Problem


def keep_anchors(problems: Iterable[Problem], text: str) -> Iterator[Problem]:
    """The problems, with a fix that keeps what aliases refer to."""
    lines = text.splitlines()
    for problem in problems:
        line = lines[problem.line - 1] if problem.line and problem.line <= len(lines) else ""
        held = re.match(r"\s*['\"]?([^\s:'\"]+)['\"]?\s*:\s*&([^\s,\[\]{}]+)", line)
        is_used = held is not None and re.search(rf"\*{re.escape(held[2])}(?![\w-])", text) is not None
        if problem.code == "SW111" and problem.override is None and held is not None and is_used:
            fix = f"write &{held[2]} and its value at the first *{held[2]}, and leave {held[1]} out then"
            problem = replace(problem, fix=fix)
        yield problem
