"""Fixes of files beside others: a corpus has one data.format and one data.text_field for all its files.

A fix that changes them for one file would break the files that are read as they say, whose fix would change
them back.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.problems import Problem
from runtime.data.corpus import Source
from runtime.data.documents import DocumentReader, TextReader
from runtime.data.shape_fix import leave_out_fix, override
from runtime.data.shards import THEN, Fault

SETTINGS = ("data.format", "data.text_field")
CODES = ("SW708", "SW724")  # a record without its text, or without its messages


def settle(faults: Sequence[Fault], fine: Sequence[Source], reader: DocumentReader) -> list[Fault]:
    """The mistakes with fixes that can all be followed.

    Beside files that are read as they are no fix changes a setting. Where none is, the first fix that changes
    them decides.

    Args:
        fine: the files with documents and without mistakes.
    """
    is_beside_records = any(source.form is not None and source.form.kind != "text" for source in fine)
    # A folder's README is skipped where conversations are read; what is named must be readable.
    is_beside_texts = any(source.form is not None and source.is_named for source in fine)
    first: dict[str, str] = {}
    settled: list[Fault] = []
    for source, problem in faults:
        wanted = _settings(problem.fix) if problem.code in CODES else {}
        if reader.has_answers and wanted == {"data.format": "chat"}:
            wanted = {}  # chat reads prompts with their completions too
        if wanted and (is_beside_records or ("data.format" in wanted and is_beside_texts)):
            problem = _keeping_settings(source, problem, reader)
        elif wanted and not first:
            first = wanted
        elif wanted and wanted != first:
            problem = _following(source, problem, first, wanted)
            if {first.get("data.format"), wanted.get("data.format")} == {"prompt", "chat"}:
                first["data.format"] = "chat"
                settled = [(each, _with_chat(other)) for each, other in settled]
        settled.append((source, problem))
    return settled


def _settings(fix: str) -> dict[str, str]:
    """The settings that the overrides of a fix change."""
    _, then, overrides = fix.partition(THEN)
    try:
        words = shlex.split(overrides if then else fix.removeprefix("write "))
    except ValueError:  # an apostrophe in words for people
        return {}
    pairs = (word.rstrip(",").partition("=") for word in words)
    return {key: value for key, _, value in pairs if key in SETTINGS}


def _keeping_settings(source: Source, problem: Problem, reader: DocumentReader) -> Problem:
    """The Problem with the fix that changes the file, not the settings."""
    for again in reader.read(replace(source, keeps_settings=True)):
        if isinstance(again, Problem) and (again.code, again.line) == (problem.code, problem.line):
            return replace(problem, fix=again.fix)
    return problem


def _following(
    source: Source, problem: Problem, first: Mapping[str, str], wanted: Mapping[str, str]
) -> Problem:
    """The Problem with the fix that fits the settings which another file's fix writes."""
    formats = [each.get("data.format", "text") for each in (first, wanted)]
    if (formats[0] == "text") != (formats[1] == "text"):
        return replace(problem, fix=leave_out_fix(source, formats[0]))
    if formats[0] != "text":
        return _with_chat(problem) if formats[0] != formats[1] else problem
    field = first.get("data.text_field", "")
    again = _keeping_settings(source, problem, TextReader(field=field)).fix
    return replace(problem, fix=again.replace(THEN, f"{THEN}{override('data.text_field', field)} ", 1))


def _with_chat(problem: Problem) -> Problem:
    """Chat reads prompts with their completions too."""
    return replace(problem, fix=problem.fix.replace("data.format=prompt", "data.format=chat"))
