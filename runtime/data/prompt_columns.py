"""Records that have prompts and completions, or turns, in another form: the command that converts them."""

import shlex
from pathlib import Path
from typing import Any

from runtime.data.compression import piped
from runtime.data.form import Form

# Alpaca, Dolly, question answering, preference pairs (the chosen answer).
PROMPTS = ("prompt", "instruction", "question", "query", "problem")
CONTEXTS = ("input", "context")
# Texts in turn, the user's first (UltraChat).
TURNS = ("data", "dialog", "dialogue", "conversation", "conversations", "turns", "utterances")
COMPLETIONS = ("completion", "output", "response", "answer", "chosen", "solution")
READERS = {
    "json lines": "map(json.loads, filter(str.strip, sys.stdin))",
    "json": "json.load(sys.stdin)",
    "csv": "csv.DictReader(sys.stdin)",
    # pyarrow 26.0's read_table may abort when Python ends (apache/arrow issues 34314 and 50482).
    "parquet": "pyarrow.parquet.ParquetFile(pyarrow.BufferReader(sys.stdin.buffer.read()))"
    ".read(use_threads=False).to_pylist()",
}
IMPORTS = {"csv": "csv, ", "parquet": "pyarrow.parquet, "}


def conversion_fix(file: Path, form: Form, record: dict[str, Any], key: str) -> str | None:
    """The command that converts a file with such records, and the keys to write then; None for others.

    Args:
        key: the key that names the file, `data.path` or a source of data.mix.
    """
    renaming = prompt_conversion(file, form, record)
    if renaming is not None:
        return f"rename its keys: {renaming}, then write data.format=prompt {key}={new_name(file)}"
    turns = turns_conversion(file, form, record)
    if turns is not None:
        return f"make messages of its turns: {turns}, then write data.format=chat {key}={new_name(file)}"
    return None


def prompt_conversion(file: Path, form: Form, record: dict[str, Any]) -> str | None:
    """The command that writes the file with the keys prompt and completion; None if its keys are not known.

    A context follows the prompt after an empty line. Of a list of messages as completion, the last is taken.
    """
    prompt = next((key for key in PROMPTS if key in record), None)
    completion = next((key for key in COMPLETIONS if key in record), None)
    if prompt is None or completion is None or (prompt, completion) == (PROMPTS[0], COMPLETIONS[0]):
        return None
    context = next((key for key in CONTEXTS if key in record), None)
    asked = f'r["{prompt}"]'
    if context is not None:
        asked += f' + ("\\n\\n" + r["{context}"] if r.get("{context}") else "")'
    answer = f'r["{completion}"]'
    if isinstance(record[completion], list):
        answer += "[-1:]"
    return _command(file, form, f'{{"prompt": {asked}, "completion": {answer}}}')


def turns_conversion(file: Path, form: Form, record: dict[str, Any]) -> str | None:
    """The command that writes the file with messages; None if no key holds texts in turn."""
    key = next((key for key in TURNS if _is_texts(record.get(key))), None)
    if key is None:
        return None
    message = '{"role": ("user", "assistant")[i % 2], "content": t}'
    return _command(file, form, f'{{"messages": [{message} for i, t in enumerate(r["{key}"])]}}')


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value)


def _command(file: Path, form: Form, converted: str) -> str | None:
    """The shell command that writes `converted`, of each record r, as JSON lines; None for a form without a
    reader in a line."""
    reader = READERS.get(form.kind)
    is_odd_table = form.csv is not None and (form.csv.delimiter != "," or form.csv.num_skipped > 0)
    if reader is None or is_odd_table:
        return None
    program = (
        f"import {IMPORTS.get(form.kind, '')}json, sys; [print(json.dumps({converted})) for r in {reader}]"
    )
    command = piped(file, form.compression, f"python -X utf8 -c {shlex.quote(program)}")
    return f"{command} > {new_name(file)}"


def new_name(file: Path) -> str:
    """The name of the converted file, as a shell takes it."""
    return shlex.quote(str(file.with_name(f"{file.name}.converted.jsonl")))
