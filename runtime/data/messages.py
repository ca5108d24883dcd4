"""The conversation of a record: its messages, or those that a prompt and its completion make."""

import json
from typing import Any, Literal, NamedTuple

from runtime.data.chat_template import Message
from runtime.data.preferences import is_rejected
from runtime.data.prompt_columns import are_messages
from runtime.data.text_field import listed

MESSAGES, PROMPT, COMPLETION = "messages", "prompt", "completion"
SHAREGPT = "conversations"  # its key of the messages
# What an answer may have beside or in place of its content.
CONTENT = ("tool_calls", "reasoning_content", "thinking")
# ShareGPT's names of roles.
ROLES = {"human": "user", "gpt": "assistant"}


class Conversation(NamedTuple):
    """Messages, of which the assistant's are answers from number `first_answer` on.

    left_out: numbers of answers without a loss: of weight 0, or without content. No messages: a null, or with
    is_rejected a record that says that its answer is a bad one.
    """

    messages: list[Message]
    first_answer: int
    tools: list[Any] | None
    left_out: frozenset[int] = frozenset()
    is_rejected: bool = False


class NoConversation(Exception):
    """The record is no conversation; says what it has. `absent_in`: the record, if it lacks the keys."""

    def __init__(self, found: str, *, absent_in: dict[str, Any] | str | None = None) -> None:
        self.absent_in = absent_in
        super().__init__(found)


def extract_conversation(
    value: dict[str, Any] | str, format: Literal["chat", "prompt"], field: str
) -> Conversation:
    """The conversation of a record. With chat, unless another key is asked for, files of several kinds can be
    trained together: messages, ShareGPT's, and prompts with their completions.

    Raises:
        NoConversation: if it lacks the keys, or has something else there.
    """
    if isinstance(value, str):
        raise NoConversation("a text, not an object", absent_in=value)
    tools = value.get("tools") or None
    if isinstance(tools, str):
        tools = _parse(tools, "tools")
    if format == "chat" and field == MESSAGES and field not in value:
        if are_messages(value.get(SHAREGPT)):
            field = SHAREGPT
        elif {PROMPT, COMPLETION} <= value.keys():
            format = "prompt"
    if format == "chat":
        if field not in value:
            raise NoConversation(f"no key {field!r}; keys: {listed(value)}", absent_in=value)
        if value[field] is None or is_rejected(value, field):
            return Conversation([], 0, tools, is_rejected=value[field] is not None)
        messages = _messages(value[field], field)
        return Conversation(messages, 0, tools, _without_loss(messages))
    missing = [key for key in (PROMPT, COMPLETION) if key not in value]
    if missing:
        raise NoConversation(
            f"no key {' or '.join(map(repr, missing))}; keys: {listed(value)}", absent_in=value
        )
    if value[PROMPT] is None or value[COMPLETION] is None or is_rejected(value, COMPLETION):
        return Conversation([], 0, tools, is_rejected=value[COMPLETION] is not None)
    prompt = _side(value[PROMPT], PROMPT, "user")
    messages = [*prompt, *_side(value[COMPLETION], COMPLETION, "assistant")]
    return Conversation(messages, len(prompt), tools, _without_loss(messages))


def _without_loss(messages: list[Message]) -> frozenset[int]:
    """The answers of weight 0, as OpenAI's format has them, and those without content.

    Raises:
        NoConversation: for another weight than 0 and 1, which the loss does not have.
    """
    found = set()
    for number, message in enumerate(messages):
        weight = message.get("weight", 1)
        if weight not in (0, 1):
            raise NoConversation(f"the weight of message {number + 1} is {weight!r}, not 0 or 1")
        is_empty = (
            not any(message.get(key) for key in CONTENT) and not str(message.get("content") or "").strip()
        )
        if message["role"] == "assistant" and (weight == 0 or is_empty):
            found.add(number)
    return frozenset(found)


def _side(value: Any, key: str, role: str) -> list[Message]:
    """A text is one message; messages are themselves."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return _messages(value, key)


def _messages(value: Any, key: str) -> list[Message]:
    if isinstance(value, str):  # of a CSV
        value = _parse(value, key)
    if not isinstance(value, list) or not value:
        raise NoConversation(f"{key!r} is {_kind(value)}, not a list of messages")
    found: list[Message] = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise NoConversation(f"{key!r} has {_kind(message)} as message {number}")
        # A table has null in the place of a key that a message lacks.
        given = {name: part for name, part in message.items() if part is not None or name == "content"}
        if "role" not in given and {"from", "value"} <= given.keys():
            speaker = given["from"]
            role = ROLES.get(speaker, speaker) if isinstance(speaker, str) else None
            kept = {name: given[name] for name in given.keys() & {"weight"}}
            given = {"role": role, "content": given["value"], **kept}
        if not isinstance(given.get("role"), str):
            raise NoConversation(f"message {number} of {key!r} has no role; keys: {listed(given)}")
        if given.get("content") is None and "tool_calls" not in given:
            raise NoConversation(f"message {number} of {key!r} has no content; keys: {listed(given)}")
        if "content" in given:
            given["content"] = _text_of(given["content"], f"message {number} of {key!r}")
        found.append(given)
    return found


def _text_of(content: Any, where: str) -> str | None:
    """A message's content; of parts of text the text of all."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise NoConversation(f"the content of {where} is {_kind(content)}, not text")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else _kind(part)
            raise NoConversation(f"the content of {where} has a part that is not text: {kind}")
        texts.append(text)
    return "".join(texts)


def _parse(text: str, key: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NoConversation(f"{key!r} is a text that is not JSON, not a list of messages") from None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return "an empty list" if value == [] else f"of type {type(value).__name__}"
