"""Conversations as text and tokens: which of them are answers."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from runtime.data.chat_template import (
    CannotRender,
    ChatTemplate,
    Rendered,
    conversation_tokenizer,
    encode_rendered,
    load_chat_template,
)
from runtime.data.tokenizer import TokenizerUnusable, load_tokenizer
from tests.support.chat_tokenizers import CHATML, CHATML_MARKED, PLAIN, THOUGHTS, save_chat_tokenizer

TALK = [
    {"role": "user", "content": "abc dé"},
    {"role": "assistant", "content": "fgh  ij\n\n"},
    {"role": "user", "content": "cab"},
    {"role": "assistant", "content": "jig <b>"},
]
CONVERSATIONS = {
    "two turns": TALK,
    "system": [{"role": "system", "content": "be brief"}, *TALK],
    "no answer": TALK[:1],
    "ends with a question": TALK[:3],
    "assistant first": TALK[1:],
    "empty answer": [TALK[0], {"role": "assistant", "content": ""}],
    "repeated text": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}],
}


SPECIAL_TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>"}


def template_of(source: str) -> ChatTemplate:
    return ChatTemplate(
        source=source, special_tokens={"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>"}
    )


def answers(source: str, messages: list, first_answer: int = 0) -> list[str]:
    rendered = template_of(source).render(messages, first_answer)
    return [rendered.text[start:stop] for start, stop in rendered.spans]


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_answers_without_marks_are_those_of_the_marked_template(messages: list) -> None:
    marked, plain = template_of(CHATML_MARKED).render(messages), template_of(CHATML).render(messages)
    assert marked.text == plain.text
    assert marked.spans == plain.spans


def test_answer_reaches_from_the_generation_prompt_to_the_end_of_its_message() -> None:
    assert answers(CHATML, TALK) == ["fgh  ij\n\n<|im_end|>\n", "jig <b><|im_end|>\n"]
    assert answers(CHATML, TALK, 2) == answers(CHATML_MARKED, TALK, 2) == ["jig <b><|im_end|>\n"]


def test_answer_without_a_generation_prompt_begins_with_its_content() -> None:
    assert answers(PLAIN, TALK) == ["fgh  ij\n\n<|endoftext|> ", "jig <b><|endoftext|> "]
    same = CONVERSATIONS["repeated text"]
    assert template_of(PLAIN).render(same).text == "<|im_start|>user: a assistant: a<|endoftext|> "
    assert answers(PLAIN, same) == ["a<|endoftext|> "]  # not the a of "assistant"


def test_answer_ends_before_a_special_token_that_begins_as_the_end_of_the_conversation_does() -> None:
    """As in Phi-3: eos_token ends the conversation, so the first answer is followed by <|user|> instead."""
    phi = (
        "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    )
    assert answers(phi, TALK) == ["fgh  ij\n\n<|end|>\n", "jig <b><|end|>\n<|endoftext|>"]


def test_added_token_that_only_begins_in_an_answer_is_not_of_it(tmp_path: Path) -> None:
    folder = save_chat_tokenizer(tmp_path, CHATML)
    tokenizer = conversation_tokenizer(load_tokenizer(folder))
    text = "<|im_start|>ab<|im_end|><|im_start|>c"
    spans = ((len("<|im_start|>"), text.rindex("<|im_start|>") + 1),)
    ((ids, is_answer),) = encode_rendered(tokenizer, [Rendered(text=text, spans=spans)])
    tokens = [tokenizer.id_to_token(number) for number in ids]
    assert [token for token, is_one in zip(tokens, is_answer, strict=True) if is_one][-1] == "<|im_end|>"
    assert sum(is_answer) == len(ids) - 3  # without both <|im_start|> and c


def test_answer_that_looks_otherwise_when_others_follow_is_found_in_the_conversation() -> None:
    assert template_of(THOUGHTS).render(TALK).text == (
        "<|im_start|>user\nabc dé<|im_end|>\n<|im_start|>assistant\nfgh  ij<|im_end|>\n"
        "<|im_start|>user\ncab<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\njig <b><|im_end|>\n"
    )
    # The last answer begins after the generation prompt, with its thought.
    last = "<think>\n\n</think>\n\njig <b><|im_end|>\n"
    assert answers(THOUGHTS, TALK) == ["fgh  ij<|im_end|>\n", last]
    numbered = "{% for m in messages %}{{ messages | length }}. {{ m.content }}{% endfor %}"
    assert answers(numbered, TALK) == ["fgh  ij\n\n", "jig <b>"]
    at_the_end = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '</s>' if loop.last else '|' }}{% endfor %}"
    )
    assert answers(at_the_end, TALK) == ["fgh  ij\n\n", "jig <b></s>"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nothing.at_all }}", "UndefinedError"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "no sign of where message 2 begins"),
        ("{% for m in messages %}{{ m.role }} {% endfor %}", "no sign of where"),
    ],
)
def test_template_that_cannot_be_used_says_why(source: str, why: str) -> None:
    with pytest.raises(CannotRender, match=why):
        template_of(source).render(TALK)


@pytest.mark.parametrize("source", [CHATML, CHATML_MARKED])
def test_tokens_and_mask_are_those_of_transformers(tmp_path: Path, source: str) -> None:
    """Its `return_assistant_tokens_mask`, of the marked template."""
    from transformers import PreTrainedTokenizerFast

    folder = save_chat_tokenizer(tmp_path, source)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    conversations = list(CONVERSATIONS.values())
    template = load_chat_template(folder)
    found = encode_rendered(
        conversation_tokenizer(load_tokenizer(folder)),
        [template.render(messages) for messages in conversations],
    )
    for messages, (ids, is_answer) in zip(conversations, found, strict=True):
        expected = theirs.apply_chat_template(
            messages,
            chat_template=CHATML_MARKED,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert ids == expected["input_ids"]
        assert [int(x) for x in is_answer] == expected["assistant_masks"]


def test_token_that_is_partly_an_answer_is_one() -> None:
    """A token of two characters, of which the second is the answer's first."""

    vocabulary = {"a": 7, "bc": 8, "d": 9, "b": 1, "c": 2}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("b", "c")]))
    found = encode_rendered(tokenizer, [Rendered(text="abcd", spans=((2, 3),))])
    assert found == [([7, 8, 9], [False, True, False])]


@pytest.mark.parametrize("where", ["jinja", "config", "named", "beside tokenizer.json"])
def test_template_is_found_beside_the_tokenizer(tmp_path: Path, where: str) -> None:
    folder = save_chat_tokenizer(tmp_path, PLAIN if where != "jinja" else "of the configuration")
    if where == "jinja":
        (folder / "chat_template.jinja").write_text(PLAIN)
    if where == "named":
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = [
            {"name": "tool_use", "template": "x"},
            {"name": "default", "template": PLAIN},
        ]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = load_chat_template(folder / "tokenizer.json" if where.startswith("beside") else folder)
    assert template.source == PLAIN
    assert template.special_tokens == SPECIAL_TOKENS


def test_hash_follows_the_template_and_its_tokens() -> None:
    one = template_of(PLAIN)
    assert one.hash == template_of(PLAIN).hash
    assert len({one.hash, template_of(CHATML).hash, ChatTemplate(source=PLAIN, special_tokens={}).hash}) == 3


@pytest.mark.parametrize("damage", ["none", "empty", "torn"])
def test_tokenizer_without_a_template_is_a_problem(tmp_path: Path, damage: str) -> None:
    folder = save_chat_tokenizer(tmp_path, None)
    if damage == "empty":
        (folder / "chat_template.jinja").write_text(" \n")
    if damage == "torn":
        (folder / "tokenizer_config.json").write_text('{"chat_template": "{{')
    with pytest.raises(TokenizerUnusable) as caught:
        load_chat_template(folder)
    problem = caught.value.problem
    assert (problem.code, problem.path) == ("SW741", "data.tokenizer")
    assert str(folder) in str(problem.found)
