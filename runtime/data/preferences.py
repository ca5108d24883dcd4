"""Which of two answers a record prefers: the better one is an answer, the other and a tie are none."""

import json
from typing import Any

from runtime.data.prompt_columns import LABELS, PROMPTS, Answers, are_messages, at

# The columns of two answers; the last character of a name is what a choice says.
TWO_ANSWERS = (
    ("conversation_a", "conversation_b"),  # Chatbot Arena
    *(
        (f"{name}_{a}", f"{name}_{b}")
        for name in ("response", "answer", "output", "completion")
        for a, b in ("ab", "01", "12")
    ),
    ("response1", "response2"),  # HelpSteer
    ("human_ref_A", "human_ref_B"),  # Stanford Human Preferences
    ("summary_0", "summary_1"),
)
CHOICES = ("winner", "better_response_id", "preferred", "preference", "choice", "better", "label", "labels")
ASKED = (*PROMPTS, "context", "history", "post", "input")


def find_choice(record: dict[str, Any]) -> Answers | None:
    """How to read a record with two answers and a choice between them; None for others."""
    pair = _pair(record)
    choice = None if pair is None else _choice(record, pair)
    if pair is None or choice is None:
        return None
    ends = tuple(name[-1].lower() for name in pair)
    chosen = (
        f"{{{', '.join(f'{json.dumps(end)}: {at(name)}' for end, name in zip(ends, pair, strict=True))}}}[w]"
    )
    condition = f"for w in [{choice}] if w in {json.dumps(ends)[1:-1].join('()')}"
    doing = "take the better answer, and leave out ties"
    if all(are_messages(record[name]) for name in pair):
        return Answers("data.format=chat ", f'{{"messages": {chosen}}}', doing, condition)
    asked = next((found for key in ASKED if (found := _asked(record, key)) is not None), None)
    if asked is None or not all(isinstance(record[name], str) for name in pair):
        return None
    return Answers("data.format=prompt ", f'{{"prompt": {asked}, "completion": {chosen}}}', doing, condition)


def is_rejected(record: dict[str, Any], field: str) -> bool:
    """Whether the record says that its answer is a bad one: by a label, or by a choice of another column.

    Args:
        field: the key of the messages.
    """
    if any(record.get(key) is False or str(record.get(key)).lower() == "false" for key in LABELS):
        return True
    pair = _pair(record)
    if pair is None or field not in pair:
        return False
    if "winner" not in record or not isinstance(record["winner"], (str, int)):
        return False
    return str(record["winner"]).lower()[-1:] != field[-1].lower()


def _pair(record: dict[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in TWO_ANSWERS if set(pair) <= record.keys()), None)


def _choice(record: dict[str, Any], pair: tuple[str, str]) -> str | None:
    """The expression of the last character of the better answer's column; of a tie another text."""
    first, second = (name[-1].lower() for name in pair)
    if {"winner_model_a", "winner_model_b"} <= record.keys():  # Chatbot Arena as a table
        return (
            f'"{first}" if int({at("winner_model_a")}) else "{second}" if int({at("winner_model_b")}) else ""'
        )
    scores = f"score_{pair[0][-1]}", f"score_{pair[1][-1]}"
    if set(scores) <= record.keys():  # WebGPT
        one, other = map(at, scores)
        return f'"{first}" if {one} > {other} else "{second}" if {one} < {other} else ""'
    if isinstance(record.get("overall_preference"), int):  # HelpSteer: below 0 the first is better
        number = at("overall_preference")
        return f'"{first}" if {number} < 0 else "{second}" if {number} > 0 else ""'
    if pair == ("human_ref_A", "human_ref_B") and isinstance(record.get("labels"), int):
        return f'"{first}" if {at("labels")} else "{second}"'
    key = next((key for key in CHOICES if isinstance(record.get(key), (str, int))), None)
    return None if key is None else f"str({at(key)}).lower()[-1:]"


def _asked(record: dict[str, Any], key: str) -> str | None:
    """The expression of what was asked: a text, messages, or an object with its text."""
    value = record.get(key)
    if isinstance(value, dict):
        inner = next((name for name in ("full_text", "text") if isinstance(value.get(name), str)), None)
        return None if inner is None else f'{at(key)}["{inner}"]'
    return at(key) if are_messages(value) or (isinstance(value, str) and value) else None
