"""Conversations without an answer: their number, and the fix that renames roles or leaves them out."""

from __future__ import annotations

import json
from typing import Any

from planner.problems import Problem, StrategyError
from planner.units import shorten
from runtime.data.conversations import ConversationReader, find_roles
from runtime.data.conversion import conversion_command
from runtime.data.corpus import MAX_PROBLEMS, Source, data_problem
from runtime.data.dialogs import speech
from runtime.data.documents import DocumentReader
from runtime.data.messages import COMPLETION, MESSAGES
from runtime.data.prompt_columns import are_messages, at
from runtime.data.shape_fix import converted_fix, sample_records
from runtime.data.shards import join_shards
from runtime.data.survey import Survey

ANSWERERS = ("assistant", "gpt")
NUM_ROLES = 6
MAX_LOOKED_AT = 1000  # files whose roles are looked at


def check_answers(survey: Survey, reader: DocumentReader) -> list[str]:
    """Warnings if some conversations have no answer, or one that their records call bad.

    Raises:
        StrategyError: if more than half have none.
    """
    warnings = _without_rejected(survey)
    if not survey.num_empty:
        return warnings
    total = survey.num_empty + survey.num_documents
    found = f"conversations without an answer ({survey.num_empty:,} of {total:,})"
    if survey.num_empty > survey.num_documents:
        expected = "a message of the role assistant, or a completion, in more than half of the conversations"
        assert isinstance(reader, ConversationReader), "only these have answers"
        roles = find_roles(survey.sources, reader)
        found += f"; roles: {', '.join(shorten(role, 40) for role in roles[:NUM_ROLES]) or 'none'}"
        raise StrategyError(
            _problems_without_answers(survey, reader, found, expected, has_role="assistant" in roles)
        )
    return [f"SW725 {found} were left out", *warnings]


def _problems_without_answers(
    survey: Survey, reader: ConversationReader, found: str, expected: str, *, has_role: bool
) -> list[Problem]:
    """One for the files of a folder that the same command mends; one for all without such."""
    faults = []
    for source in survey.sources[:MAX_LOOKED_AT]:
        fix = answer_fix(source, reader.format, reader.field)
        if fix is not None:
            faults.append(
                (source, data_problem("SW726", found, expected, fix, source.file, path="data.format"))
            )
    if faults:
        return join_shards(faults)[:MAX_PROBLEMS]
    if has_role:
        fix = "fill in the answers, which have no text or weight 0, or leave these files out of data.path"
    else:
        fix = "name the role of the answers assistant in the data, or leave these files out of data.path"
    return [data_problem("SW726", found, expected, fix, path="data.format")]


def _without_rejected(survey: Survey) -> list[str]:
    """A warning if answers were left out because their records call them bad."""
    if not survey.num_rejected:
        return []
    total = survey.num_rejected + survey.num_empty + survey.num_documents
    return [
        f"SW748 answers that are marked as bad were left out ({survey.num_rejected:,} of {total:,}): label "
        "or kto_tag is false, or winner names the other answer"
    ]


def answer_fix(source: Source, format: str, field: str) -> str | None:
    """The command that gives a file's conversations answers, or leaves out those without; None for no way.

    Args:
        format: chat or prompt.
        field: the key of the messages, or of the prompt.
    """
    form = source.form
    if form is None or form.kind == "text":
        return None
    records = sample_records(source, form)
    overrides = f"data.format={format} "
    if format == "prompt":
        converted, loops, doing = (
            "r",
            [f"if r.get({json.dumps(COMPLETION)})"],
            "leave out those without an answer",
        )
        if not any(record.get(COMPLETION) for record in records):
            return None
    else:
        found = _renamed(records, field) or _left_out(records, field)
        if found is None:
            return None
        converted, loops, doing = found
        if not loops:
            field = MESSAGES
    command = conversion_command(source.file, form, converted, loops)
    if command is None:
        return None
    if field not in (MESSAGES, "prompt"):
        overrides = f"data.text_field={field} {overrides}"
    return converted_fix(source, command, doing, overrides, "", format)


def _renamed(records: list[dict[str, Any]], field: str) -> tuple[str, list[str], str] | None:
    """Where nobody is the assistant: who is, by the names of the roles, or who does not speak first."""
    talks = [record[field] for record in records if isinstance(record.get(field), list)]
    if any(_role(message) in ANSWERERS for talk in talks for message in talk):
        return None
    for talk in talks:
        messages = speech(MESSAGES, talk, at(field))
        if messages is not None:
            return f'dict(r, **{{"{MESSAGES}": {messages}}})', [], "rename their roles"
    return None


def _left_out(records: list[dict[str, Any]], field: str) -> tuple[str, list[str], str] | None:
    talks = [record[field] for record in records if are_messages(record.get(field))]
    if not any(_has_answer(talk) for talk in talks if isinstance(talk, list)):
        return None
    answer = 'm.get("role", m.get("from")) in ("assistant", "gpt") and (m.get("content") or m.get("value"))'
    loop = f'if any({answer} and m.get("weight", 1) for m in {at(field)} or [])'
    return "r", [loop], "leave out those without an answer"


def _has_answer(talk: list[dict[str, Any]]) -> bool:
    return any(
        _role(message) in ANSWERERS
        and message.get("content", message.get("value"))
        and message.get("weight", 1)
        for message in talk
    )


def _role(message: Any) -> object:
    return message.get("role", message.get("from")) if isinstance(message, dict) else None
