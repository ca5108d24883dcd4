"""Conversations of a corpus: records of messages, or of a prompt and its completion, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from planner.problems import Problem
from planner.strategy.schema import TEXT_FIELD, Data
from runtime.data.chat_template import CannotRender, ChatTemplate, load_chat_template
from runtime.data.corpus import Source, data_problem
from runtime.data.documents import DocumentReader, TextChunk, TextReader, with_read_problems
from runtime.data.field_fix import other_field_fix
from runtime.data.form import Form, NotText, judge_form
from runtime.data.json_values import TRAILING_COMMA
from runtime.data.list_rows import lists_fix
from runtime.data.messages import (
    COMPLETION,
    MESSAGES,
    PROMPT,
    Conversation,
    NoConversation,
    extract_conversation,
)
from runtime.data.records import KeysMissing, MalformedRecord, Record, read_records
from runtime.data.shape_fix import holds_records, leave_out_fix, sample_records, shape_fix
from runtime.data.text_field import listed, longest_field
from runtime.data.threads import is_thread, thread_fix

NUM_SAMPLED = 100  # records of each file in which roles are looked for
THEN = ", then write "
CALLS = "calls tools, which the chat template does not write"


@dataclass(frozen=True, kw_only=True)
class ConversationReader:
    """Reads `data.format: chat` and `prompt`. `field`: the key of the messages, or of the prompt.

    A conversation is a document of one chunk; one without an answer is an empty document.
    """

    format: Literal["chat", "prompt"]
    field: str
    template: ChatTemplate
    has_answers: Literal[True] = True

    def read(self, source: Source) -> Iterator[TextChunk | Problem]:
        """The conversations of one file, in order; its records' mistakes give Problems at its end.

        Raises:
            NotText: if a file that a folder brought in has no records.
        """
        faults = _Faults(self, source)
        yield from with_read_problems(source, self._read(source, faults))
        yield from faults.problems()

    def _read(self, source: Source, faults: _Faults) -> Iterator[TextChunk | Problem]:
        form = source.form or judge_form(source.file, self.field, source.naming)
        if not source.is_named and not self._may_have_records(source, form):
            raise NotText(f"no records with {self._keys}")
        if form.kind == "text":
            yield faults.problem("absent", 1, f"text, not records with {self._keys}", 1)
            return
        try:
            for record in read_records(source, form):
                rendered = self._render_record(record, faults)
                if rendered is not None:
                    faults.num_conversations += 1
                    yield rendered
        except KeysMissing as error:
            yield faults.problem("absent", 1, f"no {self._keys}; columns: {listed(error.names)}", 1)

    def _may_have_records(self, source: Source, form: Form) -> bool:
        """Whether a file that a folder brought in is more than text or a file of settings."""
        if form.kind == "text" or not form.is_single:
            return form.kind != "text"
        keys = {self.field} if self.format == "chat" else {PROMPT, COMPLETION}
        has_keys = any(keys <= record.keys() for record in sample_records(source, form))
        return has_keys or holds_records(source, form, self.field)

    def _render_record(self, record: Record | MalformedRecord, faults: _Faults) -> TextChunk | None:
        """The conversation; None, and a fault is added, if there is none."""
        if isinstance(record, MalformedRecord):
            faults.add("malformed", record.place, record.why)
            faults.rows += [record.fields] if record.fields else []
            return None
        try:
            return self._render(record.value)
        except NoConversation as error:
            is_absent = error.absent_in is not None
            faults.add("absent" if is_absent else str(error), record.place, str(error))
        except CannotRender as error:
            faults.add(f"template {error}", record.place, str(error))
        return None

    @property
    def _keys(self) -> str:
        return f"{self.field!r}" if self.format == "chat" else f"{PROMPT!r} and {COMPLETION!r}"

    def _render(self, value: dict[str, Any] | str) -> TextChunk:
        conversation = extract_conversation(value, self.format, self.field)
        if not conversation.messages:
            return TextChunk("", True, is_rejected=conversation.is_rejected)
        self._check_tools(conversation)
        rendered = self.template.render(
            conversation.messages, conversation.first_answer, conversation.tools, conversation.left_out
        )
        # Half of a surrogate pair cannot be encoded; JSON can write it.
        text = rendered.text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        if text != rendered.text:
            raise NoConversation("half of a UTF-16 surrogate pair in a message")
        answers = [span for span in rendered.spans if span[1] > span[0]]
        return TextChunk(text if answers else "", True, 0, tuple(answers))

    def _check_tools(self, conversation: Conversation) -> None:
        """A template that does not know calls would leave them out, or write None in their place."""
        calls = [i for i, each in enumerate(conversation.messages, start=1) if each.get("tool_calls")]
        if calls and "tool_calls" not in self.template.source:
            raise NoConversation(f"message {calls[0]} {CALLS}")


def make_reader(data: Data) -> DocumentReader:
    """The reader of `data.format`.

    Raises:
        TokenizerUnusable: if a chat template is needed and there is none.
    """
    if data.format == "text":
        return TextReader(field=data.text_field)
    assert data.tokenizer is not None, "a rule asks for one"
    template = load_chat_template(Path(data.tokenizer))
    if data.format == "prompt":
        return ConversationReader(format="prompt", field=PROMPT, template=template)
    field = MESSAGES if data.text_field == TEXT_FIELD else data.text_field
    return ConversationReader(format="chat", field=field, template=template)


class _Faults:
    """The mistakes in one file's records: one Problem for each kind, however many records have it."""

    def __init__(self, reader: ConversationReader, source: Source) -> None:
        self.reader, self.source = reader, source
        self.num_conversations = 0
        self.first: dict[str, tuple[int, str]] = {}
        self.counts: Counter[str] = Counter()
        self.rows: list[tuple[Any, ...]] = []  # lists in place of objects

    def add(self, kind: str, place: int, found: str) -> None:
        self.first.setdefault(kind, (place, found))
        self.counts[kind] += 1

    def problems(self) -> list[Problem]:
        """In the order of their first places."""
        total = self.num_conversations + self.counts.total()
        return [
            self.problem(
                kind,
                place,
                found + (f" ({self.counts[kind]:,} of {total:,} records)" if self.counts[kind] > 1 else ""),
                total,
            )
            for kind, (place, found) in self.first.items()
        ]

    def problem(self, kind: str, place: int, found: str, total: int) -> Problem:
        reader, file = self.reader, self.source.file
        if kind.startswith("template"):
            expected = "a conversation that the tokenizer's chat template renders, and whose answers it shows"
            if self.counts[kind] == total:
                fix = (
                    "correct the chat template beside the tokenizer, with which every record fails, "
                    "or choose another tokenizer"
                )
                return data_problem("SW742", found, expected, fix, file, place, path="data.tokenizer")
            fix = (
                "correct or remove the record, or mark the answers in the template with "
                "{% generation %} … {% endgeneration %}"
            )
            return data_problem("SW742", found, expected, fix, file, place, path=self.source.key)
        if reader.format == "chat":
            expected = f"a list of messages under {reader.field!r}, each with its role and content"
        else:
            expected = f"a text or messages under {reader._keys}"
        fix = "correct or remove the record"
        if kind == "absent" and self.counts[kind] in (0, total):
            fix = self._other_form() or self._as_text()
        elif kind == "malformed" and self.counts[kind] == total and (lists := self._of_lists()) is not None:
            fix = lists
        elif kind.endswith(CALLS):
            fix = "choose a tokenizer whose chat template writes tool_calls, or remove the records with calls"
        elif TRAILING_COMMA in found:
            fix = "remove that comma"
        elif self.counts[kind] == total and THEN in (other := self._other_form() or ""):
            fix = other
        elif self.counts[kind] == total > 1:
            fix = f"every record has it: {self._as_text()}"
        return data_problem("SW724", found, expected, fix, file, place, path="data.format")

    def _other_form(self) -> str | None:
        """The overrides or the command for which the first record's keys speak."""
        form = self.source.form
        if form is None or form.kind == "text":
            return None
        records = sample_records(self.source, form)
        if records and all(map(is_thread, records)):
            return thread_fix(self.source, form, self.reader.field, self.reader.format)
        return shape_fix(self.source, form, records, self.reader.field, self.reader.format)

    def _of_lists(self) -> str | None:
        form, reader = self.source.form, self.reader
        if form is None:
            return None
        return lists_fix(self.source, form, self.rows, reader.field, reader.format)

    def _as_text(self) -> str:
        """The overrides that read the file as text: no record looks like a conversation."""
        form = self.source.form
        if self.source.keeps_settings:
            return leave_out_fix(self.source, self.reader.format)
        if form is None or form.kind == "text":
            return f"write data.format=text data.text_field={TEXT_FIELD}, or leave the file out of data.path"
        records = sample_records(self.source, form)
        if any(isinstance(record.get(TEXT_FIELD), str) for record in records):
            field: str | None = TEXT_FIELD
        else:
            field = longest_field(records, TEXT_FIELD)
        if not field:
            return "leave the file out of data.path: its records have no conversations and no text"
        is_whole = not self.counts["malformed"]
        return other_field_fix(
            self.source, form, records, field, TEXT_FIELD, "data.format=text ", is_whole=is_whole
        )


def find_roles(sources: Sequence[Source], reader: ConversationReader) -> list[str]:
    """The roles of the first conversations, the most frequent ones first."""
    roles: Counter[str] = Counter()
    for source in sources:
        form = source.form or judge_form(source.file, reader.field, source.naming)
        for record in islice(read_records(source, form), NUM_SAMPLED):
            if isinstance(record, MalformedRecord):
                continue
            with suppress(NoConversation):
                conversation = extract_conversation(record.value, reader.format, reader.field)
                roles.update(message["role"] for message in conversation.messages)
    return [role for role, _ in roles.most_common()]
