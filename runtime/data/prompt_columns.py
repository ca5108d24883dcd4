"""Records of prompts and completions under other names: the Python expression of the record that is read."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

# Each with each: Alpaca, Dolly, question answering, mathematics, preference pairs (the chosen answer).
PROMPTS = ("prompt", "instruction", "question", "query", "problem")
COMPLETIONS = (
    *("completion", "canonical_solution", "output", "response", "chosen", "solution", "answer"),
    *("answers", "completions", "responses", "outputs", "instances", "best answer", "best_answer"),
)
# Code and worked solutions: with each prompt, but settings have such keys too.
CODE = ("code", "reference_code", "solutions", "generated_solution", "snippet", "sql")
# Only together: alone they are names of many other things.
PAIRS = (
    ("inputs", "targets"),
    ("inputs", "outputs"),
    ("input", "output"),
    ("input", "target"),
    ("input", "response"),
    ("source", "target"),
    ("src", "tgt"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("human", "gpt"),
    ("human", "bot"),
    ("human", "moss"),
    ("user", "bot"),
    ("user", "model"),
    ("post", "reply"),
    ("input_text", "output_text"),
    ("input_text", "target_text"),
    ("q", "a"),
    ("intent", "snippet"),
    ("question", "query"),
    ("inputs_pretokenized", "targets_pretokenized"),
)
CONTEXTS = ("input", "context", "passage", "body")
SYSTEMS = ("system", "system_prompt", "system_message", "meta_instruction")
HISTORY = "history"
# Whether the answer is a good one (TRL's and LLaMA-Factory's data for KTO).
LABELS = ("label", "kto_tag")
SCORES = ("overall_score", "fine-grained_score", "pm_score", "score", "rating")
RANK = "rank"  # the best is the first
CHOICES = ("choices", "options", "endings")
# Of multiple choice: the question, and the number or letter of the right choice.
QUESTIONS = (*PROMPTS, "ctx", "sentence")
CHOSEN = ("answer", "answerkey", "label", "correct", "target")
LETTERS = "ABCDEFGH"


class Answers(NamedTuple):
    """How records become conversations.

    converted: a Python expression of a record, of the record `r`; None: they are read as they are.
    overrides: those to write, each with a space after it. doing: what the conversion is.
    condition: of the records that are kept, `if …`. modules: those that the expression needs.
    """

    overrides: str
    converted: str | None = None
    doing: str = "rename its keys"
    condition: str | None = None
    modules: tuple[str, ...] = ()


def at(key: str) -> str:
    """The expression of a record's value."""
    return f"r[{json.dumps(key, ensure_ascii=False)}]"


def find_prompts(record: dict[str, Any]) -> Answers | None:
    """How to read a record that has a prompt and a completion; None for others.

    A context follows the prompt after an empty line; a system's text and earlier turns are messages before.
    """
    names = {key.lower().strip(): key for key in reversed(record)}
    choices = _find_choices(record, names)
    if choices is not None:
        return choices
    pair = _find_pair(record, names)
    if pair is None:
        return None
    prompt, completion = pair
    answer = _answer(record[completion], at(completion))
    assert answer is not None, "the pair has one"
    asked = at(prompt)
    context = _first(names, CONTEXTS, str, record, {prompt, completion})
    if context is not None and isinstance(record[prompt], str):
        known = f"r.get({json.dumps(context, ensure_ascii=False)})"
        asked += f' + ("\\n\\n" + {at(context)} if {known} else "")'
    before = _messages_before(record, names)
    if before and isinstance(record[prompt], str):
        asked = " + ".join([*before, f'[{{"role": "user", "content": {asked}}}]'])
    if (asked, answer[0]) == (at("prompt"), at("completion")):
        return Answers("data.format=prompt ")
    label = next(
        (f", {json.dumps(key)}: {at(key)}" for key in LABELS if isinstance(record.get(key), bool)), ""
    )
    converted = f'{{"prompt": {asked}, "completion": {answer[0]}{label}}}'
    return Answers("data.format=prompt ", converted, condition=answer[1])


def _find_pair(record: dict[str, Any], names: dict[str, str]) -> tuple[str, str] | None:
    candidates = [(prompt, completion) for prompt in PROMPTS for completion in (*COMPLETIONS, *CODE)]
    for prompt, completion in (*candidates, *PAIRS):
        if prompt in names and completion in names:
            asked, answered = record[names[prompt]], record[names[completion]]
            is_asked = bool(asked.strip()) if isinstance(asked, str) else are_messages(asked)
            if is_asked and _answer(answered, "") is not None:
                return names[prompt], names[completion]
    return None


def _answer(value: Any, expression: str) -> tuple[str, str | None] | None:
    """The expression of the answer's text or messages, and the condition of a record that has one; or None.

    Of a list of messages the last one is taken, of several texts the first.
    """
    if isinstance(value, str):
        if _are_texts(_listed_in(value)):  # APPS
            return f"json.loads({expression})[0]", f"if {expression} and json.loads({expression})"
        return expression, None
    if are_messages(value):
        return f"{expression}[-1:]", None
    if isinstance(value, (bool, int, float)):
        return f"str({expression})", None
    if _are_texts(value):
        return f"{expression}[0]", f"if {expression}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        score = next(
            (
                key
                for key in (*SCORES, RANK)
                if all(isinstance(each, dict) and isinstance(each.get(key), (int, float)) for each in value)
            ),
            None,
        )
        if score is not None and len(value) > 1:  # UltraFeedback, Nectar
            choose = "min" if score == RANK else "max"
            best = f"{choose}({expression}, key=lambda c: c[{json.dumps(score)}])"
            found = _answer({key: v for key, v in value[0].items() if key != score}, best)
            return None if found is None else (found[0], f"if {expression}")
        inner = _answer(value[0], f"{expression}[0]")
        return None if inner is None else (inner[0], f"if {expression}")
    if isinstance(value, dict):
        for key in ("text", "value", "answer", "response", "output", "content"):
            if key in value and (inner := _answer(value[key], f'{expression}["{key}"]')) is not None:
                return inner
    return None


def _messages_before(record: dict[str, Any], names: dict[str, str]) -> list[str]:
    """The expressions of the lists of messages before the prompt."""
    found = system_message(record, names)
    history = record.get(HISTORY)
    if isinstance(history, list) and all(_are_texts(turn) and len(turn) == 2 for turn in history):
        message = '{"role": w, "content": t}'
        found.append(f'[{message} for h in {at(HISTORY)} or [] for w, t in zip(("user", "assistant"), h)]')
    return found


def system_message(record: dict[str, Any], names: dict[str, str]) -> list[str]:
    """The expression of the list of the system's message, where the record has its text."""
    system = _first(names, SYSTEMS, str, record)
    if system is None:
        return []
    known = f"bool(r.get({json.dumps(system)}))"
    return [f'[{{"role": "system", "content": {at(system)}}}][:{known}]']


def _find_choices(record: dict[str, Any], names: dict[str, str]) -> Answers | None:
    """Multiple choice: the question and the lettered choices, answered with the letter."""
    question, right = _first(names, QUESTIONS, str, record), _first(names, CHOSEN, (str, int), record)
    if question is None or right is None:
        return None
    listed = next((names[key] for key in CHOICES if key in names), None)
    value: Any = None if listed is None else record[listed]
    if listed is not None and _are_texts(value):
        lettered = f'zip("{LETTERS}", {at(listed)})'
        num = len(value)
    elif listed is not None and isinstance(value, dict) and {"text", "label"} <= value.keys():
        lettered, num = f'zip({at(listed)}["label"], {at(listed)}["text"])', 0
    elif all(isinstance(record.get(letter), str) for letter in LETTERS[:4]):
        lettered, num = f'((w, r[w]) for w in "{LETTERS}" if r.get(w))', 0
    else:
        return None
    answer = _letter(record[right], at(right), num)
    if answer is None:
        return None
    asked = f'{at(question)} + "".join(f"\\n{{w}}. {{t}}" for w, t in {lettered})'
    converted = f'{{"prompt": {asked}, "completion": {answer}}}'
    return Answers("data.format=prompt ", converted, "make prompts of its questions and their choices")


def _letter(value: str | int, expression: str, num_choices: int) -> str | None:
    """The expression of the right choice's letter; `num_choices`: of a numbered list."""
    if isinstance(value, str) and len(value) == 1 and value.isupper():
        return expression
    if isinstance(value, str) and not (value.isdecimal() and len(value) < 3):
        return None
    if num_choices and 0 <= int(value) < num_choices:
        return f'"{LETTERS}"[int({expression})]'
    return expression if isinstance(value, str) and not num_choices else None


def _first(
    names: dict[str, str],
    candidates: Iterable[str],
    kind: type | tuple[type, ...],
    record: dict[str, Any],
    used: set[str] = frozenset(),  # type: ignore[assignment]
) -> str | None:
    """The first key of the candidates that holds such a value, or null."""
    for name in candidates:
        key = names.get(name)
        if key is not None and key not in used and (record[key] is None or isinstance(record[key], kind)):
            return key
    return None


def _listed_in(text: str) -> Any:
    """The JSON list that a text is; None for others."""
    if not text.startswith('["'):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


# Of a message: Hugging Face's and OpenAI's, a call of tools, ShareGPT's.
MESSAGE_KEYS = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})


def are_messages(value: Any) -> bool:
    """Whether these are messages, each with who says what; of a CSV, as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    if not isinstance(value, list) or not value:
        return False
    return all(
        isinstance(message, dict) and any(keys <= message.keys() for keys in MESSAGE_KEYS)
        for message in value
    )
