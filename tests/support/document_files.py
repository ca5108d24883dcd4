"""Files of documents inside something else: dumps, mailboxes, subtitles, labels; and the texts meant."""

from collections.abc import Sequence
from html import escape

from tests.support.people_files import TEXTS, TextFile, lines, table, whole

QUOTED = (
    *TEXTS,
    "It's the miller's; \"wait\", they said (twice), and left.",
    "One line\nand another, \\ then more",
)
LETTERS = "".join(
    f"From ann@b.org Mon Jan  1 00:00:0{n} 2024\nFrom: Ann <ann@b.org>\nTo: c@d.org\nSubject: Letter {n}\n"
    f"Content-Type: text/plain; charset=utf-8\n\n{text}\n\n"
    for n, text in enumerate(TEXTS)
)
# Lines of a merge that was not finished: the upper side is kept.
MERGE = f"{TEXTS[0]}\n<<<<<<< HEAD\n{TEXTS[1]}\n=======\n{TEXTS[2]}\n>>>>>>> theirs\nEnd\n=======\nof it\n"
MERGE3 = MERGE.replace("=======\nTwo", "||||||| base\nOld\n=======\nTwo")


def _mysql(values: Sequence[str]) -> str:
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", '"': '\\"'}
    rows = ["".join(escapes.get(c, c) for c in text) for text in values]
    inserted = ",".join(f"({n},'old','{text}',NULL,1.5)" for n, text in enumerate(rows))
    return (
        "-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)\n--\nDROP TABLE IF EXISTS `posts`;\n"
        "CREATE TABLE `posts` (\n  `id` int NOT NULL,\n  `kind` enum('old','new') DEFAULT NULL,\n"
        "  `body` longtext,\n  `seen` datetime,\n  `score` decimal(5,2),\n  PRIMARY KEY (`id`)\n"
        ") ENGINE=InnoDB;\n"
        f"LOCK TABLES `posts` WRITE;\nINSERT INTO `posts` VALUES {inserted};\nUNLOCK TABLES;\n"
    )


def _inserts(values: Sequence[str], before: str = "") -> str:
    """As sqlite3 and others write it, a statement for each row; a quote in a text is two."""
    rows = [text.replace("'", "''") for text in values]
    return before + "".join(
        f'INSERT INTO "posts" ("id", "body") VALUES({n},\'{text}\');\n' for n, text in enumerate(rows)
    )


def _copied(values: Sequence[str]) -> str:
    rows = [text.replace("\\", "\\\\").replace("\n", "\\n") for text in values]
    return (
        "--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\n\n"
        "CREATE TABLE public.posts (\n    id integer,\n    seen date,\n    body text\n);\n\n"
        "COPY public.posts (id, seen, body) FROM stdin;\n"
        + "".join(f"{n}\t\\N\t{text}\n" for n, text in enumerate(rows))
        + "\\.\n\n-- PostgreSQL database dump complete\n"
    )


def _parallel(separator: str) -> bytes:
    """A sentence and its translation on each line."""
    return "".join(f"{text} So.{separator}It is {n}.\n" for n, text in enumerate(TEXTS)).encode()


def _xml(root: str, body: str) -> bytes:
    return f'<?xml version="1.0" encoding="utf-8"?>\n<{root}>\n{body}</{root.split()[0]}>\n'.encode()


def _page(text: str) -> str:
    return (
        "  <page>\n    <title>A</title>\n    <ns>0</ns>\n    <revision>\n"
        f'      <text bytes="9" xml:space="preserve">{escape(text)}</text>\n    </revision>\n  </page>\n'
    )


WIKI = _page("#REDIRECT [[B]]") + "".join(map(_page, TEXTS))
STYLED = (
    "[Script Info]\nTitle: x\n\n[Events]\nFormat: Layer, Start, End, Style, Name, L, R, V, Effect, Text\n"
)
STYLED += "".join(
    f"Dialogue: 0,0:00:0{n}.00,0:00:0{n}.90,Default,,0,0,0,,{{\\i1}}{text}\n" for n, text in enumerate(TEXTS)
)
NAMESPACE = 'xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="en"'
WORD_LISTS = ["ferry", "mill", "piano on the stairs", "hill"]
WORDS = [text.split() for text in TEXTS]
DOCUMENT_FILES = {
    "MediaWiki, XML": TextFile("pages-articles.xml", _xml(f"mediawiki {NAMESPACE}", WIKI)),
    "wikiextractor": TextFile(
        "wiki_00",
        "".join(
            f'<doc id="{n}" url="https://a.b/?curid={n}" title="A">\n{escape(text)}\n\n</doc>\n'
            for n, text in enumerate(TEXTS)
        ).encode(),
    ),
    "TREC": TextFile(
        "ap880212",
        "".join(
            f"<DOC>\n<DOCNO> AP-1 </DOCNO>\n<TEXT>\n{text}\n</TEXT>\n</DOC>\n" for text in TEXTS
        ).encode(),
    ),
    "Stack Exchange": TextFile(
        "Posts.xml",
        _xml(
            "posts", "".join(f'  <row Id="{n}" Body="{escape(t)}" Tags="x" />\n' for n, t in enumerate(TEXTS))
        ),
    ),
    "TMX": TextFile(
        "a.tmx",
        _xml(
            'tmx version="1.4"',
            "".join(
                f'<tu><tuv xml:lang="en"><seg>{escape(text)}</seg></tuv>'
                '<tuv xml:lang="fr"><seg>Oui</seg></tuv></tu>\n'
                for text in TEXTS
            ),
        ),
        [f"{text}\nOui" for text in TEXTS],
    ),
    "PubMed": TextFile(
        "pubmed24n0001.xml",
        _xml(
            "PubmedArticleSet",
            "".join(
                f"<PubmedArticle><Article><Abstract><AbstractText>{escape(text)}</AbstractText>"
                "<AbstractText>It <i>ended</i>.</AbstractText></Abstract></Article></PubmedArticle>\n"
                for text in TEXTS
            ),
        ),
        [f"{text}\n\nIt ended." for text in TEXTS],
    ),
    "MySQL": TextFile("dump.sql", _mysql(QUOTED).encode(), QUOTED),
    "PostgreSQL": TextFile("dump.sql", _copied(QUOTED).encode(), QUOTED),
    "SQLite": TextFile(
        "dump.sql",
        _inserts(
            TEXTS, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE posts(id INT, body TEXT);\n"
        ).encode(),
    ),
    "inserted rows": TextFile("rows.txt", _inserts(QUOTED[:5]).encode(), QUOTED[:5]),
    "mbox": TextFile(
        "inbox", LETTERS.encode(), [f"{text}\n\n" for text in TEXTS[:-1]] + [f"{TEXTS[-1]}\n\n"]
    ),
    "fastText": TextFile(
        "cooking.train", "".join(f"__label__a __label__b {text}\n" for text in TEXTS).encode()
    ),
    "SubRip": TextFile(
        "a.srt",
        "".join(
            f"{n + 1}\r\n00:00:0{n},000 --> 00:00:0{n},900\r\n<i>{t}</i>\r\n\r\n" for n, t in enumerate(TEXTS)
        ).encode(),
        ["\n".join(TEXTS)],
    ),
    "WebVTT": TextFile(
        "a.vtt",
        (
            "WEBVTT - a film\n\nNOTE made by hand\n\n"
            + "".join(f"00:0{n}.000 --> 00:0{n}.900 align:start\n<v Ann>{t}\n\n" for n, t in enumerate(TEXTS))
        ).encode(),
        ["\n".join(TEXTS)],
    ),
    "CoNLL-U": TextFile(
        "a.conllu",
        "".join(
            f"# sent_id = {n}\n# text = {text}\n"
            + "".join(
                f"{i}\t{w}\t{w}\tNOUN\t_\t_\t0\troot\t_\t_\n" for i, w in enumerate(text.split(), start=1)
            )
            + "\n"
            for n, text in enumerate(TEXTS)
        ).encode(),
    ),
    "CoNLL 2003": TextFile(
        "eng.train",
        (
            "-DOCSTART- -X- O O\n\n"
            + "\n".join("".join(f"{w} NN B-NP O\n" for w in words) for words in WORDS)
        ).encode(),
    ),
    "tags after tabs": TextFile(
        "ner.tsv", "\n".join("".join(f"{w}\tB-PER\n" for w in words) for words in WORDS).encode()
    ),
    "Cornell": TextFile(
        "movie_lines.txt",
        "".join(
            f"L{n} +++$+++ u0 +++$+++ m0 +++$+++ ANN +++$+++ {t}\n" for n, t in enumerate(TEXTS)
        ).encode(),
    ),
    "two colons": TextFile("a.dat", "".join(f"{n}::Old (1995)::{t}\n" for n, t in enumerate(TEXTS)).encode()),
    "carets": TextFile(
        "a.csv", ("id^text\n" + "".join(f"{n}^{t}\n" for n, t in enumerate(TEXTS))).encode(), is_read=True
    ),
    "carets without text": TextFile(
        "a.txt", ("id^name^body\n" + "".join(f"{n}^x^{t}\n" for n, t in enumerate(TEXTS))).encode()
    ),
    "carets without names": TextFile("a.txt", "".join(f"{n}^x^{t}\n" for n, t in enumerate(TEXTS)).encode()),
    "verses": TextFile(
        "bible.txt",
        "".join(f"Genesis 1:{n}\t{text} So it was.\n" for n, text in enumerate(TEXTS)).encode(),
        [f"{text} So it was." for text in TEXTS],
    ),
    "a name that comes again": TextFile(
        "a.csv", table([[text, "good" if n % 2 else "bad"] for n, text in enumerate(WORD_LISTS)]), WORD_LISTS
    ),
    "tildes": TextFile(
        "a.txt", ("id~name~body\n" + "".join(f"{n}~x~{t}\n" for n, t in enumerate(TEXTS))).encode()
    ),
    "a merge": TextFile("a.txt", MERGE.encode(), [f"{TEXTS[0]}\n{TEXTS[1]}\nEnd\n=======\nof it\n"]),
    "a merge with its base": TextFile(
        "a.txt", MERGE3.encode(), [f"{TEXTS[0]}\n{TEXTS[1]}\nEnd\n=======\nof it\n"]
    ),
    "one column in quotes": TextFile("a.csv", table([["Review Text"], *([t] for t in TEXTS)], quoting=1)),
    "one column in quotes, no name": TextFile("a.csv", table(([t] for t in TEXTS), quoting=1)),
    "one column, its name without quotes": TextFile(
        "a.csv", b"review\n" + table(([t] for t in TEXTS), quoting=1)
    ),
    "Jupyter": TextFile(
        "a.ipynb",
        whole(
            {
                "cells": [
                    {"cell_type": "markdown", "metadata": {}, "source": [f"{TEXTS[0]}\n", TEXTS[1]]},
                    {"cell_type": "code", "metadata": {}, "source": "a = 1", "outputs": [{"text": ["1"]}]},
                ],
                "metadata": {"kernelspec": {"name": "python3"}},
                "nbformat": 4,
                "nbformat_minor": 5,
            },
            1,
        ),
        [f"{TEXTS[0]}\n{TEXTS[1]}\n\na = 1"],
    ),
    "sentences of words": TextFile(
        "docred.json",
        whole([{"title": "A", "sents": [words, ["The", "end", "."]], "labels": []} for words in WORDS]),
        [f"{text}\nThe end ." for text in TEXTS],
    ),
    "Advanced SubStation": TextFile("a.ass", STYLED.encode(), ["\n".join(TEXTS)]),
    "WET": TextFile(
        "CC-MAIN.warc.wet",
        b"WARC/1.0\r\nWARC-Type: warcinfo\r\n\r\nSoftware: x\r\n\r\n"
        + "".join(
            f"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 9\r\n\r\n{t}\r\n\r\n" for t in TEXTS
        ).encode(),
    ),
    "parallel text": TextFile("a.tsv", _parallel("\t"), [f"{text} So." for text in TEXTS]),
    "parallel text with bars": TextFile("a.txt", _parallel(" ||| "), [f"{text} So." for text in TEXTS]),
    "an empty name": TextFile("a.jsonl", lines([{"id": n, "": text} for n, text in enumerate(TEXTS)])),
}
