"""Files of dialogs with other names of speakers, and of two answers with a choice between them."""

from typing import Any

from tests.support.people_files import TEXTS, lines, whole
from tests.support.talk_files import ASKED, TalkFile, both, message, talks_of_pairs

NAMED = [
    [("user", asked), ("assistant", text), ("user", "And?"), ("assistant", "So.")] for asked, text in both()
]


def _dialogs(names: tuple[str, str], who: str, said: str) -> list[list[dict[str, Any]]]:
    return [
        [{who: name, said: text} for name, (_, text) in zip(names * 2, talk, strict=True)] for talk in NAMED
    ]


def _below(key: str, dialogs: list[Any]) -> list[dict[str, Any]]:
    return [{"id": number, key: dialog} for number, dialog in enumerate(dialogs)]


MOSS = [
    {
        "conversation_id": "1",
        "meta_instruction": "You are MOSS.",
        "num_turns": 1,
        "chat": {
            "turn_1": {
                "Human": f"<|Human|>: {asked}<eoh>\n",
                "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                "MOSS": f"<|MOSS|>: {text}<eom>\n",
            }
        },
    }
    for asked, text in both()
]
ARENA = [
    {
        "question_id": number,
        "model_a": "x",
        "winner": ("model_a", "model_b", "tie", "tie (bothbad)")[number],
        "conversation_a": [message("user", asked), message("assistant", text)],
        "conversation_b": [message("user", asked), message("assistant", text.upper())],
    }
    for number, (asked, text) in enumerate(both())
]
CHOSEN = [
    [("user", ASKED[0]), ("assistant", TEXTS[0])],
    [("user", ASKED[1]), ("assistant", TEXTS[1].upper())],
]


def _choices(
    first: str, second: str, key: str, values: tuple[Any, Any, Any], prompt: str = "prompt"
) -> bytes:
    """Records of two answers: of the first record the first is better, of the second the second; a tie."""
    return lines(
        [
            {prompt: ASKED[n], first: TEXTS[n], second: TEXTS[n].upper(), key: values[n]}
            for n in range(3 if values[2] is not None else 2)
        ]
    )


DIALOGS = {
    "lists of messages": TalkFile(
        "a.jsonl", lines([[message("user", a), message("assistant", b)] for a, b in both()]), talks_of_pairs()
    ),
    "an array of lists of messages": TalkFile(
        "a.json", whole([[message("user", a), message("assistant", b)] for a, b in both()]), talks_of_pairs()
    ),
    "lists of ShareGPT's messages": TalkFile(
        "a.jsonl",
        lines([[{"from": "human", "value": a}, {"from": "gpt", "value": b}] for a, b in both()]),
        talks_of_pairs(),
    ),
    "one conversation": TalkFile("a.json", whole([message(who, said) for who, said in NAMED[0]]), [NAMED[0]]),
    "one conversation, on lines": TalkFile(
        "a.jsonl", lines([message(who, said) for who, said in NAMED[0]]), [NAMED[0]]
    ),
    "lists of speakers": TalkFile("a.jsonl", lines(_dialogs(("A", "B"), "speaker", "text")), NAMED),
    "speakers": TalkFile(
        "a.jsonl", lines(_below("dialogue", _dialogs(("A", "B"), "speaker", "text"))), NAMED
    ),
    "speakers by number": TalkFile(
        "a.jsonl",
        lines(_below("turns", _dialogs((0, 1), "speaker_id", "utterance"))),
        NAMED,  # type: ignore[arg-type]
    ),
    "MultiWOZ": TalkFile(
        "a.json", whole(_below("turns", _dialogs(("USER", "SYSTEM"), "speaker", "utterance"))), NAMED
    ),
    "support chats": TalkFile(
        "a.jsonl", lines(_below("messages", _dialogs(("Customer", "Agent"), "author", "body"))), NAMED
    ),
    "agents by number": TalkFile(
        "a.jsonl", lines(_below("content", _dialogs(("agent_1", "agent_2"), "agent", "message"))), NAMED
    ),
    "one dialog": TalkFile(
        "a.json", whole({"title": "x", "dialog": _dialogs(("A", "B"), "speaker", "text")[0]}), NAMED[:1]
    ),
    "the agent speaks first": TalkFile(
        "a.jsonl",
        lines(
            _below(
                "dialog",
                [
                    [{"speaker": "agent", "text": "Hi!"}, *d]
                    for d in _dialogs(("client", "agent"), "speaker", "text")
                ],
            )
        ),
        [[("assistant", "Hi!"), *talk] for talk in NAMED],
    ),
    "MOSS": TalkFile("moss.jsonl", lines(MOSS), talks_of_pairs(("system", "You are MOSS."))),
    "MOSS 003": TalkFile(
        "moss.jsonl",
        lines(
            [{"conversation_id": 1, "conversation": [{"human": a, "assistant": b}] * 2} for a, b in both()]
        ),
        [[*talk, *talk] for talk in talks_of_pairs()],
    ),
    "MOSS as text": TalkFile(
        "moss.jsonl",
        lines([{"plain_text": f"[Human]: {a}<eoh> [MOSS]: {b}<eoa> ", "num_turns": 1} for a, b in both()]),
        talks_of_pairs(),
    ),
    "users and bots as text": TalkFile(
        "a.jsonl", lines([{"id": 1, "log": f"User: {a}\nBot: {b}\n"} for a, b in both()]), talks_of_pairs()
    ),
    "Open Assistant, messages": TalkFile(
        "oasst.jsonl",
        lines(
            [
                {
                    "message_id": f"{kind}{n}",
                    "parent_id": parent and f"{parent}{n}",
                    "text": text,
                    "role": role,
                }
                for n, (a, b) in enumerate(both())
                for kind, parent, text, role in (
                    ("a", None, a, "prompter"),
                    ("b", "a", b, "assistant"),
                    ("c", "b", "And nobody answered?", "prompter"),
                )
            ]
        ),
        talks_of_pairs(),
    ),
    "Open Assistant, ranked": TalkFile(
        "o.jsonl",
        lines(
            [
                {
                    "prompt": {
                        "text": a,
                        "role": "prompter",
                        "replies": [
                            {"text": "worse", "role": "assistant", "rank": 1, "replies": []},
                            {"text": b, "role": "assistant", "rank": 0, "replies": []},
                        ],
                    }
                }
                for a, b in both()
            ]
        ),
        talks_of_pairs(),
    ),
    "Glaive": TalkFile(
        "glaive.json",
        whole(
            [
                {"system": "Be kind.", "chat": f"USER: {a}\n\n\nASSISTANT: {b} <|endoftext|>\n\n\n"}
                for a, b in both()
            ]
        ),
        talks_of_pairs(("system", "Be kind.")),
    ),
    "MT-bench": TalkFile(
        "question.jsonl",
        lines([{"question_id": 1, "turns": [a, "And?"], "reference": [b, "So."]} for a, b in both()]),
        NAMED,
    ),
    "Nectar": TalkFile(
        "n.jsonl",
        lines(
            [
                {"prompt": a, "answers": [{"answer": "no", "rank": 2.0}, {"answer": b, "rank": 1.0}]}
                for a, b in both()
            ]
        ),
        talks_of_pairs(),
    ),
    "HumanEval": TalkFile(
        "h.jsonl",
        lines([{"task_id": "1", "prompt": a, "canonical_solution": b, "test": "x"} for a, b in both()]),
        talks_of_pairs(),
    ),
    "Chatbot Arena": TalkFile("arena.jsonl", lines(ARENA), CHOSEN),
    "Chatbot Arena, a table": TalkFile(
        "arena.jsonl",
        lines(
            [
                {
                    "prompt": ASKED[n],
                    "response_a": TEXTS[n],
                    "response_b": TEXTS[n].upper(),
                    **{
                        f"winner_{who}": int(n == place)
                        for place, who in enumerate(("model_a", "model_b", "tie"))
                    },
                }
                for n in range(3)
            ]
        ),
        CHOSEN,
    ),
    "SafeRLHF": TalkFile(
        "a.jsonl", _choices("response_0", "response_1", "better_response_id", (0, 1, None)), CHOSEN
    ),
    "SHP": TalkFile(
        "a.jsonl", _choices("human_ref_A", "human_ref_B", "labels", (1, 0, None), "history"), CHOSEN
    ),
    "HelpSteer": TalkFile(
        "a.jsonl", _choices("response1", "response2", "overall_preference", (-2, 1, 0), "context"), CHOSEN
    ),
    "WebGPT": TalkFile(
        "a.jsonl",
        lines(
            [
                {
                    "question": {"dataset": "eli5", "full_text": ASKED[n]},
                    "answer_0": TEXTS[n],
                    "score_0": (1.0, -0.5, 0.0)[n],
                    "answer_1": TEXTS[n].upper(),
                    "score_1": (-1.0, 0.5, 0.0)[n],
                }
                for n in range(3)
            ]
        ),
        CHOSEN,
    ),
    "UltraFeedback with scores": TalkFile(
        "u.jsonl",
        lines(
            [
                {
                    "instruction": a,
                    "completions": [
                        {"model": "m", "response": "no", "overall_score": 2.0},
                        {"model": "n", "response": b, "overall_score": 8.5},
                    ],
                }
                for a, b in both()
            ]
        ),
        talks_of_pairs(),
    ),
}
