"""Records that are lists of objects: a conversation on each line, or several records on each."""

from collections.abc import Sequence
from typing import Any

from runtime.data.corpus import Source
from runtime.data.dialogs import speech
from runtime.data.form import Form
from runtime.data.nesting import Nested
from runtime.data.prompt_columns import Answers, are_messages
from runtime.data.shape_fix import answers_fix, nested_fix


def lists_fix(
    source: Source, form: Form, rows: Sequence[Sequence[Any]], name: str, format: str = "text"
) -> str | None:
    """The fix for records that are lists of objects; None for other lists.

    Args:
        name: the field that should hold the text, or the messages.
        format: data.format as it is written.
    """
    if not rows or not all(row and all(isinstance(each, dict) for each in row) for row in rows):
        return None
    longest: Sequence[Any] = max(rows, key=len)
    first = list(longest)
    doing = "make a conversation of each list"
    if are_messages(first):
        answers = Answers("data.format=chat ", '{"messages": r}', doing)
        return answers_fix(source, form, answers, name, format)
    turns = speech("", first, "r")
    if turns is not None:
        answers = Answers("data.format=chat ", f'{{"messages": {turns}}}', doing)
        return answers_fix(source, form, answers, name, format)
    return nested_fix(source, form, Nested(where="[]", loops=("for r in r",), first=first[0]), name, format)
