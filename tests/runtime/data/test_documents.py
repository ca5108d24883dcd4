"""Documents: what one is, chunks of a long one, and Problems of those that cannot be read."""

import gzip
import json
from pathlib import Path

import pytest

from planner import Problem
from runtime.data.corpus import find_corpus
from runtime.data.documents import CHUNK_CHARACTERS, TextReader, read_chunks
from runtime.data.survey import Survey, survey_corpus
from runtime.data.tokenizer import train_tokenizer
from tests.support.data_strategies import words


def read(*files: Path) -> list[str]:
    """All documents, each joined from its chunks."""
    documents = [""]
    for source in find_corpus(tuple(map(str, files))).sources:
        for chunk in read_chunks(source, "text"):
            assert not isinstance(chunk, Problem), chunk
            documents[-1] += chunk.text
            if chunk.ends_document:
                documents.append("")
    assert documents.pop() == ""
    return documents


def survey(*paths: Path) -> Survey:
    return survey_corpus(find_corpus(tuple(map(str, paths))).sources, TextReader(field="text"))


def write(file: Path, content: bytes | str) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    "text", ["", "a", "\r\nline\r\n", "日本語 ✓ 🎉 é", "a\u2028b", "<|endoftext|>"], ids=repr
)
def test_text_is_read_unchanged(tmp_path: Path, text: str) -> None:
    assert read(write(tmp_path / "a.txt", text)) == [text]


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", b"\xef\xbb\xbfhello")) == ["hello"]


def test_character_across_two_blocks_is_read_as_one(tmp_path: Path) -> None:
    text = "x" * ((1 << 20) - 1) + "日本"
    assert read(write(tmp_path / "a.txt", text)) == [text]


@pytest.mark.parametrize(
    "unit", ["word and more\n", "no line break at all ", "密", "\n", " ", "\r\n"], ids=repr
)
def test_huge_document_comes_in_chunks_and_is_the_same(tmp_path: Path, unit: str) -> None:
    text = unit * (5 * CHUNK_CHARACTERS // 2 // len(unit))
    file = write(tmp_path / "a.txt", text)
    chunks = list(read_chunks(find_corpus(str(file)).sources[0], "text"))
    assert len(chunks) == 3
    assert max(len(chunk.text) for chunk in chunks) <= CHUNK_CHARACTERS
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.ends_document for chunk in chunks] == [False, False, True]


def test_cuts_change_no_token(tmp_path: Path) -> None:
    text = words(60_000)
    coder = train_tokenizer([words(2000)], 400)
    (source,) = find_corpus(str(write(tmp_path / "a", text))).sources
    chunks = [chunk.text for chunk in read_chunks(source, "text")]
    assert len(chunks) == 2
    in_chunks = [token for chunk in chunks for token in coder.tokenizer.encode(chunk).ids]
    assert in_chunks == coder.tokenizer.encode(text).ids


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson"])
def test_each_line_of_jsonl_is_a_document(tmp_path: Path, name: str) -> None:
    lines = [json.dumps({"text": "one\ntwo", "id": 1}), "", '{"text": "日本"}', '{"text": ""}']
    content = ("\n".join(lines) + "\n").encode()
    assert read(write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)) == [
        "one\ntwo",
        "日本",
        "",
    ]


@pytest.mark.parametrize(
    ("line", "code", "found"),
    [
        ('{"text": "a"', "SW707", "not JSON"),
        ("[1]", "SW707", "a JSON list"),
        ('{"txt": "a", "n": 1}', "SW708", "no key 'text'; keys: txt, n"),
        ('{"text": 3}', "SW708", "'text' is of type int"),
        ('{"text": "é"}\n{"text": "ü"}\n'.encode() + b'{"text": "\xff"}', "SW707", "not JSON"),
    ],
)
def test_malformed_line_is_a_problem_with_its_number(
    tmp_path: Path, line: bytes | str, code: str, found: str
) -> None:
    content = (
        b'{"text": "a"}\n\n' + (line if isinstance(line, bytes) else line.encode()) + b'\n{"text": "b"}\n'
    )
    number = 5 if isinstance(line, bytes) else 3
    file = write(tmp_path / "a.jsonl", content)
    (problem,) = survey(file).problems
    assert (problem.code, problem.file, problem.line) == (code, str(file), number)
    assert problem.found.startswith(found)
    path = "data.path" if code == "SW707" else "data.text_field"
    assert str(problem).startswith(f"{file}:{number}: {code} {path}: ")


def test_reading_stops_after_twenty_problems(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / f"{number}.jsonl", '{"id": 1}\n' * 1000)
    problems = survey(tmp_path).problems
    assert [problem.code for problem in problems] == ["SW708"] * 20 + ["SW711"]
    assert all("1,000 of 1,000 records" in problem.found for problem in problems[:20])


def test_unpaired_surrogates_are_replaced_and_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "a\\ud800b\\udc00"}\n{"text": "\\ud83c\\udf89"}\n')
    assert read(file) == ["a\ufffdb\ufffd", "🎉"]
    assert survey(file).num_mended == 2


def test_truncated_gzip_is_a_problem(tmp_path: Path) -> None:
    content = gzip.compress(b'{"text": "a"}\n' * 1000)
    (problem,) = survey(write(tmp_path / "a.jsonl.gz", content[:-9])).problems
    assert problem.code == "SW709"


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for number, kind in enumerate((pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))):
        column = pa.array(["one", None, "日本"]).cast(kind)
        pq.write_table(pa.table({"id": [1, 2, 3], "text": column}), tmp_path / f"{number}.parquet")
        assert read(tmp_path / f"{number}.parquet") == ["one", "", "日本"]


def test_parquet_without_text_is_a_problem(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"content": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    write(tmp_path / "c.parquet", b"PAR1 and no more")
    found = [(problem.code, problem.found) for problem in survey(tmp_path).problems]
    assert found[0] == ("SW708", "no column 'text'; columns: content, n")
    assert found[1] == ("SW708", "'text' is of type int, not a string")
    assert found[2][0] == "SW709"


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (problem,) = survey(write(tmp_path / "a.parquet", b"PAR1")).problems
    assert problem.code == "SW703"
    assert ".[parquet]" in problem.fix


def test_arrow_stream_rows_are_documents(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from runtime.data.corpus import Source

    table = pa.table({"text": ["one", "two"]})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as stream:
        stream.write_table(table)
    chunks = read_chunks(Source(file=tmp_path / "a.arrow", is_named=True), "text")
    assert [chunk.text for chunk in chunks] == ["one", "two"]


@pytest.mark.parametrize("content", [b"a\0b", b"\xff\xfe\x41", b"ok" * 1_000_000 + b"\xc3"])
def test_binary_file_is_skipped_in_a_folder_but_a_problem_when_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "good.txt", "good" * 1_000_000)
    bad = write(tmp_path / "bad.txt", content)
    in_folder = survey(tmp_path)
    assert [source.file.name for source in in_folder.sources] == ["good.txt"]
    assert len(in_folder.skipped) == 1
    assert not in_folder.problems
    assert in_folder.num_bytes == 4_000_000
    (problem,) = survey(bad).problems
    assert problem.code == ("SW728" if b"\xc3" in content else "SW706")


def test_survey_counts_documents_and_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "é")
    write(tmp_path / "b.txt", "")
    write(tmp_path / "c.jsonl", '{"text": "xyz"}\n{"text": ""}\n')
    found = survey(tmp_path)
    assert (found.num_documents, found.num_empty, found.num_bytes) == (2, 2, 5)
