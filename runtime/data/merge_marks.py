"""Marks of a merge that was not finished: both sides would be trained, and the marks with them."""

import re

from runtime.data.compression import Compression, piped
from runtime.data.naming import Naming, shell_path

# All three marks, as git writes them, at the beginning of their lines.
MARKS = re.compile(
    r"^<{7} \S[^\n]*\n(?:(?![<=>]{7})[^\n]*\n)*?(?:^\|{7}[^\n]*\n(?:(?![<=>]{7})[^\n]*\n)*?)?"
    r"^={7}\r?\n(?:(?![<=>]{7})[^\n]*\n)*?^>{7} \S",
    re.MULTILINE,
)
FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
# Keeps what is above the line of =, and of git's diff3 style not the common ancestor.
KEEP_UPPER = (
    r"awk '/^<<<<<<< /{c=1; next} c && /^>>>>>>> /{c=0; next} "
    r"c==1 && (/^[|][|][|][|][|][|][|]/ || /^=======\r?$/){c=2} c!=2'"
)


def find_marks(head: str) -> int | None:
    """The line of the first mark of an unfinished merge; None without one. A Markdown page may show them."""
    for found in MARKS.finditer(head):
        if len(FENCE.findall(head, 0, found.start())) % 2 == 0:
            return head.count("\n", 0, found.start()) + 1
    return None


def resolution(compression: Compression | None, naming: Naming) -> str:
    """The fix: the command that keeps one side, and the override that names the result."""
    file = naming.file
    new = file.with_name(f"{file.stem}.resolved{file.suffix if compression is None else ''}")
    command = f"{piped(file, compression, KEEP_UPPER)} > {shell_path(new)}"
    return f"resolve the merge, or keep the upper side: {naming.then_write(command, new)}"
