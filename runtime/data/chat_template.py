"""Chat templates: a conversation as text, which parts of it are answers, and its tokens.

Rendering is transformers' (Jinja in a sandbox). A template that marks answers with {% generation %} is
believed. Of any other the beginnings of the conversation are rendered: an answer is what follows the messages
before it and the generation prompt, to the end of its own message. Where that is not the beginning of the
complete conversation, or there is no generation prompt, an answer is its content and what closes a message.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runtime.data.tokenizer import TextCoder, TokenizerUnusable

TEMPLATE_NAME = "chat_template.jinja"
CONFIG_NAMES = ("tokenizer_config.json", "special_tokens_map.json")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

# A text that no message has: characters of private use.
PROBE = "\ue000answer\ue001"

Message = dict[str, Any]
Span = tuple[int, int]


class CannotRender(Exception):
    """The template refuses the conversation, or does not show where its answers are; says why."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as text. spans: its answers, characters from start to stop, in order."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A tokenizer's template, with the special tokens that it may name."""

    source: str
    special_tokens: Mapping[str, str]

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides how a conversation is rendered."""
        content = json.dumps([self.source, dict(self.special_tokens)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def marks_answers(self) -> bool:
        return GENERATION.search(self.source) is not None

    def find_syntax_error(self) -> str | None:
        """What is wrong in the template's text, and its line; None if it can be compiled."""
        from jinja2 import TemplateSyntaxError

        try:
            self._render([{"role": "user", "content": PROBE}], None)
        except CannotRender as error:
            cause = error.__cause__
            if isinstance(cause, TemplateSyntaxError):
                return f"{cause.message} in line {cause.lineno}"
        return None

    def render(
        self,
        messages: Sequence[Message],
        first_answer: int = 0,
        tools: list[Any] | None = None,
        left_out: frozenset[int] = frozenset(),
    ) -> Rendered:
        """The conversation, with its answers: the assistant's messages from number `first_answer` on.

        Args:
            left_out: numbers of messages that are no answers although they are the assistant's.

        Raises:
            CannotRender: if the template refuses it, or does not show where an answer begins.
        """
        text, marked = self._render(messages, tools)
        numbers = [i for i, m in enumerate(messages) if m.get("role") == "assistant"]
        if not self.marks_answers:
            answers = [i for i in numbers if i >= first_answer and i not in left_out]
            return Rendered(text=text, spans=tuple(self._span(text, messages, i, tools) for i in answers))
        if left_out:
            if len(numbers) != len(marked):
                raise CannotRender("the template does not mark each message of the assistant on its own")
            marked = tuple(span for i, span in zip(numbers, marked, strict=True) if i not in left_out)
        first = 0
        if first_answer:
            prompt, _ = self._render(messages[:first_answer], tools)
            if not text.startswith(prompt):
                raise CannotRender("the prompt alone is not the beginning of the conversation")
            first = len(prompt)
        return Rendered(text=text, spans=tuple(span for span in marked if span[0] >= first))

    def _span(self, text: str, messages: Sequence[Message], number: int, tools: list[Any] | None) -> Span:
        """Where message `number` is in the conversation's text.

        Raises:
            CannotRender: if its content is not there as it was written.
        """
        until, _ = self._render(messages[: number + 1], tools)
        if text.startswith(until):
            before, prompt = "", ""
            if number:
                before, _ = self._render(messages[:number], tools)
                prompt, _ = self._render(messages[:number], tools, add_generation_prompt=True)
            if len(prompt) > len(before) and until.startswith(prompt):
                return len(prompt), len(until)
        # No generation prompt, or a message that looks otherwise when others follow (thoughts that are left
        # out of older turns). Another content in its place shows where it begins and ends.
        probed = [*messages[:number], {**messages[number], "content": PROBE}]
        closing = self._render(probed, tools)[0].rpartition(PROBE)[2]
        start, after = self._place_of_probe(text, [*probed, *messages[number + 1 :]], number, tools)
        return start, len(text) - len(after) + self._common_length(closing, after)

    def _common_length(self, closing: str, after: str) -> int:
        """How many characters both begin with, without a part of a special token.

        What ends a conversation (<|endoftext|>) and what begins the next message (<|user|>) may begin alike.
        """
        length = len(commonprefix([closing, after]))  # noqa: RUF071  # characters, not path components
        for token in filter(None, self.special_tokens.values()):
            for text in (closing, after):
                cut = text.find(token, max(0, length - len(token) + 1), length + len(token) - 1)
                length = length if cut < 0 else cut
        return length

    def _place_of_probe(
        self, text: str, probed: Sequence[Message], number: int, tools: list[Any] | None
    ) -> tuple[int, str]:
        """Where the content of message `number` begins, and what follows it."""
        before, found, after = self._render(probed, tools)[0].partition(PROBE)
        if not found or not text.startswith(before) or not text.endswith(after):
            raise CannotRender(f"no sign of where message {number + 1} begins and ends")
        return len(before), after

    def _render(
        self, messages: Sequence[Message], tools: list[Any] | None, *, add_generation_prompt: bool = False
    ) -> tuple[str, tuple[Span, ...]]:
        from transformers.utils.chat_template_utils import render_jinja_template  # takes seconds to import

        render: Any = render_jinja_template  # it returns a pair; its annotation says a string
        try:
            texts, spans = render(
                [list(messages)],
                tools=tools,
                chat_template=self.source,
                return_assistant_tokens_mask=self.marks_answers and not add_generation_prompt,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except Exception as error:  # of Jinja, of the template's own raise_exception, of its expressions
            raise CannotRender(f"{type(error).__name__}: {error}") from error
        return texts[0], tuple((start, stop) for start, stop in spans[0]) if spans else ()


def load_chat_template(path: Path) -> ChatTemplate:
    """The template beside a tokenizer: chat_template.jinja, or `chat_template` of tokenizer_config.json.

    Raises:
        TokenizerUnusable: if there is none, or it cannot be read.
    """
    path = path.expanduser()
    folder = path if path.is_dir() else path.parent
    try:
        configs = [
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in CONFIG_NAMES
            if (folder / name).is_file()
        ]
        file = folder / TEMPLATE_NAME
        source: object = file.read_text(encoding="utf-8") if file.is_file() else None
    except (OSError, ValueError) as error:
        found = f"the chat template in {folder} cannot be read: {error}"
        raise _unusable(found, f"correct {TEMPLATE_NAME} or tokenizer_config.json") from error
    configs = [config for config in configs if isinstance(config, dict)]
    for config in configs:
        source = source or _default_of(config.get("chat_template"))
    if not isinstance(source, str) or not source.strip():
        found = f"the tokenizer in {folder} has no chat template"
        raise _unusable(found, f"write {folder / TEMPLATE_NAME}, or choose a tokenizer of a chat model")
    template = ChatTemplate(source=source, special_tokens=_special_tokens(configs))
    fault = template.find_syntax_error()
    if fault is not None:
        where = TEMPLATE_NAME if file.is_file() else "chat_template of tokenizer_config.json"
        found = f"the chat template in {folder} is not Jinja: {fault} of {where}"
        raise _unusable(found, f"correct {where}, or copy it again from where the tokenizer came from")
    return template


def encode_rendered(
    tokenizer: Tokenizer, conversations: Sequence[Rendered]
) -> list[tuple[list[int], list[bool]]]:
    """Ids of each conversation, and which of them are of an answer: any of their characters is in a span.

    Of an added token, such as the <|user|> of the next message, all characters must be.
    """
    added = tokenizer.get_added_tokens_decoder().keys()
    encoded = tokenizer.encode_batch([c.text for c in conversations], add_special_tokens=False)
    found = []
    for conversation, encoding in zip(conversations, encoded, strict=True):
        is_answer = [False] * len(encoding.ids)
        spans = iter(conversation.spans)
        span = next(spans, None)
        for place, (start, stop) in enumerate(encoding.offsets):
            while span is not None and span[1] <= start:
                span = next(spans, None)
            is_added = encoding.ids[place] in added
            is_answer[place] = span is not None and (
                span[0] <= start and stop <= span[1] if is_added else start < span[1] and span[0] < stop
            )
        found.append((encoding.ids, is_answer))
    return found


def conversation_tokenizer(coder: TextCoder) -> Tokenizer:
    """The tokenizer that reads special tokens in text as such, as a template means them.

    Without a post-processor: ByteLevel's moves the offsets of tokens past their spaces.
    """
    content = json.loads(coder.tokenizer.to_str())
    content["post_processor"] = None
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.encode_special_tokens = False
    return tokenizer


def _default_of(template: object) -> object:
    """The default of several named templates."""
    if not isinstance(template, list):
        return template
    named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    return named.get("default")


def _special_tokens(configs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Such as bos_token: those of the first configuration that has them."""
    found: dict[str, str] = {}
    for config in configs:
        for name, value in config.items():
            token = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(token, str):
                found.setdefault(name, token)
    return found


def _unusable(found: str, fix: str) -> TokenizerUnusable:
    expected = f"{TEMPLATE_NAME}, or chat_template in tokenizer_config.json, beside the tokenizer"
    return TokenizerUnusable("SW741", found, expected, fix)
