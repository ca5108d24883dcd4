"""Forms of data files: judged by content, and what is read from each."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from planner import Problem
from runtime.data.corpus import find_corpus
from runtime.data.documents import TextReader, read_chunks
from runtime.data.form import Form, NotText, judge_form
from runtime.data.messages import extract_conversation
from runtime.data.survey import survey_corpus
from tests.support.fixes import run_fix

# A quote, a delimiter, a line break and two alphabets: what forms differ in.
TEXTS = ['he said "no", then;\tleft', "two\nlines", "日本語 é", "plain words and more of them"]


def read(path: Path, field: str = "text") -> list[str]:
    documents = [""]
    for source in find_corpus(str(path)).sources:
        for chunk in read_chunks(source, field):
            assert not isinstance(chunk, Problem), chunk
            documents[-1] += chunk.text
            if chunk.ends_document:
                documents.append("")
    assert documents.pop() == ""
    return documents


def problems(path: Path, field: str = "text") -> tuple[Problem, ...]:
    return survey_corpus(find_corpus(str(path)).sources, TextReader(field=field)).problems


def only_problem(path: Path, field: str = "text") -> Problem:
    (problem,) = problems(path, field)
    return problem


def write(file: Path, content: bytes | str) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def records(key: str = "text") -> list[dict[str, object]]:
    return [{"id": number, key: text} for number, text in enumerate(TEXTS)]


def json_array(key: str = "text") -> bytes:
    return json.dumps(records(key), indent=1, ensure_ascii=False).encode()


def json_lines(key: str = "text") -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records(key)).encode()


def json_objects(key: str = "text") -> bytes:
    return "\n".join(json.dumps(record, indent=2) for record in records(key)).encode()


def delimited(key: str = "text", delimiter: str = ",", newline: str = "\n") -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=newline)
    writer.writerows([["id", key], *([record["id"], record[key]] for record in records(key))])
    return stream.getvalue().encode()


def parquet(key: str = "text") -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records(key)), stream, row_group_size=3)
    return stream.getvalue()


def arrow(key: str = "text", writer: str = "new_stream") -> bytes:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(records(key))
    sink = pa.BufferOutputStream()
    with getattr(pa.ipc, writer)(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=3)
    return bytes(sink.getvalue())


WRITERS: dict[str, Callable[[str], bytes]] = {
    "JSON": json_array,
    "JSON lines": json_lines,
    "JSON objects": json_objects,
    "CSV": delimited,
    "CSV with semicolons": lambda key: delimited(key, ";"),
    "CSV from Windows": lambda key: delimited(key, newline="\r\n"),
    "TSV": lambda key: delimited(key, "\t"),
    "Parquet": parquet,
    "Arrow stream": arrow,
    "Arrow file": lambda key: arrow(key, "new_file"),
}


def zstd(content: bytes) -> bytes:
    pa = pytest.importorskip("pyarrow")
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


COMPRESSORS = {"gzip": gzip.compress, "zstd": zstd, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("name", ["data", "data.txt", "data.json", "data.csv", "data.parquet"])
@pytest.mark.parametrize("form", WRITERS)
def test_form_is_judged_by_content_under_any_name(tmp_path: Path, form: str, name: str) -> None:
    assert read(write(tmp_path / name, WRITERS[form]("text"))) == TEXTS


@pytest.mark.parametrize("form", WRITERS)
def test_text_field_names_the_key_in_every_form(tmp_path: Path, form: str) -> None:
    assert read(write(tmp_path / "a", WRITERS[form]("content")), "content") == TEXTS


@pytest.mark.parametrize("form", WRITERS)
def test_other_key_is_one_problem_that_names_the_keys_and_the_fix_works(tmp_path: Path, form: str) -> None:
    file = write(tmp_path / "a", WRITERS[form]("content"))
    problem = only_problem(file)
    assert (problem.code, problem.path, problem.file) == ("SW708", "data.text_field", str(file))
    assert ": id, content" in problem.found
    assert problem.fix.startswith("write data.text_field=content,")
    assert read(file, "content") == TEXTS


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("form", ["JSON", "JSON lines", "CSV", "TSV"])
def test_compressed_files_are_read_as_their_content(tmp_path: Path, form: str, compression: str) -> None:
    content = COMPRESSORS[compression](WRITERS[form]("text"))
    assert read(write(tmp_path / "a.txt", content)) == TEXTS


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_compressed_prose_is_one_document(tmp_path: Path, compression: str) -> None:
    assert read(write(tmp_path / "a", COMPRESSORS[compression]("one\ntwo é\n".encode()))) == ["one\ntwo é\n"]


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_torn_compressed_file_is_a_problem(tmp_path: Path, compression: str) -> None:
    content = COMPRESSORS[compression](json_lines() * 50)
    assert only_problem(write(tmp_path / "a", content[: len(content) * 2 // 3])).code == "SW709"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("form", ["JSON", "JSON lines", "JSON objects", "CSV", "TSV"])
def test_byte_order_mark_tells_the_encoding(tmp_path: Path, form: str, encoding: str) -> None:
    content = WRITERS[form]("text").decode().encode(encoding)
    assert read(write(tmp_path / "a", content)) == TEXTS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_prose_with_a_byte_order_mark_is_read_without_it(tmp_path: Path, encoding: str) -> None:
    assert read(write(tmp_path / "a.txt", "Grüße\r\n日本\n".encode(encoding))) == ["Grüße\r\n日本\n"]


def test_texts_in_an_array_are_documents(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a", json.dumps(TEXTS))) == TEXTS
    assert read(write(tmp_path / "b", "\n".join(map(json.dumps, TEXTS)))) == TEXTS


def test_dotted_field_is_a_key_inside_or_of_that_name(tmp_path: Path) -> None:
    lines = [{"doc": {"body": {"text": "deep"}}}, {"doc": {"body": None}}, {"doc.body.text": "named so"}]
    file = write(tmp_path / "a", "\n".join(map(json.dumps, lines)))
    assert read(file, "doc.body.text") == ["deep", "", "named so"]
    file = write(tmp_path / "b", json.dumps(lines[:1]))
    assert only_problem(file).fix.startswith("write data.text_field=doc.body.text,")


def test_dotted_field_reads_a_struct_column(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"id": [1], "doc": [{"body": "deep", "n": 2}]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "doc.body") == ["deep"]


def test_null_means_an_empty_document_in_every_form(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"id": 1, "text": "one"}, {"id": 2, "text": None}, {"id": 3, "text": "three"}]
    write(tmp_path / "array", json.dumps(rows, indent=1))
    write(tmp_path / "lines", "\n".join(map(json.dumps, rows)))
    write(tmp_path / "csv", "id,text\n1,one\n2,\n3,three\n")
    write(tmp_path / "quoted", 'id,text\n1,"one"\n2,""\n3,"three"\n')
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet")
    for name in ("array", "lines", "csv", "quoted", "parquet"):
        assert read(tmp_path / name) == ["one", "", "three"], name
        survey = survey_corpus(find_corpus(str(tmp_path / name)).sources, TextReader(field="text"))
        assert (survey.num_documents, survey.num_empty, survey.problems) == (2, 1, ()), name


def test_spaces_after_commas_are_none_of_a_tables_fields(tmp_path: Path) -> None:
    table = 'id, text\n1, one\n2, "two, too"\n3, three\n'
    assert read(write(tmp_path / "table", table)) == ["one", "two, too", "three"]
    # Prose has such commas too; only a header that names the column makes a table of it.
    prose = "Alas, poor\nYorick, friend\nOf, jest\n"
    assert read(write(tmp_path / "prose", prose)) == [prose]


@pytest.mark.parametrize(
    "table",
    [
        "label, review\n" + "".join(f'{("pos", "neg")[n % 2]}, "Film {n}, and dull"\n' for n in range(12)),
        "id, note\n" + "".join(f"{n}, a note with number {n}\n" for n in range(12)),
        "note, mark\n" + "".join(f"a note with number {n}, {n % 3}.5\n" for n in range(12)),
    ],
)
def test_table_with_spaces_after_commas_names_its_columns(tmp_path: Path, table: str) -> None:
    problem = only_problem(write(tmp_path / "a.csv", table))
    column = next(name for name in ("review", "note") if name in table)
    assert problem.code == "SW708"
    assert column in problem.fix
    (source,) = find_corpus(str(tmp_path / "a.csv")).sources
    texts = [item.text for item in TextReader(field=column).read(source)]
    assert len(texts) == 12
    assert "number 3" in texts[3] or texts[3] == "Film 3, and dull"


@pytest.mark.parametrize(
    "prose",
    [
        "red, green\n" + "roses are red, violets are blue\n" * 12,
        "dogs, cats\n" + "".join(f"animal {n}, another {7 * n} one\n" for n in range(20)),
        "".join(f"He went to town {n}, and she stayed at home.\n" for n in range(20)),
        "one, two\n" + "three, four\n" * 20,
    ],
)
def test_lines_with_spaces_after_commas_stay_text(tmp_path: Path, prose: str) -> None:
    assert read(write(tmp_path / "a", prose)) == [prose]


def test_more_nulls_than_texts_is_a_problem_whose_fix_works(tmp_path: Path) -> None:
    rows = [{"input": "", "output": text} for text in TEXTS]
    for name, content in {
        "array": json.dumps(rows),
        "csv": "input,output\n" + "".join(f',"{number} words"\n' for number in range(4)),
    }.items():
        problem = only_problem(write(tmp_path / name, content), "input")
        assert (problem.code, problem.path) == ("SW722", "data.text_field")
        assert "4 of 4 records" in problem.found
        assert problem.fix.startswith("write data.text_field=output,")


@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
def test_conversations_are_pointed_to_the_chat_format(tmp_path: Path, keys: tuple[str, str]) -> None:
    who, what = keys
    rows = [
        {"id": "long enough to be text", "turns": [{who: "user", what: "hi"}, {who: "gpt", what: "yes"}]}
    ] * 3
    problem = only_problem(write(tmp_path / "a", "\n".join(map(json.dumps, rows))))
    assert problem.code == "SW708"
    assert problem.fix.startswith("write data.text_field=turns data.format=chat and a data.tokenizer")
    conversation = extract_conversation(rows[0], "chat", "turns")
    assert [message["role"] for message in conversation.messages] == [
        "user",
        "assistant" if what == "value" else "gpt",
    ]


def test_fix_quotes_a_key_for_the_shell(tmp_path: Path) -> None:
    problem = only_problem(write(tmp_path / "a", '{"Review Text": "long"}\n{"Review Text": "longer"}\n'))
    assert problem.fix.startswith("write 'data.text_field=Review Text',")


def test_saved_dataset_is_its_data_files_in_their_order(tmp_path: Path) -> None:
    names = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    (tmp_path / names[0]).write_bytes(arrow())
    (tmp_path / names[1]).write_bytes(arrow().replace(b"plain", b"other"))
    (tmp_path / "cache-1.arrow").write_bytes(arrow())  # what a map() of the dataset left
    write(tmp_path / "state.json", json.dumps({"_data_files": [{"filename": name} for name in names]}))
    write(tmp_path / "dataset_info.json", json.dumps({"features": {}, "description": "x"}))
    assert read(tmp_path) == [*TEXTS, *TEXTS[:3], TEXTS[3].replace("plain", "other")]


def test_saved_splits_are_read_as_the_train_split(tmp_path: Path) -> None:
    for split in ("test", "train"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "data.arrow").write_bytes(arrow().replace(b"plain", split[:5].encode().ljust(5)))
        write(tmp_path / split / "state.json", json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
        write(tmp_path / split / "dataset_info.json", "{}")
    write(tmp_path / "dataset_dict.json", json.dumps({"splits": ["test", "train"]}))
    assert read(tmp_path) == [*TEXTS[:3], TEXTS[3].replace("plain", "train")]


@pytest.mark.parametrize(
    "prose",
    [
        "[1] A reference, and more.\n[2] Another one, longer.\n",
        "[ ] to do, soon\n[x] done\n",
        "[section]\nkey = value\n",
        "{% extends 'base.html' %}\n{{ name }}\n",
        "a { color: red; }\nb { color: blue; }\n",
        "Roses are red, violets are blue\nSugar is sweet, and so are you\nThe sky is grey, the sea is too\n",
        "Dear John,\n\nthank you, and goodbye.\n",
        "import os, sys\n\nx, y = 1, 2\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n",
        "<|im_start|>user\nWho was it?<|im_end|>\n<|im_start|>assistant\nNobody.<|im_end|>\n" * 4,
        "\tindented\twith tabs\n\tand\tso on\n",
        '"Hello," he said.\n"Yes," she said.\n',
        "text\nwith a heading, and a list:\none, two, three\n",
        "2024-01-01 10:00:00,123 INFO started\n2024-01-01 10:00:01,456 INFO stopped, late\n",
    ],
)
def test_prose_and_code_are_text(tmp_path: Path, prose: str) -> None:
    assert judge_form(write(tmp_path / "a.json", prose), "text").kind == "text"
    assert read(tmp_path / "a.json") == [prose]


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        ('[{"text": "a"}, {"text": "b"', 1, "ends inside"),
        ('[\n{"text": "a"},\n{"text": "b"}\n', 4, "ends before"),
        ('[{"text": "a"}\n{"text": "b"}]', 2, "in place of"),
        ('[{"text": "a"}] and more', 1, "after the array's end"),
        ('{"text": "a"}\n{"text": "b', 2, "not JSON"),
        ('id,text\n1,"a"\n2,"b', 3, "not CSV"),
        ("id,text\n1,a\n2,b,c\n3,d\n", 3, "3 fields in a table of 2 columns"),
        ('id,text\n1,"a\nb"\n2,"c" d\n', 4, "not CSV"),
        ('[{"text": ' + "[" * 100_000, 1, "nested too deeply"),
        ('[\n {null\n  "text": "a",\n  "id": 1\n },\n {\n  "text": "b"\n }\n]\n', 2, "not JSON"),
        ('{{\n  "text": "a",\n  "id": 1\n}\n', 1, "not JSON"),
    ],
)
def test_torn_file_is_a_problem_with_its_line(tmp_path: Path, content: str, line: int, found: str) -> None:
    problem = only_problem(write(tmp_path / "a", content))
    assert (problem.code, problem.line) == ("SW707", line)
    assert found in problem.found


def test_each_kind_of_mistake_is_reported_once(tmp_path: Path) -> None:
    lines = ['{"text": "a"}'] * 9 + ["{", "}", '{"text": 1}', '{"text": 2}', '{"txt": "b"}', '{"txt": "c"}']
    found = problems(write(tmp_path / "a", "\n".join(lines)))
    assert [(problem.code, problem.line) for problem in found] == [
        ("SW707", 10),
        ("SW708", 12),
        ("SW708", 14),
    ]
    assert all("2 of 15 records" in problem.found for problem in found)


def test_table_without_names_is_a_problem(tmp_path: Path) -> None:
    for content in ("1,first words\n2,second words\n3,third words\n", "0.5, 1\n0.6, 2\n0.7, 3\n"):
        problem = only_problem(write(tmp_path / "a.csv", content))
        assert problem.code == "SW708"
        assert "without names" in problem.found


def test_column_named_as_the_field_is_a_table_of_one_column(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a", 'text\n"one, two"\nthree\n')) == ["one, two", "three"]


def test_tsv_without_quoting_keeps_its_quotes(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a", 'id\ttext\n1\t"No" he said\n2\tplain\n')) == ['"No" he said', "plain"]


def test_field_longer_than_the_first_block_is_one_document(tmp_path: Path) -> None:
    long = "words, and\nmore " * 40_000
    for name, content in {
        "csv": f'id,text\n1,"{long}"\n2,b\n',
        "lines": json.dumps({"text": long}) + '\n{"text": "b"}\n',
        "array": json.dumps([{"text": long}, {"text": "b"}]),
    }.items():
        assert read(write(tmp_path / name, content)) == [*read(write(tmp_path / "long", long)), "b"], name


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"a\0b", "zero byte at offset 1"),
        (b"\x80\x04\x95\0", "a pickle of Python"),
        (b"RIFF\0\0\0\0WAVEfmt ", "a WAV recording"),
        (b"SQLite format 3\0", "an SQLite database"),
        (gzip.compress(b"\0binary"), "zero byte at offset 0"),
        (b"\xff\xfea", "not UTF-16"),
    ],
)
def test_what_is_not_text_is_told_by_its_kind(tmp_path: Path, content: bytes, reason: str) -> None:
    problem = only_problem(write(tmp_path / "a.txt", content))
    assert problem.code == "SW706"
    assert reason in problem.found


def test_compressed_parquet_is_told_to_be_decompressed(tmp_path: Path) -> None:
    packed = write(tmp_path / "a.parquet.gz", gzip.compress(parquet()))
    with pytest.raises(NotText, match="Parquet compressed as a file") as told:
        judge_form(packed, "text")
    assert read(run_fix(told.value.fix)) == TEXTS


def test_file_of_settings_in_a_folder_is_skipped_but_named_it_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "words " * 20)
    settings = write(tmp_path / "package.json", '{\n "name": "x",\n "version": "1"\n}\n')
    survey = survey_corpus(find_corpus(str(tmp_path)).sources, TextReader(field="text"))
    assert [source.file.name for source in survey.sources] == ["a.txt"]
    assert survey.skipped[0].startswith(str(settings))
    assert only_problem(settings).code == "SW708"


@pytest.mark.parametrize(("num_texts", "num_bytes"), [(1, 100), (3, 100_000)])
def test_skipping_the_larger_part_is_an_error_whose_fix_works(
    tmp_path: Path, num_texts: int, num_bytes: int
) -> None:
    """More files than are read, or more bytes."""
    for number in range(2):
        write(tmp_path / f"{number}.png", b"\x89PNG" + b"\0" * num_bytes)
    for number in range(num_texts):
        write(tmp_path / f"{number}.md", "words " * 100)
    problem = only_problem(tmp_path)
    assert problem.code == "SW723"
    assert f"2 of {2 + num_texts} files" in problem.found
    assert problem.fix.endswith(f"data.path=[{tmp_path}/*.md]")
    assert read_glob(f"{tmp_path}/*.md") == num_texts


def read_glob(pattern: str) -> int:
    survey = survey_corpus(find_corpus(pattern).sources, TextReader(field="text"))
    assert not survey.problems
    return survey.num_documents


def test_empty_files_are_no_text_and_no_error(tmp_path: Path) -> None:
    for name in ("a", "b.json", "c.csv"):
        assert read(write(tmp_path / name, "")) == [""]
    assert read(write(tmp_path / "d", "[]")) == []
    assert read(write(tmp_path / "e", "id,text\n")) == []


def test_form_is_named_for_people() -> None:
    assert str(Form(kind="json lines", compression="zstd")) == "JSON lines in zstd"
