"""What has run each key and value of a strategy: `python -m tests.support.values_run` writes the page.

tests/support/values_run.yaml names a test for each; tests/project/test_values_run.py asks that it names every
key and value of the schema, and only tests that exist.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/support/values_run.yaml"
PAGE = ROOT / "docs/values-run.md"
_HEAD = """\
# Which values have run, and where

<!-- Made by `python -m tests.support.values_run` from tests/support/values_run.yaml: change that. -->

Every key of a strategy, with every value where there is a list of them. *runs*: the test runs the code that
a training runs with it, on CPUs, between processes of one machine over gloo. *plans*: the test plans, prints
or reads it only. *refused*: `train.py` refuses it with that code. *no test*: no test names it; the default is
used in all of them.

**On GPUs: none of them** (`tests/smoke/test_gpu.py` is there for a machine that has one). **On a cluster of
several real hosts: none of them**; hosts in the tests are network namespaces, or ranks of one machine taken
as several.

| key | value | on CPUs | by |
| --- | --- | --- | --- |
"""


def names_of_schema() -> list[str]:
    """`key` or `key=value` for every leaf of the schema, in its order. Names of links are one row."""
    schema = json.loads((ROOT / "ds_configs/strategy.schema.json").read_text(encoding="utf-8"))
    return list(_names(schema, (), schema["$defs"]))


def _names(node: dict[str, Any], path: tuple[str, ...], defs: dict[str, Any]) -> Iterator[str]:
    kinds = [_resolved(each, defs) for each in (*node.get("anyOf", ()), *node.get("oneOf", ()), node)]
    properties = {key: value for kind in kinds for key, value in kind.get("properties", {}).items()}
    values: list[Any] = []
    for kind in kinds:
        values += kind.get("enum", [])
        values += [kind["const"]] if "const" in kind else []
        values += [True, False] if kind.get("type") == "boolean" else []
    key = ".".join(path)
    if path and path[:2] == ("cluster", "links"):
        values = []
    if path and values:
        yield from (f"{key}={str(v).lower() if isinstance(v, bool) else v}" for v in values)
    elif path and not properties:
        yield key
    for name, value in properties.items():
        yield from _names(_resolved(value, defs), (*path, name), defs)


def _resolved(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        node = defs[node["$ref"].rpartition("/")[2]] | rest
    return node


def rows() -> dict[str, str]:
    """What the source says: a name of `names_of_schema` and its test, code or none."""
    lines = SOURCE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


def page() -> str:
    text = [_HEAD]
    for name, by in rows().items():
        key, _, value = name.partition("=")
        shown = f"`{value}`" if value else ""
        if by == "none":
            text.append(f"| `{key}` | {shown} | no test | |\n")
        elif by.startswith("refused:"):
            text.append(f"| `{key}` | {shown} | refused | {by.removeprefix('refused:')} |\n")
        else:
            how = "plans" if by.startswith("plan:") else "runs"
            file, _, test = by.removeprefix("plan:").partition("::")
            text.append(f"| `{key}` | {shown} | {how} | [{test}](../tests/{file}) |\n")
    return "".join(text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
