"""Documents inside files of another purpose: dumps of wikis, mailboxes, subtitles, labelled and tagged lines.

Each is told by its content, with the program that writes the documents as JSON lines: as raw text their marks
would be trained.
"""

import re
from collections.abc import Callable

from runtime.data.foreign import Foreign, lines_of, share_of
from runtime.data.sql_dump import find_sql_dump

MIN_SHARE = 0.9  # of the lines that have the form
MIN_LINES = 4  # of separated fields and of tags: fewer may be anything
MAX_LINES = 400  # that are looked at
# A comment holds no end of one: or it would be looked for in as many ways as there are comments.
XML = r"\s*(?:<\?xml[^>]*\?>\s*)?(?:<!DOCTYPE[^>]*>\s*)?(?:<!--(?:[^-]|-(?!->))*-->\s*)*"
MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"

WIKI = re.compile(XML + r"<mediawiki[\s>]", re.DOTALL)
ROWS = re.compile(XML + r"<\w+>\s*<row\s[^<]*/>\s*<row\s", re.DOTALL)
TRANSLATIONS = re.compile(XML + r"<tmx[\s>]", re.DOTALL)
ARTICLES = re.compile(XML + r"<PubmedArticleSet[\s>]", re.DOTALL)
DOC = re.compile(r"\s*<doc(?:\s[^>]*)?>\s*\n.*?^\s*</doc>", re.DOTALL | re.MULTILINE | re.IGNORECASE)
MAILBOX = re.compile(rf"From \S+ .*{MONTH}.*\d\d:\d\d.*\n(?:[A-Za-z][\w-]*:.*\n|[ \t].*\n)+", re.ASCII)
STYLED = re.compile(r"\[Script Info\](?s:.)*?^Dialogue: ", re.MULTILINE)
SUBTITLES = re.compile(r"\s*\d+[ \t]*\r?\n\d+:\d\d:\d\d[,.]\d+ --> \d|WEBVTT\b(?s:.)*? --> ")
LABELLED = re.compile(r"(?:__label__[^\s,]+[ \t,]+)+(?!__label__)\S.*")
TREEBANK = re.compile(r"\d+(?:[-.]\d+)?(?:\t[^\t]*){9}")  # below comments with the sentence
TAGGED = re.compile(r"-DOCSTART-.*|\S+(?:[ \t]\S+)*[ \t](?:O|[BIES]-\S+)")
# What programs put between fields that may hold any single character.
SEPARATORS = (" +++$+++ ", " ||| ", "|||", "\t|\t", "::", "||", "<SEP>", "[SEP]")

WIKI_DUMP = Foreign(
    "a dump of MediaWiki, XML around the pages' wiki text",
    "import json, sys, xml.etree.ElementTree as E; "
    '[(e.text and e.text[:9].upper() != "#REDIRECT" and print(json.dumps({"text": e.text})), e.clear()) '
    'for _, e in E.iterparse(sys.stdin.buffer) if e.tag.rpartition("}")[2] == "text"]',
    note="wiki markup stays; wikiextractor removes it",
)
XML_ROWS = Foreign(
    "a dump of Stack Exchange, XML with a row for each text",
    "import json, sys, xml.etree.ElementTree as E; "
    '[(text and print(json.dumps({"text": text})), e.clear()) '
    'for _, e in E.iterparse(sys.stdin.buffer) if e.tag == "row" '
    'for text in [e.get("Body") or e.get("Text") or e.get("AboutMe")]]',
)
MEMORY = Foreign(
    "a translation memory (TMX)",
    "import json, sys, xml.etree.ElementTree as E; "
    '[(print(json.dumps({"text": "\\n".join("".join(s.itertext()) for s in e.iter("seg"))})), e.clear()) '
    'for _, e in E.iterparse(sys.stdin.buffer) if e.tag == "tu"]',
)
ABSTRACTS = Foreign(
    "articles of PubMed in XML",
    "import json, sys, xml.etree.ElementTree as E; "
    '[(text and print(json.dumps({"text": text})), e.clear()) '
    'for _, e in E.iterparse(sys.stdin.buffer) if e.tag == "PubmedArticle" '
    'for text in ["\\n\\n".join("".join(a.itertext()) for a in e.iter("AbstractText"))]]',
)
DOCS = Foreign(
    "documents between <doc> and </doc>",
    "import html, json, re, sys; "
    't = lambda d: html.unescape((re.search(r"(?is)<text>(.*?)</text>", d) or [0, d])[1]).strip(); '
    '[print(json.dumps({"text": t(d)})) '
    'for d in re.findall(r"(?ims)^\\s*<doc(?:\\s[^>]*)?>\\s*\\n(.*?)^\\s*</doc>", sys.stdin.read())]',
)
MAIL = Foreign(
    "a mailbox (mbox), with the headers of its messages",
    "import email, email.policy, json, re, sys; "
    't = lambda b: b.get_payload(decode=True).decode(b.get_content_charset("utf-8"), "replace"); '
    '[print(json.dumps({"text": t(b)})) '
    'for p in re.split(rb"(?m)^From \\S+ .*\\d\\d:\\d\\d.*\\n", sys.stdin.buffer.read())[1:] '
    'for b in [email.message_from_bytes(p, policy=email.policy.default).get_body(("plain",))] if b]',
)
SUBTITLE = Foreign(
    "subtitles with their times",
    "import json, re, sys; "
    'marks = r"(?m)^(WEBVTT|NOTE|STYLE)\\b.*(\\n.+)*|^(.+\\n)?[\\d:.,]+ --> .*"; '
    'read = re.sub(marks, "", sys.stdin.read()); '
    'print(json.dumps({"text": re.sub(r"\\s*\\n\\s*", "\\n", re.sub(r"<[^>]+>", "", read)).strip()}))',
)
STYLED_SUBTITLE = Foreign(
    "subtitles with their times and styles",
    "import json, re, sys; "
    'lines = [re.sub(r"\\{[^}]*\\}", "", line.split(",", 9)[9]).strip() '
    'for line in sys.stdin if line.startswith("Dialogue: ")]; '
    'print(json.dumps({"text": "\\n".join(lines).replace(r"\\N", "\\n")}))',
)
CRAWLED = Foreign(
    "the text of crawled pages (WET)",
    "import json, re, sys; "
    '[print(json.dumps({"text": p.partition(b"\\r\\n\\r\\n")[2].decode(errors="replace").strip()})) '
    'for p in re.split(rb"(?m)^WARC/1\\.\\d\\r?\\n", sys.stdin.buffer.read()) '
    'if b"WARC-Type: conversion" in p[:2000]]',
)
LABELS = Foreign(
    "lines of fastText, each with its label",
    "import json, re, sys; [print(json.dumps({'text': t})) for line in sys.stdin "
    "for t in [re.sub(r'^(__label__\\S+[ \\t,]*)+', '', line).strip()] if t]".replace("'", '"'),
)
SENTENCES = Foreign(
    "a treebank (CoNLL-U)",
    "import json, re, sys; "
    '[print(json.dumps({"text": (re.search(r"(?m)^# text = (.*)", s) or [0, " ".join(re.findall('
    'r"(?m)^\\d+\\t([^\\t]*)", s))])[1]})) for s in re.split(r"\\n\\s*\\n", sys.stdin.read()) if s.strip()]',
)
TAGS = Foreign(
    "words with tags, one on each line (CoNLL)",
    "import json, re, sys; "
    '[print(json.dumps({"text": " ".join(w)})) for s in re.split(r"\\n\\s*\\n", sys.stdin.read()) '
    'for w in [[line.split()[0] for line in s.split("\\n") if line.strip()]] if w and w[0] != "-DOCSTART-"]',
)


def find_documents(head: str, is_complete: bool) -> Foreign | None:
    """The form of the documents inside the text that begins with `head`; None for text that is one itself."""
    for found, matches in BY_BEGINNING:
        if matches(head):
            return found
    dump = find_sql_dump(head)
    if dump is not None:
        return dump
    lines = [line.rstrip("\r") for line in lines_of(head, is_complete) if line.strip()][:MAX_LINES]
    for found, pattern, least in BY_LINES:
        meant = [line for line in lines if not line.startswith("#")] if found is SENTENCES else lines
        if len(meant) >= least and share_of(pattern, meant) >= MIN_SHARE:
            return found
    return _find_separated(lines)


BY_BEGINNING: tuple[tuple[Foreign, Callable[[str], object]], ...] = (
    (WIKI_DUMP, WIKI.match),
    (XML_ROWS, ROWS.match),
    (MEMORY, TRANSLATIONS.match),
    (ABSTRACTS, ARTICLES.match),
    (DOCS, DOC.match),
    (MAIL, MAILBOX.match),
    (SUBTITLE, SUBTITLES.match),
    (STYLED_SUBTITLE, STYLED.match),
)
BY_LINES = ((LABELS, LABELLED, 1), (SENTENCES, TREEBANK, MIN_LINES), (TAGS, TAGGED, MIN_LINES))


def is_crawled_text(head: bytes) -> bool:
    """Whether the file is a crawl's archive of text, not of pages."""
    return head.startswith(b"WARC/1.") and b"\nWARC-Type: conversion" in head


def _find_separated(lines: list[str]) -> Foreign | None:
    """A table whose fields are separated by several characters, of which the one with most text is taken."""
    for separator in SEPARATORS:
        counts = {line.count(separator) for line in lines}
        least = 1 if " " in separator else 2
        if len(lines) < MIN_LINES or len(counts) > 1 or counts.pop() < least:
            continue
        rows = [line.split(separator) for line in lines]
        lengths = [sum(map(len, column)) for column in zip(*rows, strict=True)]
        place = max(range(len(lengths)), key=lengths.__getitem__)
        shown = separator.replace("\t", "\\t")
        program = (
            f'import json, sys; [print(json.dumps({{"text": f[{place}].strip()}})) for line in sys.stdin '
            f'for f in [line.split("{shown}")] if len(f) > {place}]'
        )
        name = f"a table with {separator.strip()} between its fields, of which number {place + 1} is taken"
        return Foreign(name, program)
    return None
