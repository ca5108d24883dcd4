"""Records that have prompts and completions under other keys, and the command that renames them."""

import shlex
from pathlib import Path
from typing import Any

from runtime.data.compression import DECOMPRESSORS
from runtime.data.form import Form

# Alpaca, Dolly, question answering, preference pairs (the chosen answer).
PROMPTS = ("prompt", "instruction", "question", "query", "problem")
CONTEXTS = ("input", "context")
COMPLETIONS = ("completion", "output", "response", "answer", "chosen", "solution")
READERS = {
    "json lines": "map(json.loads, filter(str.strip, sys.stdin))",
    "json": "json.load(sys.stdin)",
    "csv": "csv.DictReader(sys.stdin)",
    "parquet": "pyarrow.parquet.read_table(sys.stdin.buffer).to_pylist()",
}
IMPORTS = {"csv": "csv, ", "parquet": "pyarrow.parquet, "}


def prompt_conversion(file: Path, form: Form, record: dict[str, Any]) -> str | None:
    """The command that writes the file with the keys prompt and completion; None if its keys are not known.

    A context follows the prompt after an empty line. Of a list of messages as completion, the last is taken.
    """
    prompt = next((key for key in PROMPTS if key in record), None)
    completion = next((key for key in COMPLETIONS if key in record), None)
    reader = READERS.get(form.kind)
    is_odd_table = form.csv is not None and (form.csv.delimiter != "," or form.csv.num_skipped > 0)
    if prompt is None or completion is None or reader is None or is_odd_table:
        return None
    context = next((key for key in CONTEXTS if key in record), None)
    asked = f'r["{prompt}"]'
    if context is not None:
        asked += f' + ("\\n\\n" + r["{context}"] if r.get("{context}") else "")'
    answer = f'r["{completion}"]'
    if isinstance(record[completion], list):
        answer += "[-1:]"
    program = (
        f"import {IMPORTS.get(form.kind, '')}json, sys; "
        f'[print(json.dumps({{"prompt": {asked}, "completion": {answer}}})) for r in {reader}]'
    )
    name = shlex.quote(str(file))
    source = "" if form.compression is None else f"{DECOMPRESSORS[form.compression]} {name} | "
    given = f" < {name}" if form.compression is None else ""
    return f"rename its keys: {source}python -X utf8 -c {shlex.quote(program)}{given} > {new_name(file)}"


def new_name(file: Path) -> str:
    """The name of the converted file, as a shell takes it."""
    return shlex.quote(str(file.with_name(f"{file.name}.prompts.jsonl")))
