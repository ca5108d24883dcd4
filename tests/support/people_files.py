"""Files of documents as people have them: their content, and the texts that are meant."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

TEXTS = (
    "The river was high that spring, and the ferry did not run for a week; the mill stood silent until May.",
    'She wrote "home" to her brother, once a week, always on Sunday, and never posted one of the letters.',
    "Two men carried the piano up the stairs, one step at a time, while the whole house listened to them.",
    "Grüße aus Köln: nobody in the village could remember such water, and so they moved to the hills.",
)


class TextFile(NamedTuple):
    """A file of documents. texts: those that are trained, after the fix unless `is_read` without one."""

    name: str
    content: bytes
    texts: Sequence[str] = TEXTS
    is_read: bool = False


def lines(records: Iterable[Any], before: str = "", after: str = "\n") -> bytes:
    return "".join(f"{before}{json.dumps(record, ensure_ascii=False)}{after}" for record in records).encode()


def whole(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent).encode()


def table(rows: Iterable[Sequence[Any]], **how: Any) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n", **how).writerows(rows)
    return stream.getvalue().encode()


def _with_ends(texts: Sequence[str]) -> list[str]:
    return [each for text in texts for each in (text, "end")]


RECORDS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
BODIES = [{"id": number, "title": "Old", "body": text} for number, text in enumerate(TEXTS)]
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "A river",
            "paragraphs": [
                {"context": text, "qas": [{"question": "Who?", "id": "1", "answers": [{"text": "She"}]}]}
            ],
        }
        for text in TEXTS
    ],
}
ROWS = {
    "features": [{"feature_idx": 0, "name": "text", "type": {"dtype": "string", "_type": "Value"}}],
    "rows": [{"row_idx": record["id"], "row": record, "truncated_cells": []} for record in RECORDS],
    "num_rows_total": 4,
    "partial": False,
}
HITS = {
    "took": 3,
    "hits": {"total": {"value": 4}, "hits": [{"_id": "1", "_source": each} for each in BODIES]},
}
PAGES = {"query": {"pages": {str(n): {"pageid": n, "extract": text} for n, text in enumerate(TEXTS)}}}
SCHEMA = {"fields": [{"name": "text", "type": "string"}], "pandas_version": "1.4.0"}
LISTS = [[record["id"], record["text"]] for record in RECORDS]
HEADED = [["id", "text"], *LISTS]

# Telegram's: a text with links or bold words is a list of parts.
MARKED = [
    {
        "id": n,
        "type": "message",
        "text": text if n % 2 else [text[:9], {"type": "bold", "text": text[9:]}, ""],
    }
    for n, text in enumerate(TEXTS)
]

NESTED = {
    "Telegram": TextFile("result.json", whole({"name": "A", "type": "private_group", "messages": MARKED}, 1)),
    "Telegram, messages on lines": TextFile(
        "a.jsonl", lines([*MARKED[1:], MARKED[0]]), (*TEXTS[1:], TEXTS[0])
    ),
    "a version above the data": TextFile("a.json", whole({"version": "1.0", "data": RECORDS})),
    "a status above documents": TextFile("a.json", whole({"status": "ok", "documents": BODIES}, 2)),
    "SQuAD": TextFile("train-v2.0.json", whole(SQUAD)),
    "the datasets server": TextFile("rows.json", whole(ROWS)),
    "Elasticsearch": TextFile("hits.json", whole(HITS)),
    "MediaWiki": TextFile("wiki.json", whole(PAGES)),
    "texts in a list": TextFile("a.json", whole({"name": "letters", "texts": TEXTS})),
    "texts in a list of lists": TextFile("a.json", whole({"books": [{"title": "x", "pages": list(TEXTS)}]})),
    "records by their ids": TextFile("a.json", whole({str(each["id"]): each for each in RECORDS})),
    "texts by their ids": TextFile("a.json", whole({f"doc{n}": text for n, text in enumerate(TEXTS)})),
    "splits in one file": TextFile("a.json", whole({"train": RECORDS, "test": RECORDS[:1]})),
    "an object in each row": TextFile("a.jsonl", lines([{"n": 1, "row": record} for record in RECORDS])),
    "arrays of records on lines": TextFile(
        "a.jsonl", lines([[record, {"id": 9, "text": "end"}] for record in RECORDS]), _with_ends(TEXTS)
    ),
    "arrays of records on lines, under another key": TextFile(
        "a.jsonl", lines([[record, {"id": 9, "body": "end"}] for record in BODIES]), _with_ends(TEXTS)
    ),
    "documents in each line": TextFile(
        "a.jsonl", lines([{"docs": [each], "source": "x"} for each in RECORDS])
    ),
    "paragraphs in each line": TextFile(
        "a.jsonl",
        lines([{"id": n, "paragraphs": [text, TEXTS[0]]} for n, text in enumerate(TEXTS)]),
        [f"{text}\n\n{TEXTS[0]}" for text in TEXTS],
    ),
    "sections in each line": TextFile(
        "a.jsonl",
        lines(
            [{"id": 1, "sections": [{"head": "A", "text": t}, {"head": "B", "text": "end"}]} for t in TEXTS]
        ),
        [f"{text}\n\nend" for text in TEXTS],
    ),
    "tokens in each line": TextFile(
        "conll.jsonl", lines([{"tokens": text.split(), "tags": [0]} for text in TEXTS]), TEXTS
    ),
}
JSON_FORMS = {
    "a comma after each line": TextFile("a.jsonl", lines(RECORDS, after=",\n"), is_read=True),
    "record separators": TextFile("a.jsonl", lines(RECORDS, before="\x1e"), is_read=True),
    "a byte order mark on each line": TextFile("a.jsonl", lines(RECORDS, before="\ufeff"), is_read=True),
    "lines between brackets": TextFile("a.json", b"[\n" + lines(RECORDS) + b"]\n", is_read=True),
    "blank lines": TextFile("a.jsonl", lines(RECORDS, after="\n\n"), is_read=True),
    "tabs in texts": TextFile(
        "a.jsonl",
        lines(RECORDS).replace(b" the ", b"\t"),
        [text.replace(" the ", "\t") for text in TEXTS],
        is_read=True,
    ),
    "indented objects": TextFile("a.json", b"\n".join(whole(each, 2) for each in RECORDS), is_read=True),
    "indented objects with commas": TextFile(
        "a", b",\n".join(whole(each, 2) for each in RECORDS), is_read=True
    ),
    "indented objects after separators": TextFile(
        "a", b"".join(b"\x1e" + whole(each, 2) + b"\n" for each in RECORDS), is_read=True
    ),
    "objects on one line": TextFile("a.json", b"".join(whole(each) for each in RECORDS), is_read=True),
    "columns": TextFile("a.json", whole({"text": TEXTS, "id": [1, 2, 3, 4]})),
    "one column": TextFile("a.json", whole({"text": TEXTS})),
    "pandas, split": TextFile(
        "a.json", whole({"columns": ["id", "text"], "index": [0, 1, 2, 3], "data": LISTS})
    ),
    "pandas, columns": TextFile("a.json", whole({"text": {str(n): text for n, text in enumerate(TEXTS)}})),
    "pandas, index": TextFile("a.json", whole({str(n): {"text": text} for n, text in enumerate(TEXTS)})),
    "pandas, table": TextFile("a.json", whole({"schema": SCHEMA, "data": RECORDS})),
    "pandas, values": TextFile("a.json", whole(LISTS)),
    "columns with types": TextFile(
        "a.json", whole({"columns": [{"name": "id", "type": "int"}, {"name": "body"}], "rows": LISTS})
    ),
    "lists below names": TextFile("a.jsonl", lines(HEADED)),
    "JSON in JSON": TextFile("a.jsonl", lines(json.dumps(record) for record in RECORDS)),
    "an array in a text": TextFile("a.json", whole(json.dumps(RECORDS))),
    "a comma in each object": TextFile("a.jsonl", lines(RECORDS).replace(b"}", b",}")),
}
CSV_FORMS = {
    "a title": TextFile("a.csv", b"Letters of 2024\n" + table(HEADED), is_read=True),
    "a title and a blank line": TextFile("a.csv", b"Letters of 2024\n\n" + table(HEADED), is_read=True),
    "a title with commas": TextFile("a.csv", b"Letters,\n" + table(HEADED), is_read=True),
    "titles from Excel": TextFile(
        "a.csv",
        b"Report 2024;;\nMade by;Anna;\n;;\n" + table([[*row, "x"] for row in HEADED], delimiter=";"),
        is_read=True,
    ),
    "a title above tabs": TextFile("a.tsv", b"All letters\n" + table(HEADED, delimiter="\t"), is_read=True),
    "a repeated other column": TextFile("a.csv", table([[row[0], *row] for row in HEADED]), is_read=True),
    "a delimiter after each row": TextFile("a.csv", table([[*row, ""] for row in HEADED]), is_read=True),
    "several delimiters after each row": TextFile(
        "a.csv", table([[*row, "", "", ""] for row in HEADED]), is_read=True
    ),
    "a sheet that was wider": TextFile(
        "a.csv", table([["v1", "v2", "", ""], *([n, t, "", ""] for n, t in LISTS)])
    ),
    "escaped quotes": TextFile("a.csv", table(HEADED, doublequote=False, escapechar="\\"), is_read=True),
    "UTF-16": TextFile("a.csv", table(HEADED).decode().encode("utf-16"), is_read=True),
    "UTF-16, tabs": TextFile("a.txt", table(HEADED, delimiter="\t").decode().encode("utf-16"), is_read=True),
    "a repeated text column": TextFile(
        "a.csv", table([["id", "text", "text"], *([n, "no", t] for n, t in LISTS)])
    ),
    "no names": TextFile("a.csv", table(LISTS)),
    "no names, tabs": TextFile("a.tsv", table(LISTS, delimiter="\t")),
    "no names, semicolons": TextFile("a.csv", table(LISTS, delimiter=";")),
    "zero bytes": TextFile("a.csv", table(HEADED).replace(b"home", b"ho\0me")),
    "zeros at the end": TextFile("a.jsonl", lines(RECORDS) + b"\0" * 64),
}
