"""Files in other forms and encodings: told as what they are, and the printed command mends them."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from runtime.data.corpus import find_corpus
from runtime.data.documents import TextReader
from runtime.data.encoding import guess_encoding
from runtime.data.form import judge_form
from runtime.data.survey import survey_corpus
from tests.runtime.data.test_forms import only_problem, read, write, zstd
from tests.support.fixes import run_fix

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


LANGUAGES = {
    "cp1252": "Le café était fermé. Où est la bibliothèque ?",
    "cp1251": "Привет, как дела? Это простой текст.",
    "koi8-r": "Привет, как дела? Это простой текст.",
    "gb18030": "这是一个测试文本,用于检测编码。",
    "big5": "這是一個測試文本,用於檢測編碼。",
    "cp932": "これはテストです。文字コードを調べます。",
    "euc-jp": "これはテストです。文字コードを調べます。",
    "cp949": "이것은 시험입니다. 글자를 확인합니다.",
    "utf-16-le": "Grüße an alle",
    "utf-16-be": "Grüße an alle",
    "utf-32-le": "Grüße an alle",
}


@pytest.mark.parametrize("encoding", LANGUAGES)
def test_encoding_is_known_by_its_bytes(encoding: str) -> None:
    assert guess_encoding((LANGUAGES[encoding] + "\n").encode(encoding) * 3) == encoding


@pytest.mark.parametrize("encoding", LANGUAGES)
@pytest.mark.parametrize(
    "form", ["{}\n", 'id,text\n1,"{}"\n2,plain\n', '{{"text": "{}"}}\n{{"text": "plain"}}\n']
)
def test_text_in_another_encoding_is_converted_by_the_fix(tmp_path: Path, encoding: str, form: str) -> None:
    content = form.format(LANGUAGES[encoding])
    problem = only_problem(write(tmp_path / "my text.dat", content.encode(encoding)))
    assert problem.code == "SW728"
    expected = write(tmp_path / "expected", content)
    assert read(run_fix(problem.fix)) == read(expected)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_compressed_text_in_another_encoding_is_converted_by_the_fix(
    tmp_path: Path, compress: type[bytes]
) -> None:
    problem = only_problem(write(tmp_path / "a.txt.z", compress("Grüße\n".encode("cp1252"))))
    assert read(run_fix(problem.fix)) == ["Grüße\n"]


def test_damaged_bytes_in_utf8_are_not_another_encoding(tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "schön {number}"}}\n' for number in range(5)).encode()
    problem = only_problem(write(tmp_path / "a", lines + b'{"text": "sch\xf6n"}\n'))
    assert (problem.code, problem.line) == ("SW707", 6)
    assert (
        "although most of the text is"
        in only_problem(write(tmp_path / "b", "schön\n".encode() * 3 + b"\xf6")).found
    )


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
