"""Files of conversations as people have them: their content, and who says what in them."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.support.people_files import TEXTS, lines, table, whole

ASKED = tuple(f"Question {number}: what happened then, and who was there?" for number in range(len(TEXTS)))


class TalkFile(NamedTuple):
    """A file of conversations: who says what, in the first of them; the answers are the last messages."""

    name: str
    content: bytes
    talks: Sequence[Sequence[tuple[str, str]]]


def _pairs(build: Callable[[str, str], Any]) -> list[Any]:
    return [build(asked, text) for asked, text in zip(ASKED, TEXTS, strict=True)]


def both() -> list[tuple[str, str]]:
    """Each question and its answer."""
    return list(zip(ASKED, TEXTS, strict=True))


def talks_of_pairs(
    *before: tuple[str, str], answer: Callable[[str], str] = str
) -> list[list[tuple[str, str]]]:
    return [
        [*before, ("user", asked), ("assistant", answer(text))]
        for asked, text in zip(ASKED, TEXTS, strict=True)
    ]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _with(context: str) -> list[list[tuple[str, str]]]:
    return [
        [("user", f"{asked}\n\n{context}"), talk[-1]]
        for asked, talk in zip(ASKED, talks_of_pairs(), strict=True)
    ]


LETTERED = "\nA. one\nB. two\nC. three\nD. four"
CHOSEN = [[("user", asked + LETTERED), ("assistant", "C")] for asked in ASKED]
CHOICES = ["one", "two", "three", "four"]
DIALOGUE = "\n\nHuman: {}\n\nAssistant: {}"
TALKS = {
    "prompt, completion": TalkFile(
        "a.jsonl", lines(_pairs(lambda a, b: {"prompt": a, "completion": b})), talks_of_pairs()
    ),
    "prompt, response": TalkFile(
        "a.jsonl", lines(_pairs(lambda a, b: {"prompt": a, "response": b})), talks_of_pairs()
    ),
    "Dolly": TalkFile(
        "dolly.jsonl",
        lines(
            _pairs(
                lambda a, b: {"instruction": a, "context": "The year 1905.", "response": b, "category": "qa"}
            )
        ),
        _with("The year 1905."),
    ),
    "Alpaca": TalkFile(
        "alpaca.json",
        whole(_pairs(lambda a, b: {"instruction": a, "input": "", "output": b})),
        talks_of_pairs(),
    ),
    "LLaMA-Factory": TalkFile(
        "a.json",
        whole(
            _pairs(
                lambda a, b: {
                    "instruction": a,
                    "input": "",
                    "output": b,
                    "system": "Be kind.",
                    "history": [["Hi", "Yes?"]],
                }
            )
        ),
        talks_of_pairs(("system", "Be kind."), ("user", "Hi"), ("assistant", "Yes?")),
    ),
    "Orca": TalkFile(
        "orca.jsonl",
        lines(_pairs(lambda a, b: {"system_prompt": "Think.", "question": a, "response": b})),
        talks_of_pairs(("system", "Think.")),
    ),
    "GSM8K": TalkFile(
        "gsm8k.jsonl", lines(_pairs(lambda a, b: {"question": a, "answer": b})), talks_of_pairs()
    ),
    "MATH": TalkFile(
        "math.jsonl",
        lines(_pairs(lambda a, b: {"problem": a, "solution": b, "answer": "4"})),
        talks_of_pairs(),
    ),
    "FLAN": TalkFile(
        "flan.jsonl",
        lines(_pairs(lambda a, b: {"inputs": a, "targets": b, "task_name": "x"})),
        talks_of_pairs(),
    ),
    "input, output": TalkFile(
        "a.jsonl", lines(_pairs(lambda a, b: {"input": a, "output": b})), talks_of_pairs()
    ),
    "source, target": TalkFile(
        "a.jsonl", lines(_pairs(lambda a, b: {"source": a, "target": b})), talks_of_pairs()
    ),
    "user, assistant": TalkFile(
        "a.jsonl", lines(_pairs(lambda a, b: {"user": a, "assistant": b})), talks_of_pairs()
    ),
    "capitals": TalkFile(
        "a.jsonl", lines(_pairs(lambda a, b: {"Question": a, "Answer": b})), talks_of_pairs()
    ),
    "several answers": TalkFile(
        "nq.jsonl", lines(_pairs(lambda a, b: {"question": a, "answer": [b, "no"]})), talks_of_pairs()
    ),
    "SQuAD, flat": TalkFile(
        "squad.jsonl",
        lines(
            _pairs(
                lambda a, b: {
                    "title": "x",
                    "context": "Long ago.",
                    "question": a,
                    "answers": {"text": [b], "answer_start": [0]},
                }
            )
        ),
        _with("Long ago."),
    ),
    "TriviaQA": TalkFile(
        "t.jsonl",
        lines(_pairs(lambda a, b: {"question": a, "answer": {"value": b, "aliases": [b]}})),
        talks_of_pairs(),
    ),
    "BoolQ": TalkFile(
        "boolq.jsonl",
        lines(_pairs(lambda a, b: {"question": a, "passage": b, "answer": True})),
        [[("user", f"{a}\n\n{b}"), ("assistant", "True")] for a, b in zip(ASKED, TEXTS, strict=True)],
    ),
    "DPO": TalkFile(
        "dpo.jsonl",
        lines(_pairs(lambda a, b: {"prompt": a, "chosen": b, "rejected": "no"})),
        talks_of_pairs(),
    ),
    "DPO, messages": TalkFile(
        "dpo.jsonl",
        lines(
            _pairs(
                lambda a, b: {
                    "prompt": [message("user", a)],
                    "chosen": [message("assistant", b)],
                    "rejected": [message("assistant", "no")],
                }
            )
        ),
        talks_of_pairs(),
    ),
    "DPO, conversations": TalkFile(
        "dpo.jsonl",
        lines(
            _pairs(
                lambda a, b: {
                    "chosen": [message("user", a), message("assistant", b)],
                    "rejected": [message("user", a), message("assistant", "no")],
                }
            )
        ),
        talks_of_pairs(),
    ),
    "OpenAI, preferences": TalkFile(
        "p.jsonl",
        lines(
            _pairs(
                lambda a, b: {
                    "input": {"messages": [message("user", a)], "tools": [], "parallel_tool_calls": True},
                    "preferred_output": [message("assistant", b)],
                    "non_preferred_output": [message("assistant", "no")],
                }
            )
        ),
        talks_of_pairs(),
    ),
    "OpenAI, fine-tuning": TalkFile(
        "f.jsonl",
        lines(_pairs(lambda a, b: {"messages": [message("user", a), message("assistant", b)]})),
        talks_of_pairs(),
    ),
    "ShareGPT": TalkFile(
        "s.json",
        whole(
            _pairs(
                lambda a, b: {
                    "id": "1",
                    "conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}],
                }
            )
        ),
        talks_of_pairs(),
    ),
    "UltraChat": TalkFile(
        "u.jsonl", lines(_pairs(lambda a, b: {"id": "1", "data": [a, b]})), talks_of_pairs()
    ),
    "UltraChat 200k": TalkFile(
        "u.jsonl",
        lines(
            _pairs(
                lambda a, b: {
                    "prompt": a,
                    "prompt_id": "1",
                    "messages": [message("user", a), message("assistant", b)],
                }
            )
        ),
        talks_of_pairs(),
    ),
    "HH-RLHF": TalkFile(
        "hh.jsonl",
        lines(_pairs(lambda a, b: {"chosen": DIALOGUE.format(a, b), "rejected": DIALOGUE.format(a, "no")})),
        talks_of_pairs(),
    ),
    "Gemini": TalkFile(
        "g.jsonl",
        lines(
            _pairs(
                lambda a, b: {
                    "contents": [
                        {"role": "user", "parts": [{"text": a}]},
                        {"role": "model", "parts": [{"text": b}]},
                    ]
                }
            )
        ),
        talks_of_pairs(),
    ),
    "XTuner": TalkFile(
        "x.jsonl",
        lines(_pairs(lambda a, b: {"conversation": [{"system": "Be brief.", "input": a, "output": b}]})),
        talks_of_pairs(("system", "Be brief.")),
    ),
    "translation": TalkFile(
        "t.jsonl", lines(_pairs(lambda a, b: {"translation": {"en": a, "de": b}})), talks_of_pairs()
    ),
    "MMLU": TalkFile("mmlu.csv", table([[asked, *CHOICES, "C"] for asked in ASKED]), CHOSEN),
    "MMLU with names": TalkFile(
        "mmlu.csv",
        table([["question", "A", "B", "C", "D", "answer"], *([asked, *CHOICES, "C"] for asked in ASKED)]),
        CHOSEN,
    ),
    "MMLU, choices": TalkFile(
        "mmlu.jsonl", lines([{"question": asked, "choices": CHOICES, "answer": 2} for asked in ASKED]), CHOSEN
    ),
    "ARC": TalkFile(
        "arc.jsonl",
        lines(
            [
                {
                    "question": asked,
                    "choices": {"text": CHOICES, "label": ["A", "B", "C", "D"]},
                    "answerKey": "C",
                }
                for asked in ASKED
            ]
        ),
        CHOSEN,
    ),
    "HellaSwag": TalkFile(
        "h.jsonl",
        lines([{"ind": 1, "ctx": asked, "endings": CHOICES, "label": "2"} for asked in ASKED]),
        CHOSEN,
    ),
    "MBPP, sanitized": TalkFile(
        "mbpp.json",
        whole(_pairs(lambda a, b: {"task_id": 2, "prompt": a, "code": b, "test_list": ["assert f() == 1"]})),
        talks_of_pairs(),
    ),
    "APPS": TalkFile(
        "apps.jsonl",
        lines(
            [
                *_pairs(lambda a, b: {"id": 1, "question": a, "solutions": json.dumps([b, "no"])}),
                {"id": 5, "question": "Without any?", "solutions": ""},
            ]
        ),
        talks_of_pairs(),
    ),
    "SVAMP": TalkFile(
        "svamp.json",
        whole(_pairs(lambda a, b: {"Body": "Ann has 8.", "Question": a, "Equation": "8 - 3", "Answer": b})),
        _with("Ann has 8."),
    ),
    "CoNaLa": TalkFile(
        "c.json", whole(_pairs(lambda a, b: {"intent": a, "snippet": b, "question_id": 1})), talks_of_pairs()
    ),
    "Spider": TalkFile(
        "s.json",
        whole(_pairs(lambda a, b: {"db_id": "x", "query": b, "question": a, "question_toks": a.split()})),
        talks_of_pairs(),
    ),
    "OpenMathInstruct": TalkFile(
        "o.jsonl",
        lines(_pairs(lambda a, b: {"problem": a, "generated_solution": b, "expected_answer": "4"})),
        talks_of_pairs(),
    ),
    "CSV": TalkFile(
        "qa.csv", table([["query", "response"], *zip(ASKED, TEXTS, strict=True)]), talks_of_pairs()
    ),
    "TSV": TalkFile(
        "qa.tsv",
        table([["question", "answer"], *zip(ASKED, TEXTS, strict=True)], delimiter="\t"),
        talks_of_pairs(),
    ),
    "CSV with semicolons": TalkFile(
        "qa.csv",
        table([["instruction", "output"], *zip(ASKED, TEXTS, strict=True)], delimiter=";"),
        talks_of_pairs(),
    ),
    "UltraFeedback": TalkFile(
        "u.jsonl",
        lines(_pairs(lambda a, b: {"instruction": a, "completions": [{"model": "m", "response": b}]})),
        talks_of_pairs(),
    ),
    "P3": TalkFile(
        "p.jsonl",
        lines(_pairs(lambda a, b: {"inputs_pretokenized": a, "targets_pretokenized": b})),
        talks_of_pairs(),
    ),
    "Open Assistant, trees": TalkFile(
        "o.jsonl",
        lines(
            _pairs(
                lambda a, b: {
                    "message_tree_id": "1",
                    "prompt": {
                        "text": a,
                        "role": "prompter",
                        "replies": [
                            {"text": b, "role": "assistant", "replies": []},
                            {"text": "no", "role": "assistant", "replies": []},
                        ],
                    },
                }
            )
        ),
        talks_of_pairs(),
    ),
    "ChatGPT, export": TalkFile(
        "conversations.json",
        whole(
            _pairs(
                lambda a, b: {
                    "title": "x",
                    "mapping": {
                        "0": {"id": "0", "message": None, "children": ["1"]},
                        "1": {"id": "1", "message": {"author": {"role": "user"}, "content": {"parts": [a]}}},
                        "2": {
                            "id": "2",
                            "message": {"author": {"role": "assistant"}, "content": {"parts": [b]}},
                        },
                    },
                }
            )
        ),
        talks_of_pairs(),
    ),
    "messages of a request": TalkFile(
        "r.jsonl",
        lines(
            _pairs(
                lambda a, b: {
                    "custom_id": "1",
                    "body": {"messages": [message("user", a), message("assistant", b)]},
                }
            )
        ),
        talks_of_pairs(),
    ),
    "lists below names": TalkFile(
        "a.json", whole([["q", "a"], *zip(ASKED, TEXTS, strict=True)]), talks_of_pairs()
    ),
    "messages in a CSV": TalkFile(
        "m.csv",
        table(
            [
                ["messages"],
                *(
                    [json.dumps([message("user", a), message("assistant", b)])]
                    for a, b in zip(ASKED, TEXTS, strict=True)
                ),
            ]
        ),
        talks_of_pairs(),
    ),
    "Alpaca below a key": TalkFile(
        "a.json",
        whole({"data": _pairs(lambda a, b: {"instruction": a, "input": "", "output": b})}),
        talks_of_pairs(),
    ),
    "conversations below a key": TalkFile(
        "a.json",
        whole({"items": _pairs(lambda a, b: {"messages": [message("user", a), message("assistant", b)]})}),
        talks_of_pairs(),
    ),
    "Alpaca, indented objects": TalkFile(
        "a.json",
        b"\n".join(whole(each, 2) for each in _pairs(lambda a, b: {"instruction": a, "output": b})),
        talks_of_pairs(),
    ),
    "questions in columns": TalkFile("a.json", whole({"question": ASKED, "answer": TEXTS}), talks_of_pairs()),
}
