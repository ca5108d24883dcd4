"""Conversations from files to targets: what transformers gives in a loop is what the rows have."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Problem, StrategyError
from runtime.data import TokenData, open_data, prepare_data
from runtime.data.chat_template import CannotRender, ChatTemplate
from runtime.data.messages import NoConversation, extract_conversation
from tests.support.chat_tokenizers import CHATML, CHATML_MARKED, save_chat_tokenizer
from tests.support.data_strategies import make_strategy, words

VOCABULARY = 340


def talk(number: int) -> list[dict[str, Any]]:
    """One to three turns of made-up words."""
    parts = words(60, seed=number).split()
    messages = []
    for turn in range(1 + number % 3):
        start = turn * 12
        messages.append({"role": "user", "content": " ".join(parts[start : start + 2 + number % 4])})
        messages.append({"role": "assistant", "content": " ".join(parts[start + 6 : start + 8 + number % 3])})
    return messages


TALKS = [talk(number) for number in range(24)]


def write_lines(file: Path, records: list[Any]) -> Path:
    file.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return file


def opened(
    root: Path, file: Path, *overrides: str, format: str = "chat", template: str = CHATML
) -> TokenData:
    tokenizer = save_chat_tokenizer(root / "tok", template)
    strategy = make_strategy(
        root,
        file,
        f"data.format={format}",
        f"data.tokenizer={tokenizer}",
        f"model.vocab_size={VOCABULARY}",
        "data.validation_sequences=1",
        "training.global_batch=2",
        *overrides,
    )
    return open_data(strategy, entry=prepare_data(strategy))


def problems(root: Path, file: Path, *overrides: str, **how: str) -> tuple[Problem, ...]:
    with pytest.raises(StrategyError) as caught:
        opened(root, file, *overrides, **how)
    return caught.value.problems


def asked_by_transformers(root: Path, talks: list[list[dict[str, Any]]]) -> list[tuple[int, ...]]:
    """Of each conversation the targets, with the token before each: the marked template, a loop."""
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(root / "tok")
    found = []
    for messages in talks:
        out = theirs.apply_chat_template(
            messages,
            chat_template=CHATML_MARKED,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids = out["input_ids"]
        for place, is_answer in enumerate(out["assistant_masks"]):
            if is_answer:
                found.append((ids[place - 1], ids[place]))
    return sorted(found)


def asked(data: TokenData) -> list[tuple[int, ...]]:
    """All pairs of a token and the target after it, of one epoch and the validation."""
    rows = [data.train_rows(i) for i in range(-(-data.num_train_sequences // 2))]
    assert data.num_train_sequences % 2 == 0
    found = []
    for part in (*rows, data.validation_rows()):
        assert part.has_target_BS is not None
        for row, has_target in zip(part.tokens_BS1, part.has_target_BS, strict=True):
            found += [(int(row[t]), int(row[t + 1])) for t in np.flatnonzero(has_target)]
    return sorted(found)


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED], ids=["plain", "marked"])
def test_targets_are_the_answers_that_a_loop_finds(tmp_path: Path, template: str) -> None:
    file = write_lines(tmp_path / "talk.jsonl", [{"messages": messages, "id": 1} for messages in TALKS])
    data = opened(tmp_path, file, "data.packing=documents", "training.seq_length=400", template=template)
    assert data.packed is not None
    assert asked(data) == asked_by_transformers(tmp_path, TALKS)


def test_documents_begin_with_a_conversation(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "talk.jsonl", [{"messages": messages} for messages in TALKS])
    data = opened(tmp_path, file, "data.packing=documents", "training.seq_length=400")
    rows = data.train_rows(0)
    assert rows.positions_BS is not None
    starts = rows.tokens_BS1[:, :-1][rows.positions_BS == 0]
    (begin,) = set(starts.tolist()) - {0}  # padding begins with 0
    assert data.tokenizer().id_to_token(begin) == "<|im_start|>"


def test_stream_has_the_same_targets(tmp_path: Path) -> None:
    """Every token of the stream but the first and what is left at the end, in sequences of 8."""
    file = write_lines(tmp_path / "talk.jsonl", [{"messages": messages} for messages in TALKS])
    data = opened(tmp_path, file, "training.seq_length=8")
    expected = asked_by_transformers(tmp_path, TALKS)
    assert data.is_target is not None
    assert int(data.is_target.sum()) == len(expected)
    stream = data.tokens.tolist()
    pairs = sorted((stream[t - 1], stream[t]) for t in np.flatnonzero(data.is_target))
    assert pairs == expected
    rows = data.train_rows(3)
    assert rows.totals() == data.train_totals(3)
    assert rows.has_target_BS is not None
    start = data._train_places(3, slice(0, 1))[0]
    assert rows.has_target_BS[0].tolist() == data.is_target[start + 1 : start + 9].astype(bool).tolist()


def test_start_says_how_many_tokens_are_targets(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "talk.jsonl", [{"messages": messages} for messages in TALKS])
    data = opened(tmp_path, file)
    num = len(asked_by_transformers(tmp_path, TALKS))
    share = num / len(data.tokens)
    assert data.describe() == f"data: {share:.1%} of the tokens are targets ({num:,})"


def test_prompt_and_completion_are_a_question_and_its_answer(tmp_path: Path) -> None:
    records = [{"prompt": m[0]["content"], "completion": m[1]["content"]} for m in TALKS]
    file = write_lines(tmp_path / "pairs.jsonl", records)
    prompts = opened(tmp_path, file, "data.packing=documents", format="prompt")
    chats = write_lines(tmp_path / "talk.jsonl", [{"messages": messages[:2]} for messages in TALKS])
    as_chat = opened(tmp_path, chats, "data.packing=documents")
    assert np.array_equal(prompts.tokens, as_chat.tokens)
    assert prompts.is_target is not None
    assert np.array_equal(prompts.is_target, as_chat.is_target)


def test_answers_inside_a_prompt_are_no_targets(tmp_path: Path) -> None:
    long = [messages for messages in TALKS if len(messages) > 2]
    records = [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in long]
    data = opened(tmp_path, write_lines(tmp_path / "a.jsonl", records), format="prompt")
    whole = opened(tmp_path, write_lines(tmp_path / "b.jsonl", [{"messages": m} for m in long]))
    assert np.array_equal(data.tokens, whole.tokens)
    assert data.is_target is not None
    assert whole.is_target is not None
    assert 0 < data.is_target.sum() < whole.is_target.sum()
    assert np.all(data.is_target <= whole.is_target)


def test_csv_and_parquet_and_shared_conversations_are_the_same(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    expected = opened(tmp_path, write_lines(tmp_path / "a.jsonl", [{"messages": m} for m in TALKS])).tokens
    with (tmp_path / "b.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "messages"])
        table.writerows([number, json.dumps(messages)] for number, messages in enumerate(TALKS))
    assert np.array_equal(opened(tmp_path, tmp_path / "b.csv").tokens, expected)
    # In a table every message has every key that any has.
    with_name = [[{**m, "name": None} for m in messages] for messages in TALKS]
    pq.write_table(pa.table({"messages": with_name}), tmp_path / "c.parquet")
    assert np.array_equal(opened(tmp_path, tmp_path / "c.parquet").tokens, expected)
    roles = {"user": "human", "assistant": "gpt"}
    shared = [[{"from": roles[m["role"]], "value": m["content"]} for m in messages] for messages in TALKS]
    file = write_lines(tmp_path / "d.json", [{"conversations": messages} for messages in shared])
    assert np.array_equal(opened(tmp_path, file, "data.text_field=conversations").tokens, expected)


def test_template_and_format_are_part_of_the_cache_key(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "talk.jsonl", [{"messages": messages, "text": "a b"} for messages in TALKS])
    plain = opened(tmp_path, file)
    assert opened(tmp_path, file).folder == plain.folder
    assert opened(tmp_path, file, template=CHATML.replace("help", "assist")).folder != plain.folder


def test_records_of_another_kind_are_one_problem_that_names_their_keys(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "text.jsonl", [{"text": "a", "id": 1}] * 30)
    (problem,) = problems(tmp_path, file)
    assert (problem.code, problem.path, problem.line) == ("SW724", "data.format", 1)
    assert problem.found == "no key 'messages'; keys: text, id (30 of 30 records)"
    assert "data.format=text" in str(problem.fix)
    (problem,) = problems(tmp_path, file, format="prompt")
    assert problem.found == "no key 'prompt' or 'completion'; keys: text, id (30 of 30 records)"
    prose = tmp_path / "prose.txt"
    prose.write_text("Once upon a time.")
    (problem,) = problems(tmp_path, prose)
    assert (problem.code, problem.found) == ("SW724", "text, not records with 'messages'")


def test_every_kind_of_mistake_is_reported_once(tmp_path: Path) -> None:
    good = {"messages": TALKS[0]}
    records = [
        good,
        {"messages": "hello"},
        {"messages": []},
        {"messages": [{"content": "a"}]},
        {"messages": [{"role": "user"}]},
        {"messages": ["a"]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": 3}]},
        {"other": 1},
        {"messages": []},
    ]
    found = problems(tmp_path, write_lines(tmp_path / "talk.jsonl", records))
    assert [(p.code, p.line) for p in found] == [
        ("SW724", 2),
        ("SW724", 3),
        ("SW724", 4),
        ("SW724", 5),
        ("SW724", 6),
        ("SW724", 7),
        ("SW724", 8),
    ]
    assert found[1].found == "'messages' is an empty list, not a list of messages (2 of 9 records)"
    assert found[-1].fix == "correct or remove the record"


def test_conversations_without_an_answer_are_left_out_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [{"messages": messages} for messages in TALKS]
    questions = [{"messages": TALKS[0][:1]}] * 3
    data = opened(tmp_path, write_lines(tmp_path / "a.jsonl", records + questions))
    assert "SW725 conversations without an answer (3 of 27) were left out" in caplog.text
    plain = opened(tmp_path, write_lines(tmp_path / "b.jsonl", records))
    assert np.array_equal(data.tokens, plain.tokens)
    (problem,) = problems(tmp_path, write_lines(tmp_path / "c.jsonl", questions))
    assert (problem.code, problem.path) == ("SW726", "data.format")
    assert "3 of 3" in problem.found


def test_tokenizer_without_a_template_is_a_problem(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "talk.jsonl", [{"messages": messages} for messages in TALKS])
    tokenizer = save_chat_tokenizer(tmp_path / "bare", None)
    strategy = make_strategy(
        tmp_path,
        file,
        "data.format=chat",
        f"data.tokenizer={tokenizer}",
        f"model.vocab_size={VOCABULARY}",
    )
    with pytest.raises(StrategyError) as caught:
        prepare_data(strategy)
    assert [problem.code for problem in caught.value.problems] == ["SW741"]


def test_folder_without_a_tokenizer_is_told_once(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "talk.jsonl", [{"messages": messages} for messages in TALKS])
    (tmp_path / "empty").mkdir()
    strategy = make_strategy(tmp_path, file, "data.format=chat", f"data.tokenizer={tmp_path / 'empty'}")
    with pytest.raises(StrategyError) as caught:
        prepare_data(strategy)
    (problem,) = caught.value.problems
    assert (problem.code, problem.found) == ("SW732", f"{tmp_path / 'empty'} holds no file of a tokenizer")


def test_tools_reach_the_template() -> None:
    value = {"messages": [{"role": "user", "content": "a"}], "tools": '[{"name": "f"}]'}
    assert extract_conversation(value, "chat", "messages").tools == [{"name": "f"}]
    with pytest.raises(NoConversation, match="'tools' is a text that is not JSON"):
        extract_conversation({**value, "tools": "f"}, "chat", "messages")


KEYS = ("messages", "role", "content", "from", "value", "tools", "tool_calls", "prompt", "completion")
TEXTS = st.sampled_from(["", "user", "assistant", "a b", "[", "[1]"])


def records(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(KEYS), values, max_size=4)


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | records(inner),
    max_leaves=6,
)
MESSAGE = records(NESTED) | st.fixed_dictionaries({"from": NESTED, "value": NESTED})
MESSAGE |= st.fixed_dictionaries({"role": NESTED, "content": NESTED})
TALK = st.lists(MESSAGE, max_size=3)
ANY_RECORD = records(NESTED | TALK) | st.fixed_dictionaries(
    {"messages": TALK, "prompt": TALK | NESTED, "completion": TALK | NESTED}
)


@given(value=ANY_RECORD, format=st.sampled_from(["chat", "prompt"]))
def test_any_record_is_a_conversation_or_says_why_not(value: dict[str, Any], format: Any) -> None:
    template = ChatTemplate(source=CHATML, special_tokens={})
    try:
        conversation = extract_conversation(value, format, "messages")
        rendered = template.render(conversation.messages, conversation.first_answer, conversation.tools)
    except (NoConversation, CannotRender):
        return
    assert all(0 <= start <= stop <= len(rendered.text) for start, stop in rendered.spans)


def test_parts_of_text_are_their_text(tmp_path: Path) -> None:
    """As transformers' templates of text models take them."""

    def in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for message in messages:
            half = len(message["content"]) // 2
            halves = message["content"][:half], message["content"][half:]
            found.append({**message, "content": [{"type": "text", "text": text} for text in halves]})
        return found

    (tmp_path / "plain").mkdir()
    (tmp_path / "parts").mkdir()
    plain = write_lines(tmp_path / "plain.jsonl", [{"messages": talk} for talk in TALKS])
    parts = write_lines(tmp_path / "parts.jsonl", [{"messages": in_parts(talk)} for talk in TALKS])
    one, other = opened(tmp_path / "plain", plain), opened(tmp_path / "parts", parts)
    assert one.num_train_sequences == other.num_train_sequences > 0
    for i in range(one.num_train_sequences // 2):
        assert np.array_equal(one.train_rows(i).tokens_BS1, other.train_rows(i).tokens_BS1)


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"role": "assistant", "content": [{"type": "image", "url": "x"}]}, "a part that is not text: image"),
        ({"role": "assistant", "content": 3}, "the content of message 2 of 'messages' is"),
        ({"role": "assistant"}, "message 2 of 'messages' has no content"),
        ({"role": "assistant", "content": "a", "weight": 0.5}, "the weight of message 2 is 0.5, not 0 or 1"),
        (CALL, "message 2 calls tools, which the chat template does not write"),
    ],
)
def test_what_a_template_would_write_as_python_is_a_problem(
    message: dict[str, Any], found: str, tmp_path: Path
) -> None:
    record = {"messages": [{"role": "user", "content": "add"}, message]}
    file = write_lines(tmp_path / "chat.jsonl", [record])
    (problem,) = problems(tmp_path, file)
    assert found in problem.found


def test_nulls_are_left_out_with_a_count_as_in_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [{"messages": messages} for messages in TALKS]
    data = opened(tmp_path, write_lines(tmp_path / "a.jsonl", [*records, {"messages": None}]))
    assert "SW725 conversations without an answer (1 of 25) were left out" in caplog.text
    plain = opened(tmp_path, write_lines(tmp_path / "b.jsonl", records))
    assert np.array_equal(data.tokens, plain.tokens)


@pytest.mark.parametrize("completion", ["", " \n", None])
def test_empty_answers_are_left_out_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, completion: str | None
) -> None:
    records = [{"prompt": t[0]["content"], "completion": t[1]["content"]} for t in TALKS]
    empty = [{"prompt": "a", "completion": completion}]
    data = opened(tmp_path, write_lines(tmp_path / "a.jsonl", records + empty), format="prompt")
    assert "SW725 conversations without an answer (1 of 25) were left out" in caplog.text
    plain = opened(tmp_path, write_lines(tmp_path / "b.jsonl", records), format="prompt")
    assert np.array_equal(data.tokens, plain.tokens)


@pytest.mark.parametrize("source", [CHATML, CHATML_MARKED], ids=["plain", "marked"])
def test_answer_of_weight_0_has_no_loss(source: str) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "right", "weight": 1},
    ]
    talk = extract_conversation({"messages": messages}, "chat", "messages")
    template = ChatTemplate(source=source, special_tokens={})
    rendered = template.render(talk.messages, talk.first_answer, talk.tools, talk.left_out)
    (span,) = rendered.spans
    assert rendered.text[slice(*span)].startswith("right")
    assert "wrong" in rendered.text


def test_roles_that_were_found_are_named(tmp_path: Path) -> None:
    talks = [{"messages": [{"role": "Human", "content": "a"}, {"role": "Bot", "content": "b"}]}] * 3
    (problem,) = problems(tmp_path, write_lines(tmp_path / "a.jsonl", talks))
    assert (problem.code, problem.found.partition("; ")[2]) == ("SW726", "roles: Human, Bot")


def test_template_that_is_no_jinja_is_the_tokenizers_problem(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"messages": TALKS[0]}])
    (problem,) = problems(tmp_path, file, template=CHATML + "\n{% endif %}")
    assert (problem.code, problem.path) == ("SW741", "data.tokenizer")
    number = CHATML.count("\n") + 2
    assert f"in line {number} of chat_template of tokenizer_config.json" in problem.found


def test_template_that_fails_for_every_record_is_the_tokenizers_problem(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"messages": TALKS[0]}] * 3)
    (problem,) = problems(tmp_path, file, template="{{ raise_exception('never') }}")
    assert (problem.code, problem.path) == ("SW742", "data.tokenizer")
    assert "(3 of 3 records)" in problem.found


def test_conversations_of_another_key_are_read_by_the_fix(tmp_path: Path) -> None:
    shared = [[{"from": "human", "value": "a"}, {"from": "gpt", "value": words(9)}]] * 40
    file = write_lines(tmp_path / "a.jsonl", [{"id": 1, "talk": talk} for talk in shared])
    (problem,) = problems(tmp_path, file)
    assert problem.fix.startswith("write data.text_field=talk,")
    assert opened(tmp_path, file, "data.text_field=talk").num_train_sequences > 0
    (problem,) = problems(tmp_path, file, format="prompt")
    assert problem.fix.startswith("write data.text_field=talk data.format=chat,")


ANSWER = words(12).strip()


def test_a_call_without_content_is_a_message(tmp_path: Path) -> None:
    """As OpenAI exports calls of tools: no content, and a key of tools beside the messages."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    talk = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        {"role": "assistant", "content": ANSWER},
    ]
    file = write_lines(tmp_path / "a.jsonl", [{"messages": talk, "tools": []}] * 40)
    (problem,) = problems(tmp_path, file, format="text")
    assert problem.fix.startswith("write data.format=chat ")
    (problem,) = problems(tmp_path, file)
    assert problem.fix.startswith("choose a tokenizer whose chat template writes tool_calls")
