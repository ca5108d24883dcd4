"""Turns of a dialog under other names than role and content: who speaks, what is said, who answers."""

import json
import re
from collections.abc import Sequence
from typing import Any

from runtime.data.prompt_columns import COMPLETIONS, PAIRS, PROMPTS

# Keys that say who speaks, wherever the turns are; the others only below a key that means a dialog.
SPEAKERS = ("speaker", "role", "from", "sender", "speaker_id", "interlocutor", "participant", "agent")
SPEAKERS_OF_DIALOGS = (*SPEAKERS, "author", "user", "name", "who", "type", "bot")
SAID = ("text", "content", "value", "utterance", "message", "msg", "body", "sentence", "transcript")
DIALOGS = frozenset(
    {"chat", "conv", "conversation", "conversations", "dialog", "dialogs", "dialogue", "dialogues", "history"}
    | {"messages", "thread", "turns", "utterances"}
)
USERS = frozenset(
    {"asker", "caller", "client", "customer", "human", "patient", "prompter", "question", "seeker", "student"}
    | {"usr", "user", "visitor"}
)
ASSISTANTS = frozenset(
    {"advisor", "agent", "ai", "answer", "assistant", "bot", "chatbot", "chatgpt", "doctor", "gpt", "model"}
    | {"moss", "operator", "staff", "sys", "teacher", "therapist"}
)
# MOSS writes its marks into the texts.
MARKS = r"<\|[^|>]*\|>: ?|<eo\w>"


def speech(key: str, turns: Sequence[Any], expression: str) -> str | None:
    """The Python expression of the messages that the turns are; None for a list of something else.

    Args:
        key: the key that the turns are under.
        expression: that of the list.
    """
    if not turns or not all(isinstance(turn, dict) for turn in turns):
        return None
    said = _common(turns, SAID)
    who = _common(turns, SPEAKERS_OF_DIALOGS if key.lower() in DIALOGS else SPEAKERS)
    if said is None or who is None or who == said:
        return _exchanges(turns, expression) if key.lower() in DIALOGS else None
    names = list(dict.fromkeys(str(turn[who]) for turn in turns))
    if len(names) < 2:
        return None
    roles = _roles(names)
    at_who, at_said = json.dumps(who), json.dumps(said)
    if roles is None:  # the first to speak asks
        role = f'"user" if m[{at_who}] == d[0][{at_who}] else "assistant"'
        return f'[{{"role": {role}, "content": m[{at_said}]}} for d in [{expression}] for m in d]'
    role = f'{json.dumps(roles, ensure_ascii=False)}.get(m[{at_who}], "user")'
    return f'[{{"role": {role}, "content": m[{at_said}]}} for m in {expression}]'


def are_turns(turns: Any) -> bool:
    """Whether these are turns of a dialog, by their keys alone."""
    return isinstance(turns, list) and speech("", turns, "r") is not None


def _common(turns: Sequence[dict[str, Any]], candidates: Sequence[str]) -> str | None:
    """The first of these keys that all turns have, with a text or a number."""
    kinds = (str, int)
    return next((key for key in candidates if all(isinstance(t.get(key), kinds) for t in turns)), None)


def _roles(names: Sequence[str]) -> dict[str, str] | None:
    """The role of each name; None where the names alone do not say who answers."""
    known = {name.lower(): name for name in names}
    answering = [name for name in names if name.lower() in ASSISTANTS]
    if not answering and "system" in known and set(known) - {"system"} <= USERS:
        answering = [known["system"]]  # of two, as in MultiWOZ
    if not answering or len(answering) == len(names):
        return None
    others = [name for name in names if name not in answering]
    return {
        **dict.fromkeys(answering, "assistant"),
        **{name: "system" if name.lower() == "system" else "user" for name in others},
    }


def _exchanges(turns: Sequence[dict[str, Any]], expression: str) -> str | None:
    """Of turns that hold both, what was asked and what was answered."""
    first = turns[0]
    names = {key.lower().strip(): key for key in first}
    pairs = [(prompt, completion) for prompt in PROMPTS for completion in COMPLETIONS]
    for asked, answered in (*pairs, *PAIRS):
        keys = [names.get(asked), names.get(answered)]
        if all(key is not None and all(isinstance(t.get(key), str) for t in turns) for key in keys):
            parts = "".join(
                f'("{w}", {json.dumps(k)}), ' for w, k in zip(("user", "assistant"), keys, strict=True)
            )
            text = "m[k]"
            if any(re.search(MARKS, turn[str(key)]) for turn in turns for key in keys):
                text = f're.sub(r"{MARKS}", "", m[k]).strip()'
            return (
                f'[{{"role": w, "content": {text}}} for m in {expression} for w, k in ({parts.rstrip(", ")})]'
            )
    return None
