"""Files as people have them: each is read, or its fix, followed word for word, leads to what is meant."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from planner import Problem, Strategy
from runtime.data.conversations import MESSAGES
from runtime.data.corpus import Corpus, find_corpus, find_mix
from runtime.data.documents import TextReader, read_chunks
from runtime.data.messages import extract_conversation
from runtime.data.records import Record, read_records
from runtime.data.survey import survey_corpus
from tests.support.data_strategies import make_strategy
from tests.support.dialog_files import DIALOGS
from tests.support.document_files import DOCUMENT_FILES
from tests.support.fixes import follow_data_fix
from tests.support.people_files import CSV_FORMS, JSON_FORMS, NESTED, RECORDS, TEXTS, TextFile, lines
from tests.support.talk_files import TALKS, TalkFile


def corpus_of(strategy: Strategy) -> Corpus:
    if strategy.data.mix is None:
        return find_corpus(strategy.data.path)
    parts = strategy.data.mix
    return find_mix([part.path for part in parts], [part.weight for part in parts])


def faults(corpus: Corpus, field: str = "text") -> tuple[Problem, ...]:
    return (*corpus.problems, *survey_corpus(corpus.sources, TextReader(field=field)).problems)


def documents(strategy: Strategy) -> list[str]:
    """What the strategy trains."""
    corpus, field = corpus_of(strategy), strategy.data.text_field
    survey = survey_corpus(corpus.sources, TextReader(field=field))
    assert (*corpus.problems, *survey.problems) == ()
    found = [""]
    for source in survey.sources:
        for chunk in read_chunks(source, field):
            assert not isinstance(chunk, Problem), chunk
            found[-1] += chunk.text
            if chunk.ends_document:
                found.append("")
    return found[:-1]


def followed(root: Path, path: object) -> Strategy:
    """The strategy after the only fix was followed."""
    (problem,) = faults(corpus_of(make_strategy(root, path)))
    overrides = follow_data_fix(problem.fix)
    is_named = any(each.startswith("data.path=") for each in overrides)
    return make_strategy(root, None if is_named else path, "data.tokenizer=tok", *overrides)


FILES = {**NESTED, **JSON_FORMS, **CSV_FORMS, **DOCUMENT_FILES}


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", FILES)
def test_text_is_read_or_its_fix_leads_to_it(
    tmp_path: Path, kind: str, compress: Callable[[bytes], bytes]
) -> None:
    file: TextFile = FILES[kind]
    if "comma in each object" in kind:
        pytest.importorskip("json5")
    path = tmp_path / file.name
    path.write_bytes(compress(file.content))
    strategy = make_strategy(tmp_path, path) if file.is_read else followed(tmp_path, path)
    assert documents(strategy) == list(file.texts)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("-a.json", NESTED["SQuAD"].content),
        ("--b.json.gz", gzip.compress(NESTED["SQuAD"].content)),
        ("-c.txt", TEXTS[3].encode("cp1252")),
        ("-d.txt", b"zero\0" + TEXTS[3].encode()),
        ("-e.sql", DOCUMENT_FILES["SQLite"].content),
    ],
)
def test_name_that_begins_with_a_dash_is_no_option_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    assert documents(followed(tmp_path, name))[-1] in (TEXTS[3], f"zero{TEXTS[3]}")


def test_dashes_of_a_folders_files_are_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-data").mkdir()
    for number in range(2):
        (tmp_path / "-data" / f"-{number}.json").write_bytes(NESTED["SQuAD"].content)
    assert documents(followed(tmp_path, "-data")) == [*TEXTS] * 2


CONVERSATIONS = {**TALKS, **DIALOGS}


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_fix_of_conversations_leads_to_them(tmp_path: Path, kind: str) -> None:
    file: TalkFile = CONVERSATIONS[kind]
    path = tmp_path / f"my {file.name}"
    path.write_bytes(file.content)
    assert talks_of(followed(tmp_path, path)) == [list(talk) for talk in file.talks]


def talks_of(strategy: Strategy) -> list[list[tuple[str, str]]]:
    """Who says what in the conversations that the strategy trains."""
    data = strategy.data
    assert data.format != "text"
    field = MESSAGES if data.text_field == "text" else data.text_field
    survey = survey_corpus(corpus_of(strategy).sources, TextReader(field=field))
    found = []
    for source in survey.sources:
        assert source.form is not None
        for record in read_records(source, source.form):
            assert isinstance(record, Record), record
            talk = extract_conversation(record.value, data.format, field)
            assert talk.first_answer < len(talk.messages)
            found.append([(message["role"], message["content"]) for message in talk.messages])
    return found


def test_fix_keeps_the_other_files(tmp_path: Path) -> None:
    """Of a list, of a folder, and of a folder with more files than an override can list."""
    nested = NESTED["a version above the data"]
    for num_others in (1, 30):
        folder = tmp_path / str(num_others)
        folder.mkdir()
        for number in range(num_others):
            (folder / f"{number:02}.txt").write_text(f"text {number}")
        (folder / "nested.json").write_bytes(nested.content)
        texts = [f"text {number}" for number in range(num_others)]
        alone = tmp_path / f"alone{num_others}.txt"
        alone.write_text("alone")
        strategy = followed(tmp_path, [str(alone), str(folder)])
        assert sorted(documents(strategy)) == sorted(["alone", *texts, *nested.texts])


def test_fix_keeps_the_parts_of_a_mix(tmp_path: Path) -> None:
    nested = NESTED["a version above the data"]
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"text {name}")
    (tmp_path / "nested.json").write_bytes(nested.content)
    parts = [
        {"path": f"{tmp_path}/a", "weight": 3},
        {"path": [f"{tmp_path}/b", f"{tmp_path}/nested.json"], "weight": 1},
    ]
    strategy = make_strategy(tmp_path, None, f"data.mix={json.dumps(parts)}")
    (problem,) = faults(corpus_of(strategy))
    assert problem.path == "data.text_field"
    strategy = make_strategy(tmp_path, None, *follow_data_fix(problem.fix))
    assert strategy.data.mix is not None
    assert [part.weight for part in strategy.data.mix] == [3, 1]
    assert documents(strategy) == ["text a", "text b", *nested.texts]


def test_nested_records_in_a_folder_are_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words " * 500)
    (tmp_path / "b.json").write_bytes(NESTED["the datasets server"].content)
    (tmp_path / "package.json").write_text(
        '{"name": "x", "files": ["a", "b"], "scripts": {"x": "y", "z": "w"}}'
    )
    (problem,) = faults(find_corpus(str(tmp_path)))
    assert (problem.code, Path(str(problem.file)).name) == ("SW708", "b.json")


def test_settings_with_pairs_and_descriptions_are_skipped_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words " * 500)
    parameters = [{"target": "Ids", "source": "identifier", "description": TEXTS[0]}] * 3
    (tmp_path / "b.json").write_text(json.dumps({"resources": {"params": parameters}}))
    assert documents(make_strategy(tmp_path, tmp_path / "a.txt")) == ["words " * 500]
    assert faults(find_corpus(str(tmp_path))) == ()


@pytest.mark.parametrize("num_shards", [3, 40])
def test_shards_with_one_mistake_are_one_problem_whose_fix_converts_all(
    tmp_path: Path, num_shards: int
) -> None:
    folder = tmp_path / "my shards"
    folder.mkdir()
    (folder / "note.txt").write_text("a note")
    for number in range(num_shards):
        (folder / f"{number:02}.json").write_bytes(NESTED["SQuAD"].content)
    (problem,) = faults(find_corpus(str(folder)))
    assert f"and in {num_shards - 1} other files" in problem.found
    assert sorted(documents(followed(tmp_path, folder))) == sorted([*TEXTS * num_shards, "a note"])


def test_records_with_their_text_under_another_key_are_kept(tmp_path: Path) -> None:
    records = [*RECORDS, *({"id": 1, "content": text} for text in TEXTS[:2])]
    (tmp_path / "a.jsonl").write_bytes(lines(records))
    assert documents(followed(tmp_path, tmp_path / "a.jsonl")) == [*TEXTS, *TEXTS[:2]]


def test_records_without_any_text_are_left_out_by_the_fix(tmp_path: Path) -> None:
    """As in Elasticsearch's bulk format: a line that says where to, before each document."""
    bulk = [line for record in RECORDS for line in ({"index": {"_id": 1}}, record)]
    (tmp_path / "bulk.jsonl").write_bytes(lines(bulk))
    assert documents(followed(tmp_path, tmp_path / "bulk.jsonl")) == list(TEXTS)


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_texts_that_a_table_marks_as_bytes_are_read(tmp_path: Path, kind: str) -> None:
    """As Impala, Hive and older Spark write them."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    encoded = [text.encode() for text in TEXTS]
    parquet.write_table(pa.table({"text": pa.array(encoded, getattr(pa, kind)())}), tmp_path / "a.parquet")
    assert documents(make_strategy(tmp_path, tmp_path / "a.parquet")) == list(TEXTS)
    table = pa.table({"question": pa.array([b"Who?"] * 4), "answer": pa.array(encoded)})
    parquet.write_table(table, tmp_path / "b.parquet")
    expected = [[("user", "Who?"), ("assistant", text)] for text in TEXTS]
    assert talks_of(followed(tmp_path, tmp_path / "b.parquet")) == expected


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"text": pa.array([b"\xff\xd8\xff\xe0"])}), tmp_path / "a.parquet")
    (problem,) = faults(find_corpus(str(tmp_path / "a.parquet")))
    assert problem.code == "SW708"


def test_records_that_are_mostly_empty_are_left_out_by_the_fix(tmp_path: Path) -> None:
    records = [{"id": 0, "text": ""}, {"id": 1, "text": None}, *RECORDS, *[{"id": 2, "text": ""}] * 3]
    (tmp_path / "a.jsonl").write_bytes(lines(records))
    assert documents(followed(tmp_path, tmp_path / "a.jsonl")) == list(TEXTS)


def test_key_is_suggested_beside_lines_that_are_no_records(tmp_path: Path) -> None:
    """The fix of a key that all records lack is not to remove them all."""
    (tmp_path / "a.jsonl").write_bytes(lines(RECORDS).replace(b'"text"', b'"body"') + b'{"body": "torn')
    absent, torn = sorted(faults(find_corpus(str(tmp_path / "a.jsonl"))), key=lambda each: each.line or 0)
    assert (absent.line, torn.line) == (1, 5)
    assert follow_data_fix(absent.fix) == ("data.text_field=body",)


@pytest.mark.parametrize("written", ["body", "meta.body"])
def test_records_that_lack_the_suggested_key_are_left_out_by_the_fix(tmp_path: Path, written: str) -> None:
    """A fix is one for the line that it is printed for, also if that line lacks what most lines have."""
    outer, _, inner = written.rpartition(".")
    records = [{outer: {inner: text}, "id": 1} if outer else {inner: text, "id": 1} for text in TEXTS]
    (tmp_path / "a.jsonl").write_bytes(lines([{"bo\x1edy": "odd"}, *records, {outer or "note": 3}]))
    (problem,) = faults(find_corpus(str(tmp_path / "a.jsonl")))
    assert problem.line == 1
    overrides = follow_data_fix(problem.fix)
    assert overrides[0] == f"data.text_field={written}"
    assert documents(make_strategy(tmp_path, None, *overrides)) == list(TEXTS)


def test_a_few_long_records_do_not_decide_which_key_is_suggested(tmp_path: Path) -> None:
    records = [{"body": text} for text in TEXTS]
    (tmp_path / "a.jsonl").write_bytes(lines([*records, {"log": "a long log " * 100}]))
    (problem,) = faults(find_corpus(str(tmp_path / "a.jsonl")))
    assert documents(make_strategy(tmp_path, None, *follow_data_fix(problem.fix))) == list(TEXTS)


def test_lines_that_are_no_records_and_records_without_the_key_are_corrected_by_hand(tmp_path: Path) -> None:
    """No command is printed that would end at the torn line."""
    (tmp_path / "a.jsonl").write_bytes(
        lines([{"odd": 1}, *[{"body": text} for text in TEXTS]]) + b'{"body": "torn'
    )
    absent, torn = sorted(faults(find_corpus(str(tmp_path / "a.jsonl"))), key=lambda each: each.line or 0)
    assert (absent.line, torn.line) == (1, 6)
    assert absent.fix.startswith("correct or remove the records without body and write data.text_field=body;")
