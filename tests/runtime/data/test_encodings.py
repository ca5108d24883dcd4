"""Text that is not UTF-8, and bytes that are no text: told as what they are, and mended by the fix."""

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from runtime.data.encoding import guess_encoding
from tests.runtime.data.test_forms import only_problem, read, write, zstd
from tests.support.fixes import run_fix

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


@pytest.mark.parametrize(
    "text",
    [
        "L'été est arrivé.\n",
        "été\n",
        "Elle a posé le thé sur la cheminée.\n" * 3,
        "Señor\nniño\n",
        "Müßiggang über Äcker, Öl.\n",
    ],
)
def test_a_few_accents_are_no_cyrillic(text: str) -> None:
    assert guess_encoding(text.encode("latin-1")) == "cp1252"


def test_letters_that_say_too_little_are_shown_in_both_alphabets(tmp_path: Path) -> None:
    problem = only_problem(write(tmp_path / "a", "é\nà\n".encode("latin-1") * 3))
    assert "it looks like CP1252, which reads 'é', or like CP1251, which reads 'й'" in problem.found
    assert "with -f CP1251 if that is right" in problem.fix
    assert read(run_fix(problem.fix)) == ["é\nà\n" * 3]
    # A Russian word has more letters than these.
    assert guess_encoding("Привет\n".encode("cp1251")) == "cp1251"


def token_ids(dtype: str, vocab_size: int = 50_257) -> bytes:
    """Ids by Zipf's law, of which the most frequent ones are small, as those of a BPE are."""
    generator = np.random.default_rng(0)
    return (generator.zipf(1.3, 20_000) % vocab_size).astype(dtype).tobytes()


@pytest.mark.parametrize("content", [token_ids("<u2"), token_ids("<u4", 128_000), token_ids("<u2", 65)])
@pytest.mark.parametrize("name", ["train.bin", "corpus_text_document.bin", "train"])
def test_token_ids_are_named_and_are_no_utf16(tmp_path: Path, name: str, content: bytes) -> None:
    problem = only_problem(write(tmp_path / name, content))
    assert problem.code == "SW706"
    assert "as token ids are stored" in problem.found
    assert problem.fix.startswith("write the text that it was made from")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [*LANGUAGES.values(), "Ελληνικά και English, ёж.\n", "“Ünïcode” – 5 € ✓\n"])
def test_utf16_of_every_language_is_no_token_ids(tmp_path: Path, encoding: str, text: str) -> None:
    content = f"One line. {text}\n\n" * 9
    problem = only_problem(write(tmp_path / "a.txt", content.encode(encoding)))
    assert read(run_fix(problem.fix)) == [content]


def test_lzma_of_before_xz_is_read(tmp_path: Path) -> None:
    content = lzma.compress(b'{"text": "a"}\n{"text": "b"}\n', format=lzma.FORMAT_ALONE)
    assert read(write(tmp_path / "a.lzma", content)) == ["a", "b"]
    latin = lzma.compress("Grüße\n".encode("cp1252"), format=lzma.FORMAT_ALONE)
    assert read(run_fix(only_problem(write(tmp_path / "b.txt.lzma", latin)).fix)) == ["Grüße\n"]


def test_damaged_bytes_in_utf8_are_not_another_encoding(tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "schön {number}"}}\n' for number in range(5)).encode()
    problem = only_problem(write(tmp_path / "a", lines + b'{"text": "sch\xf6n"}\n'))
    assert (problem.code, problem.line) == ("SW707", 6)
    assert (
        "although most of the text is"
        in only_problem(write(tmp_path / "b", "schön\n".encode() * 3 + b"\xf6")).found
    )


@pytest.mark.parametrize("text", ["It cost £5.\n", "20° in the shade\n", "© 2020 by us\n", "a · b – c\n"])
def test_a_symbol_in_a_text_of_ascii_is_of_cp1252(tmp_path: Path, text: str) -> None:
    problem = only_problem(write(tmp_path / "a.txt", text.encode("cp1252")))
    assert "it looks like CP1252" in problem.found
    assert read(run_fix(problem.fix)) == [text]
