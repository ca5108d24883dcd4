"""Any content of a data file under any name: documents, or Problems, within seconds; never another error."""

import bz2
import gzip
import io
import json
import logging
import lzma
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from planner.problems import Problem
from runtime.data.corpus import find_corpus
from runtime.data.documents import TextReader, read_chunks
from runtime.data.survey import survey_corpus
from tests.support.fuzz import QUICK_AND_SLOW, cases, damaged, within

TEXTS = ["A first document.", "", "Zweites: é\n\nwith lines", None, 'quotes "and, commas"']
SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".md", "")


@cache
def whole_files() -> dict[str, bytes]:
    """One file of every form that is read."""
    records = [{"id": n, "text": text, "meta": {"n": [n]}} for n, text in enumerate(TEXTS)]
    lines = "\n".join(json.dumps(record) for record in records).encode()
    table = pa.table({"id": [r["id"] for r in records], "text": [r["text"] for r in records]})
    files = {
        "text": "One text.\n\nIts second paragraph, é.\n".encode() * 3,
        "utf-16": "One text.\n".encode("utf-16"),
        "json lines": lines,
        "json array": json.dumps(records, indent=1).encode(),
        "one object": json.dumps(records[0]).encode(),
        "csv": b'id,text\n1,"a, b"\n2,"two\nlines"\n3,plain\n',
        "tsv": b"id\ttext\n1\ta b\n2\tc\n",
    }
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    files["parquet"] = sink.getvalue()
    sink = io.BytesIO()
    feather.write_feather(table, sink)
    files["arrow file"] = sink.getvalue()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    files["arrow stream"] = sink.getvalue()
    zstd = pa.BufferOutputStream()
    with pa.CompressedOutputStream(zstd, "zstd") as stream:
        stream.write(lines)
    return files | {
        "gzip": gzip.compress(lines, mtime=0),
        "zstd": zstd.getvalue().to_pybytes(),
        "xz": lzma.compress(lines),
        "bzip2": bz2.compress(lines),
    }


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def survey(folder: Path, field: str) -> tuple[tuple[Problem, ...], int]:
    """The Problems of a folder's data, and the number of their documents."""
    corpus = find_corpus(str(folder))
    if corpus.problems:
        return corpus.problems, 0
    found = survey_corpus(corpus.sources, TextReader(field=field))
    if found.problems:
        return found.problems, 0
    chunks = [chunk for source in found.sources for chunk in read_chunks(source, field)]
    assert not any(isinstance(chunk, Problem) for chunk in chunks), "the second pass finds the same"
    num_documents = sum(not isinstance(chunk, Problem) and chunk.ends_document for chunk in chunks)
    assert num_documents == found.num_documents + found.num_empty
    return (), found.num_documents


@pytest.mark.parametrize("form", sorted(whole_files()))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whole_files_are_read_under_every_name(tmp_path: Path, form: str, suffix: str) -> None:
    (tmp_path / f"data{suffix}").write_bytes(whole_files()[form])
    problems, num_documents = survey(tmp_path, "text")
    assert problems == ()
    assert num_documents == {"text": 1, "utf-16": 1, "one object": 1, "tsv": 2}.get(form, 3)


@pytest.mark.parametrize("number", QUICK_AND_SLOW)
def test_any_file_is_read_or_a_problem(tmp_path: Path, number: int) -> None:
    contents = st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass")),
        st.sampled_from(sorted(whole_files())).flatmap(lambda form: damaged(whole_files()[form])),
    )

    @cases(number)
    @given(
        content=contents,
        suffix=st.sampled_from(SUFFIXES),
        field=st.sampled_from(["text", "id", "meta.n", "x"]),
    )
    @example(content=b'{"text": ' + b"[" * 100_000, suffix=".jsonl", field="text")
    @example(content=b"[" * 100_000, suffix=".json", field="text")
    @example(content=b'"' * 100_000, suffix=".csv", field="text")
    @example(content=b'{"te\x1et": "a"}\n' + b'{"text": "b"}\n' * 3, suffix=".jsonl", field="x")
    @example(content=b'{"te\x1et": "a"}\n' + b'{"text": "b"}\n' * 3 + b"{torn", suffix=".jsonl", field="id")
    def holds(content: bytes, suffix: str, field: str) -> None:
        for old in tmp_path.iterdir():
            old.unlink()
        (tmp_path / f"data{suffix}").write_bytes(content)
        with within(10):
            problems, _ = survey(tmp_path, field)
        for problem in problems:
            assert re.fullmatch(r"SW7\d\d", problem.code)
            assert max(len(problem.found), len(problem.fix)) < 1000, "it is for people"
            if suggested := re.search(r"data\.text_field=(\S+),", problem.fix):
                again, _ = survey(tmp_path, suggested.group(1))
                places = {(other.code, other.line) for other in again}
                assert (problem.code, problem.line) not in places, "its fix is one"

    holds()
