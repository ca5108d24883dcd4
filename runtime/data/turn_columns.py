"""Records of conversations: those that are read under another key, and those in another shape."""

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from planner.yaml12_writer import flow_yaml
from runtime.data.dialogs import speech
from runtime.data.preferences import find_choice
from runtime.data.prompt_columns import PROMPTS, Answers, are_messages, at, find_prompts, system_message

MESSAGES, SHAREGPT = "messages", "conversations"  # those that are read without a word
REFERENCE = "reference"
# Texts in turn, the user's first (UltraChat).
TURNS = ("data", "dialog", "dialogue", "conversation", "conversations", "turns", "utterances")
ANSWERERS = frozenset({"assistant", "gpt", "bot", "model", "chatgpt"})
# A text with who speaks before each turn: HH-RLHF, MOSS.
SPEAKERS = (
    (r"(?:^|\n)(Human|User|USER|Assistant|ASSISTANT|Bot|AI):", r"(?:^|\n)(%s):(.*?)(?=\n(?:%s):|\Z)"),
    (r"\[(Human|MOSS)\]: ", r"\[(%s)\]: (.*?)(?=<eo\w>|\[(?:%s)\]: |\Z)"),
)
ASKING = ["Human", "User", "USER"]
DOING = "make messages of its turns"


def find_whole(records: Sequence[dict[str, Any]]) -> bool:
    """Whether the records are the messages of one conversation."""
    return len(records) > 1 and are_messages(records) and _has_both(records)


def find_answers(record: dict[str, Any], format: str = "text") -> Answers | None:
    """How to read a record as a conversation, or as a prompt and its completion; None for other records.

    Args:
        format: data.format as it is written; with prompt a prompt and its completion come first.
    """
    conversations = [key for key, value in record.items() if are_messages(value)]
    complete = next((key for key in conversations if _has_both(record[key])), None)
    preferred = find_choice(record) or _find_preferred(record)
    if preferred is not None:
        return preferred
    if complete is None or complete in PROMPTS or format == "prompt":
        prompts = find_prompts(record)
        if prompts is not None:
            return prompts
    if conversations:
        key = complete or conversations[0]
        is_known = key == MESSAGES or (key == SHAREGPT and MESSAGES not in record)
        return Answers("data.format=chat " if is_known else f"{_field(key)} data.format=chat ")
    return _find_turns(record)


def _field(key: str) -> str:
    return shlex.quote(f"data.text_field={flow_yaml(key)}")


def _has_both(value: Any) -> bool:
    """Whether somebody asks and somebody answers."""
    if not isinstance(value, list):
        return True  # JSON of a CSV
    roles = {str(message.get("role", message.get("from"))) for message in value}
    return bool(roles & ANSWERERS) and bool(roles - ANSWERERS - {"system"})


def _find_preferred(record: dict[str, Any]) -> Answers | None:
    """OpenAI's preferences: the messages of the input, and the preferred answer after them."""
    asked = record.get("input")
    if not isinstance(asked, dict) or not are_messages(asked.get(MESSAGES)):
        return None
    if not are_messages(record.get("preferred_output")):
        return None
    tools = ', "tools": r["input"].get("tools")' if asked.get("tools") else ""
    messages = 'r["input"]["messages"] + r["preferred_output"]'
    return Answers("data.format=chat ", f'{{"{MESSAGES}": {messages}{tools}}}', "join its messages")


def _find_turns(record: dict[str, Any]) -> Answers | None:
    for key, value in record.items():
        messages = _answered(key, value, record) or _messages(key, value)
        if messages is not None:
            names = {name.lower(): name for name in record}
            messages = " + ".join([*system_message(record, names), messages])
            modules = ("re",) if "re." in messages else ()
            return Answers("data.format=chat ", f'{{"{MESSAGES}": {messages}}}', DOING, modules=modules)
    for key, value in record.items():
        if isinstance(value, dict) and are_messages(value.get(MESSAGES)) and _has_both(value[MESSAGES]):
            converted = f'{{"{MESSAGES}": {at(key)}["{MESSAGES}"]}}'
            return Answers("data.format=chat ", converted, f"take the messages out of {key}")
    languages = record.get("translation")
    if isinstance(languages, dict) and [*map(type, languages.values())] == [str, str]:
        prompt, completion = (f"{at('translation')}{at(key)[1:]}" for key in languages)
        return Answers(
            "data.format=prompt ",
            f'{{"prompt": {prompt}, "completion": {completion}}}',
            f"translate from {next(iter(languages))}",
        )
    return None


def _answered(key: str, value: Any, record: dict[str, Any]) -> str | None:
    """The expression of questions that another list of the record answers (MT-bench)."""
    answers = record.get(REFERENCE)
    if key not in TURNS or not isinstance(value, list) or not isinstance(answers, list) or not answers:
        return None
    if len(value) != len(answers) or not all(isinstance(text, str) for text in (*value, *answers)):
        return None
    pairs = f"zip({at(key)}, {at(REFERENCE)})"
    return f'[{{"role": w, "content": t}} for p in {pairs} for w, t in zip(("user", "assistant"), p)]'


def _messages(key: str, value: Any) -> str | None:
    """The expression of the messages that the value holds in another shape."""
    if isinstance(value, str):
        return _spoken(value, at(key))
    if isinstance(value, dict):
        return _tree(key, value)
    if not isinstance(value, list) or not value:
        return None
    if key in TURNS and len(value) > 1 and all(isinstance(text, str) for text in value):
        role = '("user", "assistant")[i % 2]'
        return f'[{{"role": {role}, "content": t}} for i, t in enumerate({at(key)})]'
    if not all(isinstance(turn, dict) for turn in value):
        return None
    if are_messages(value):
        return None  # read as they are
    if all({"role", "parts"} <= turn.keys() for turn in value):  # Gemini
        text = '"".join(p.get("text", "") for p in m["parts"])'
        role = '{"model": "assistant"}.get(m["role"], m["role"])'
        return f'[{{"role": {role}, "content": {text}}} for m in {at(key)}]'
    if all({"input", "output"} <= turn.keys() for turn in value):  # XTuner
        parts = '(("system", "system"), ("user", "input"), ("assistant", "output"))'
        return f'[{{"role": w, "content": m[k]}} for m in {at(key)} for w, k in {parts} if m.get(k)]'
    if all({"role", "text"} <= turn.keys() and turn["role"] in ("prompter", "assistant") for turn in value):
        # Open Assistant
        role = '{"prompter": "user"}.get(m["role"], m["role"])'
        return f'[{{"role": {role}, "content": m["text"]}} for m in {at(key)}]'
    return speech(key, value, at(key))


def _spoken(text: str, expression: str) -> str | None:
    """The expression of the messages of a text that names the speaker before each turn."""
    for speaker, spoken in SPEAKERS:
        names = sorted(set(re.findall(speaker, text)))
        if len(names) == 2 and len(set(names) & set(ASKING)) == 1:
            role = f'"user" if w in {json.dumps(ASKING)} else "assistant"'
            turns = spoken % ("|".join(names), "|".join(names))
            found = f're.findall(r"{turns}", {expression}, re.S)'
            said = 't.replace("<|endoftext|>", "").strip()' if "<|endoftext|>" in text else "t.strip()"
            return f'[{{"role": {role}, "content": {said}}} for w, t in {found}]'
    return None


def _tree(key: str, value: dict[str, Any]) -> str | None:
    """The expression of the messages of one branch: of Open Assistant's trees, of ChatGPT's export."""
    if {"role", "text", "replies"} <= value.keys():
        role = '{"prompter": "user"}.get(m["role"], m["role"])'
        message = f'[{{"role": {role}, "content": m["text"]}}]'
        best = 'min(m["replies"], key=lambda c: 99 if c.get("rank") is None else c["rank"])'
        walk = f'lambda f, m: {message} + (f(f, {best}) if m.get("replies") else [])'
        return f"(lambda f, m: f(f, m))({walk}, {at(key)})"
    if all(isinstance(turn, dict) for turn in value.values()):  # MOSS: numbered turns
        exchanges = speech(key, list(value.values()), f"{at(key)}.values()")
        if exchanges is not None:
            return exchanges
    turns = [turn.get("message") for turn in value.values() if isinstance(turn, dict)]
    known = [turn for turn in turns if isinstance(turn, dict)]
    if len(turns) == len(value) and known and all({"author", "content"} <= turn.keys() for turn in known):
        text = '"".join(p for p in m["content"].get("parts") or [] if isinstance(p, str))'
        messages = f'[v["message"] for v in {at(key)}.values() if v.get("message")]'
        spoken = 'm["author"]["role"] in ("user", "assistant")'
        return f'[{{"role": m["author"]["role"], "content": {text}}} for m in {messages} if {spoken}]'
    return None
