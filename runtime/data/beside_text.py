"""Answers beside the text that is trained: prompts under data.format text, without what follows them."""

from collections.abc import Iterator, Sequence
from typing import Any

from runtime.data.conversion import conversion_command
from runtime.data.corpus import Source
from runtime.data.naming import converted_name
from runtime.data.prompt_columns import CODE, PROMPTS, at
from runtime.data.shape_fix import NEEDS_TEMPLATE, sample_records

# Beside a text; a summary, a translation or a label beside it leaves a text that is complete.
ANSWERS = ("completion", "response", "canonical_solution", "solution", "output", "target", "reply", *CODE)
MIN_SHARE = 0.5  # of the records
MAX_FILES = 100  # looked into


def find_answers_beside(sources: Sequence[Source], field: str) -> Iterator[str]:
    """A warning for each kind of file whose texts have answers beside them that are not trained.

    Args:
        field: data.text_field.
    """
    if field not in ("text", *PROMPTS):
        return
    told = set()
    for source in sources[:MAX_FILES]:
        if source.form is None or source.form.kind == "text":
            continue
        key = _answer_beside(sample_records(source, source.form), field)
        if key is None or key in told:
            continue
        told.add(key)
        fix = "if these are prompts and answers, train both with data.format=prompt"
        converted = f'{{"prompt": {at(field)}, "completion": {at(key)}}}'
        command = conversion_command(source.file, source.form, converted)
        if command is not None and not source.keeps_settings:
            then = source.naming.then_write(command, converted_name(source.file), "data.format=prompt ")
            fix = f"if these are prompts and answers, train both: {then}{NEEDS_TEMPLATE}"
        yield f"SW750 {field!r} of {source.file} is trained without the answers under {key!r}; {fix}"


def _answer_beside(records: Sequence[dict[str, Any]], field: str) -> str | None:
    """The key under which most records have an answer that is not in their text."""
    for key in ANSWERS:
        if key != field and 0 < MIN_SHARE * len(records) <= sum(_has(each, field, key) for each in records):
            return key
    return None


def _has(record: dict[str, Any], field: str, key: str) -> bool:
    text, answer = record.get(field), record.get(key)
    if not isinstance(text, str) or not isinstance(answer, str):
        return False
    is_label = len(answer.split()) < 2  # as of a language
    return bool(text.strip()) and not is_label and answer.strip() not in text
