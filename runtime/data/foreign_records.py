"""Records in forms that are not read, and the command that writes each as JSON lines.

Python's literals, JSON5 and YAML: as raw text they would be trained with their brackets and keys.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterable
from typing import Any

import yaml

from runtime.data.foreign import Foreign, lines_of, share_of
from runtime.data.json_values import JsonDamaged, read_json_values

MIN_SHARE = 0.5  # of the lines that are records
MIN_SHARE_OF_MEMBERS = 0.8
MIN_LINES = 3
MAX_LINES = 100  # that are parsed
YAML_CHARACTERS = 1 << 15
KEY = r"""(?:[A-Za-z_$][\w$]*|'[^'\n]*'|"[^"\n]*")"""
JSON5_LINE = re.compile(rf"\s*\{{\s*{KEY}\s*:.*\}}\s*,?\s*")
# A line of a JSON5 object that is spread over lines: a key with its value, brackets, or a comment.
JSON5_MEMBER = re.compile(rf"\s*(?:{KEY}\s*:.*[,{{\[]|{KEY}\s*:[^;]*|[]\[{{}}, ]+|//.*)\s*")
ENDED_BY_COMMA = re.compile(r"\s*\{.*,\s*\}\s*,?\s*")
ENCODED_START = re.compile(r"""\s*"\s*(\[\s*)?\{\s*(\\"|\})""")
# What JavaScript writes before an array of objects: an assignment, a call, an export.
WRAPPER = re.compile(
    r"\s*(?:(?:(?:var|let|const)\s+)?[A-Za-z_$][\w$.]*\s*[=(]|export\s+default)\s*(?=\[\s*\{)"
)
JSON5_COMMENTS = re.compile(r"(?:\s*//[^\n]*\n|\s*/\*.*?\*/)*\s*", re.DOTALL)
PYTHON_LIST = re.compile(r"\s*\[\s*\{\s*'")
PYTHON_LINE = re.compile(r"\s*\{\s*'")
YAML_RECORD = re.compile(
    r"(?:[ \t\r]*(?:#[^\n]*)?\n|%YAML[^\n]*\n)*(?:---[^\n]*\n+(?!---)[\w\"'-]|- +[\w\"' -]+:(?: |\n))"
)


PYTHON_LINES = Foreign(
    "Python literals, one on each line",
    "import ast, json, sys; "
    "[print(json.dumps(ast.literal_eval(line.strip()))) for line in sys.stdin if line.strip()]",
)
PYTHON_ARRAY = Foreign(
    "a list of Python literals",
    "import ast, json, sys; "
    "[print(json.dumps(record)) for record in ast.literal_eval(sys.stdin.read().strip())]",
)
JSON5_LINES = Foreign(
    "JSON5, an object on each line",
    'import json, json5, sys; [print(json.dumps(json5.loads(line.strip().rstrip(",")))) '
    'for line in sys.stdin if line.strip(" [],\\n")]',
    "json5",
)
JSON5_FILE = Foreign(
    "JSON5",
    "import json, json5, sys; read = json5.load(sys.stdin); "
    "[print(json.dumps(record)) for record in (read if isinstance(read, list) else [read])]",
    "json5",
)
ENCODED = Foreign(
    "JSON inside JSON texts",
    "import json, sys; [print(json.dumps(record)) for line in sys.stdin if line.strip() "
    "for read in [json.loads(json.loads(line))] for record in (read if isinstance(read, list) else [read])]",
)
WRAPPED = Foreign(
    "an array of JSON inside JavaScript",
    "import json, re, sys; read = sys.stdin.read(); "
    'start = re.search(r"(=|[(]|default)\\s*(?=\\[\\s*\\{)", read).end(); '
    "[print(json.dumps(record)) for record in json.JSONDecoder().raw_decode(read, start)[0]]",
)
YAML = Foreign(
    "YAML records",
    "import json, sys, yaml; [print(json.dumps(record, default=str)) "
    "for read in yaml.safe_load_all(sys.stdin) "
    "for record in (read if isinstance(read, list) else [read]) if record]",
)


def find_damaged_json(head: str, is_complete: bool) -> Foreign | None:
    """What looks like JSON and holds other records: JSON inside texts or JavaScript, objects that a comma
    ends."""
    lines = [line for line in lines_of(head, is_complete) if line.strip()][:MAX_LINES]
    if lines and all(map(_holds_json, lines)):
        return ENCODED
    if _is_wrapped(head, is_complete):
        return WRAPPED
    if len(lines) > 1 and share_of(ENDED_BY_COMMA, lines) >= MIN_SHARE:
        return JSON5_LINES
    return None


def _is_wrapped(head: str, is_complete: bool) -> bool:
    """Whether all of the text is `name = [{…}];`, as Twitter exports it, or `name([{…}]);`, as JSONP."""
    start = WRAPPER.match(head)
    if start is None:
        return False
    body = head[start.end() :]
    num_objects = 0
    try:
        for each in read_json_values([body.rstrip(" \t\r\n;)") if is_complete else body]):
            num_objects += isinstance(each.value, dict)
    except JsonDamaged as error:
        return num_objects > 0 and not is_complete and str(error).startswith("the file ends")
    return num_objects > 0


def _holds_json(line: str) -> bool:
    """Whether the line is a JSON text of a JSON object, or of an array of such."""
    if not ENCODED_START.match(line):
        return False
    try:
        value = json.loads(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return False
    return isinstance(value, dict) or (
        isinstance(value, list) and all(isinstance(each, dict) for each in value)
    )


def find_foreign_records(head: str, is_complete: bool, field: str) -> Foreign | None:
    """The form of the records that `head` begins with; None for text.

    Args:
        is_complete: whether `head` is all of the text.
        field: the key that should hold the documents.
    """
    lines = [line for line in lines_of(head, is_complete) if line.strip()][:MAX_LINES]
    if not lines:
        return None
    if PYTHON_LINE.match(head) and sum(map(_is_python, lines)) >= MIN_SHARE * len(lines):
        return PYTHON_LINES
    if PYTHON_LIST.match(head) and (not is_complete or isinstance(_literal(head), list)):
        return PYTHON_ARRAY
    start = JSON5_COMMENTS.match(head)
    if start and head[start.end() : start.end() + 1] in ("[", "{"):
        body = [line for line in lines_of(head[start.end() :], is_complete) if line.strip()]
        if body[0].strip() != "{" and share_of(JSON5_LINE, body) >= MIN_SHARE:
            return JSON5_LINES
        has_key = re.search(rf"[{{,]\s*{KEY}\s*:", head)
        if has_key and len(body) >= MIN_LINES and share_of(JSON5_MEMBER, body) >= MIN_SHARE_OF_MEMBERS:
            return JSON5_FILE
    if YAML_RECORD.match(head) and _are_records(_yaml(head, is_complete), field):
        return YAML
    return None


def _is_python(line: str) -> bool:
    return isinstance(_literal(line), dict)


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _yaml(head: str, is_complete: bool) -> list[Any]:
    """The records of the first documents: list elements, or the documents themselves; [] if it is no YAML."""
    part = head[:YAML_CHARACTERS]
    if not is_complete or len(part) < len(head):
        part = part[: max(part.rfind("\n- "), part.rfind("\n---")) + 1]
    try:
        documents = [each for each in yaml.safe_load_all(part) if each is not None]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return []
    if len(documents) == 1 and isinstance(documents[0], list):
        return documents[0]
    return documents if len(documents) > 1 else []


def _are_records(records: Iterable[Any], field: str) -> bool:
    """Whether all are objects that have the field, or several with the same keys and single values."""
    found = list(records)
    if not found or not all(isinstance(record, dict) for record in found):
        return False
    if all(record.get(field) is not None for record in found):
        return True
    keys = {frozenset(record) for record in found}
    is_flat = all(not isinstance(value, (dict, list)) for record in found for value in record.values())
    return len(found) >= MIN_LINES and len(keys) == 1 and len(found[0]) > 1 and is_flat
