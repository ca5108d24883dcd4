"""Files in other forms and encodings: told as what they are, and the printed command mends them."""

import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from runtime.data.corpus import find_corpus
from runtime.data.documents import TextReader
from runtime.data.form import judge_form
from runtime.data.survey import survey_corpus
from tests.runtime.data.test_forms import only_problem, read, write, zstd
from tests.support.document_files import DOCUMENT_FILES
from tests.support.fixes import run_fix
from tests.support.fuzz import within

WORDS = ["first, words", 'it\'s "more"', "Grüße"]


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("# made in 2024\n# by hand\nid,text\n1,one\n2,two\n", ["one", "two"]),
        ("#id,text\n1,one\n2,two\n3,three\n4,four\n", ["one", "two", "three", "four"]),
        ("id|text\n1|one\n2|two\n", ["one", "two"]),
        ("id:text\n1:one\n2:two\n", ["one", "two"]),
        ("id\x01text\n1\x01one\n2\x01two\n", ["one", "two"]),
        ("sep=;\nid;text\n1;one\n2;two\n", ["one", "two"]),
        ("sep=,\r\nid,text\r\n1,one\r\n", ["one"]),
        ('"text"\n"one"\n"two"\n', ["one", "two"]),
    ],
)
def test_table_is_read_below_comments_and_with_any_delimiter(
    tmp_path: Path, content: str, documents: list[str]
) -> None:
    assert read(write(tmp_path / "a.csv", content)) == documents


def test_row_below_comments_is_named_by_its_line(tmp_path: Path) -> None:
    problem = only_problem(write(tmp_path / "a.csv", "# note\n# note\nid,text\n1,one\n2,two,three\n"))
    assert (problem.code, problem.line) == ("SW707", 5)


def test_quoted_column_of_another_name_is_not_a_document(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", '"content"\n"one more"\n"two, three"\n"and four"\n')
    problem = only_problem(file)
    assert problem.fix.startswith("write data.text_field=content,")
    assert read(file, "content") == ["one more", "two, three", "and four"]


@pytest.mark.parametrize(
    "text",
    [
        "# Ingredients\neggs,milk\nsugar,salt\n",
        "# a script\nuse strict;\nuse warnings;\nuse Cwd;\n",
        "BEGIN;\nCOMMIT;\nBEGIN;\nROLLBACK;\n",
        "# note\ntext: one\n",
        "text: one\nmore: two\nlast: three\n",
        "text:one\n",
        "host:localhost\nport:80\nuser:me\n",
        "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1:bin:/bin:/bin/false\nsys:x:3:3:sys:/dev:/bin/false\n",
        "#%PAM-1.0\nauth\tsufficient\ta.so\nsession\toptional\tb.so\nsession\trequired\tc.so\n",
        "a.py:1:2: error: no\nb.py:3:4: error: yes\nc.py:5:6: note: so\n",
        "---\ntitle: A page\ndate: 2024\n---\n\n# Heading\n\nwords\n",
        "- first: a point, and more\n- second: another\n",
        "- hosts: all\n  tasks:\n    - name: x\n",
        "{ config, pkgs, ... }:\n{\n  a = 1;\n}\n",
        "{\n  int a = 1;\n  return a;\n}\n",
        "{% if a %}\n{{ b }}\n{% endif %}\n",
        'CONFIG = [{"a": 1}]\nprint(CONFIG)\n',
        'module.exports = [{"a": f(1)}];\n',
        "# Settings of a program.\n#port = 1\n#host = a\n\n# Others.\n#user = me\n",
        "#include <a.h>\n#include <b.h>\n#include <c.h>\n#include <d.h>\n#define A\n",
        "CREATE TABLE a (b text);\nCREATE TRIGGER c BEFORE INSERT ON a EXECUTE PROCEDURE d (b);\n"
        "INSERT INTO a VALUES ('one');\nINSERT INTO a VALUES ('two');\nINSERT INTO a VALUES ('three');\n"
        "SELECT b, length(b), upper(b) FROM a WHERE b IS NOT NULL ORDER BY b;\n",
        "[link]: http://a.b\n[other]: http://c.d\n[third]: http://e.f\n",
    ],
)
def test_code_settings_and_prose_stay_text(tmp_path: Path, text: str) -> None:
    assert judge_form(write(tmp_path / "a", text), "text").kind == "text"


RECORDS = {
    "Python literals": "".join(f"{{'text': {text!r}, 'n': None}}\n" for text in WORDS),
    "a list of Python": repr([{"text": text} for text in WORDS]),
    "YAML records": "".join(f"- text: {text!r}\n  id: 1\n" for text in ("a, b", "c: d", "Grüße")),
    "JSON5, an object on each line": "{text: 'first, words'}\n"
    '{text: \'it\\\'s "more"\'}\n{text: "Grüße",}\n',
    "JSON5": "// note\n[\n  {\n    text: 'first, words',\n    id: 1,\n  },\n"
    "  {\n    text: 'it\\'s \"more\"',\n  },\n  {\n    'text': 'Grüße',\n  },\n]\n",
    "JSON5, an object on each line, between brackets": "[\n{text: 'first, words'},\n"
    '{text: \'it\\\'s "more"\'},\n{text: "Grüße",}\n]\n',
    "an array of JSON inside JavaScript": "window.part0 = "
    + json.dumps([{"text": text} for text in WORDS])
    + ";\n",
    "an array of JSON inside JavaScript, by lines": "callback([\n"
    + ",\n".join(json.dumps({"text": text}) for text in WORDS)
    + "\n]);",
    "an array of JSON inside JavaScript, indented": "export default "
    + json.dumps([{"text": text} for text in WORDS], indent=2),
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize("name", RECORDS)
def test_records_in_a_form_that_is_not_read_are_converted_by_the_fix(
    tmp_path: Path, name: str, compress: type[bytes]
) -> None:
    if "JSON5" in name:
        pytest.importorskip("json5")
    problem = only_problem(write(tmp_path / "a file", compress(RECORDS[name].encode())))
    assert problem.code == "SW727"
    assert problem.found.startswith(f"it looks like {name.partition(', b')[0].removesuffix(', indented')}")
    expected = ["a, b", "c: d", "Grüße"] if name == "YAML records" else WORDS
    assert read(run_fix(problem.fix)) == expected


def test_a_page_that_shows_the_marks_of_a_merge_is_text(tmp_path: Path) -> None:
    marks = "<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> branch\n"
    for text in (
        f"# Merges\n\n```\n{marks}```\n",
        "\n".join(f"    {line}" for line in marks.split("\n")),
        "Title\n=======\n\n>>>>>>> quoted\n<<<<<<< not\n",
    ):
        assert judge_form(write(tmp_path / "a.md", text), "text").kind == "text"


def test_dumps_in_a_folder_are_left_out_unless_they_are_most_of_it(tmp_path: Path) -> None:
    (tmp_path / "wiki").mkdir()
    dump = DOCUMENT_FILES["wikiextractor"]
    for number in range(2):
        write(tmp_path / "wiki" / f"wiki_0{number}", dump.content)
    source = write(tmp_path / "prose.txt", "words " * 500)
    survey = survey_corpus(find_corpus(str(tmp_path / "wiki")).sources, TextReader(field="text"))
    (problem,) = survey.problems
    assert "and in 1 other file of" in problem.found
    texts = [
        text for path in sorted(run_fix(problem.fix).parent.glob("*.converted.jsonl")) for text in read(path)
    ]
    assert texts == [*dump.texts] * 2
    write(tmp_path / "b.txt", "words " * 500)
    (tmp_path / "wiki" / "wiki_01").unlink()
    for converted in (tmp_path / "wiki").glob("*.jsonl"):
        converted.unlink()
    survey = survey_corpus(find_corpus(str(tmp_path)).sources, TextReader(field="text"))
    assert (survey.problems, len(survey.skipped)) == ((), 1)
    assert "documents between <doc> and </doc>" in survey.skipped[0]
    assert source.exists()


@pytest.mark.parametrize(
    "text",
    [
        "他来了,又走了。\n我们都知道,他不会回来。\n雨停了,天晴了。\n",
        "It rained,it poured.\nHe came,he saw.\nThey sang,we slept!\nWho knew,who cared?\n",
    ],
)
def test_prose_whose_commas_have_no_spaces_is_text(tmp_path: Path, text: str) -> None:
    assert judge_form(write(tmp_path / "a", text), "text").kind == "text"


def test_sources_of_the_standard_library_are_text() -> None:
    kinds = {source.file: judge_form(source.file, "text").kind for source in find_corpus(None).sources[::4]}
    assert {file for file, kind in kinds.items() if kind != "text"} == set()


def test_programs_in_sql_are_text(tmp_path: Path) -> None:
    """Dumps are rows: a program has them too, and more of other statements."""
    program = (
        "-- Adds the roles of a new project.\nCREATE TABLE roles (id int, name text);\n"
        "INSERT INTO roles (id, name) VALUES (1, 'owner'), (2, 'guest');\n"
        "CREATE FUNCTION is_owner(who int) RETURNS boolean AS $$\n  SELECT EXISTS (SELECT 1 FROM roles "
        "WHERE id = who AND name = 'owner');\n$$ LANGUAGE sql;\n"
    )
    assert judge_form(write(tmp_path / "a.sql", program), "text").kind == "text"


@pytest.mark.parametrize(
    "content",
    [
        '<?xml version="1.0"?>\n' + "<!-- a comment -->\n" * 9999 + "<stylesheet/>",
        "<!-- a comment -->\n" * 9999,
        "# a comment\n\n \n" * 9999 + "port = 1\n",
        ",".join(f"__label__{n}" for n in range(9999)),
        "<<<<<<< a\n" * 9999 + "=======\n" * 9999,
        "INSERT INTO a VALUES ('" + "(" * 99999,
        "INSERT INTO a (b) VALUES " + "('a', " * 9999,
        "<doc>\n" * 9999 + "\n" * 9999,
        "From a 1 Jan 10:00\n" + "A: b\n" * 9999,
        "word O" * 99999,
        "\\" * 99999 + '"',
    ],
    ids=lambda content: content[:12],
)
@pytest.mark.parametrize("name", ["a", "a.csv"])
def test_many_beginnings_without_an_end_are_judged_at_once(tmp_path: Path, name: str, content: str) -> None:
    with within(2):
        survey_corpus(find_corpus(str(write(tmp_path / name, content))).sources, TextReader(field="text"))


def test_archives_are_unpacked_by_the_fix(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "words")
    problem = only_problem(write(tmp_path / "a b.zip", stream.getvalue()))
    assert "a ZIP archive" in problem.found
    assert read(run_fix(problem.fix)) == ["words"]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as packed:
        packed.add(write(tmp_path / "words.txt", "words"), "words.txt")
    problem = only_problem(write(tmp_path / "c.tar.gz", stream.getvalue()))
    assert "a tar archive" in problem.found
    assert read(run_fix(problem.fix)) == ["words"]


def test_texts_of_a_database_are_written_by_the_fix(tmp_path: Path) -> None:
    file = tmp_path / "a b.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute('CREATE TABLE "my posts" (id int, kind text, "the body" text)')
        rows = [(number, "old", text) for number, text in enumerate([*WORDS, None])]
        database.executemany('INSERT INTO "my posts" VALUES (?, ?, ?)', rows)
        database.execute("CREATE TABLE other (a int)")
    problem = only_problem(file)
    assert "an SQLite database, whose texts are in column the body of table my posts" in problem.found
    assert read(run_fix(problem.fix)) == WORDS


def test_pickle_that_is_text_is_a_pickle(tmp_path: Path) -> None:
    for value in (WORDS, {"a": WORDS}, Path("a")):
        problem = only_problem(write(tmp_path / "a", pickle.dumps(value, protocol=0)))
        assert "a pickle of Python" in problem.found


def test_archive_is_unpacked_beside_what_has_its_name(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:bz2") as packed:
        packed.add(write(tmp_path / "words.txt", "words"), "words.txt")
    write(tmp_path / "a", "another file")
    assert read(run_fix(only_problem(write(tmp_path / "a.tar.bz2", stream.getvalue())).fix)) == ["words"]


def test_file_that_is_compressed_twice_is_decompressed_by_the_fix(tmp_path: Path) -> None:
    problem = only_problem(
        write(tmp_path / "a.gz.zst", zstd(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n')))
    )
    assert "gzip in zstd" in problem.found
    assert read(run_fix(problem.fix)) == ["a", "b"]


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n", b"\x80\x04\x95\0", b"\x7fELF", b"PK\x03\x04", b"\0\1\2\3"]
)
def test_what_is_no_text_is_not_told_to_be_converted_by_iconv(tmp_path: Path, content: bytes) -> None:
    problem = only_problem(write(tmp_path / "a", content))
    assert problem.code == "SW706"
    assert "iconv" not in problem.fix


def test_fault_of_every_line_is_the_files(tmp_path: Path) -> None:
    problem = only_problem(write(tmp_path / "a.jsonl", "[0, 1]\n[0, 2]\n[0, 3]\n"))
    assert problem.code == "SW707"
    assert "(3 of 3 records)" in problem.found
    assert "no line is a record" in problem.fix


def test_null_on_the_first_line_does_not_make_text_of_records(tmp_path: Path) -> None:
    problem = only_problem(write(tmp_path / "a.jsonl", 'null\n{"text": "one"}\n{"text": "two"}\n'))
    assert (problem.code, problem.line, problem.found) == ("SW707", 1, "null, not an object")


def test_records_without_text_name_their_keys_and_kinds(tmp_path: Path) -> None:
    line = '{"ids": [1, 2], "parts": [{"t": 0}], "n": null}\n'
    problem = only_problem(write(tmp_path / "a.jsonl", line * 3))
    assert "ids (a list of int), parts (a list of an object), n (null)" in problem.fix


def test_torn_file_in_another_encoding_is_a_problem(tmp_path: Path) -> None:
    content = gzip.compress("".join(f"{n},Grüße {n * 7919}\n" for n in range(9999)).encode("cp1252"))
    table = gzip.compress(b"id,text\n" + "".join(f"{n},é {n * 7919}\n" for n in range(9999)).encode("cp1252"))
    for name, each in {"a": content, "b": table}.items():
        assert only_problem(write(tmp_path / name, each[: len(each) // 2])).code in ("SW709", "SW728")


def test_file_that_was_deleted_since_is_told_as_that(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b"}\n')
    sources = find_corpus(str(file)).sources
    file.unlink()
    (problem,) = survey_corpus(sources, TextReader(field="text")).problems
    assert (problem.code, problem.found) == ("SW705", "cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("content", "line", "found", "fix"),
    [
        (
            '[{"text": "one"},\n{"text": "two"},\n]\n',
            2,
            "a comma after the last element",
            "remove that comma",
        ),
        ('[{"text": "one"},\n{"text": "two",}\n]\n', 2, None, "correct or remove the line"),
        (
            '[{"text": "one"},\n{"text": "tw',
            2,
            "the file ends inside this value",
            "correct or remove the line",
        ),
        (
            '[{"text": "one"},\n{"text": tr',
            2,
            "the file ends inside this value",
            "correct or remove the line",
        ),
        ('[{"text": "one"},\n{"te', 2, "the file ends inside this value", "correct or remove the line"),
        ('[{"text": "one"},\n', 2, "the file ends inside this value", "correct or remove the line"),
    ],
)
def test_comma_at_the_end_of_json_is_not_a_file_that_is_cut_off(
    tmp_path: Path, content: str, line: int, found: str | None, fix: str
) -> None:
    problem = only_problem(write(tmp_path / "a.json", content))
    assert (problem.code, problem.line, problem.fix) == ("SW707", line, fix)
    assert found in problem.found if found is not None else "ends" not in problem.found
