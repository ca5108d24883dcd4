"""Markers `torch`, `ssh` and `gpu`: what a test module needs, read from what it imports.

`make test-fast` runs what needs none of them, in an environment that has no torch. There a module that needs
it is not even collected, and one that should have had the marker fails.
"""

import ast
import importlib.util
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Everything that requirements-plan.txt does not bring.
TRAINING_LIBRARIES = {
    "accelerate",
    "deepspeed",
    "matplotlib",
    "numpy",
    "peft",
    "pyarrow",
    "pynvml",
    "safetensors",
    "tensorboard",
    "tokenizers",
    "torch",
    "transformers",
}
# These start processes: of ranks, or on hosts. What a process imports is not seen in the test's own imports.
STARTS_RANKS = ("tests.support.launching", "tests.support.jobs")
STARTS_HOSTS = ("tests.support.hosts", "tests.support.namespaces")
OURS = ("benchmarks", "launch", "model", "planner", "runtime", "tests", "train")


def needs(path: Path) -> frozenset[str]:
    """The markers of a test module."""
    reached = _reached(path) | _reached_by_conftests(path)
    found = set()
    if any(name.partition(".")[0] in TRAINING_LIBRARIES for name in reached) or reached & set(STARTS_RANKS):
        found.add("torch")
    if reached & set(STARTS_HOSTS):
        found.add("ssh")
    if path.name == "test_gpu.py":
        found.add("gpu")
    return frozenset(found)


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _reached_by_conftests(path: Path) -> set[str]:
    folders = [folder for folder in path.parents if ROOT / "tests" in folder.parents]
    return {name for folder in folders for name in _reached(folder / "conftest.py")}


def _reached(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions, and what those of the project import in turn."""
    if not path.is_file():
        return set()
    reached: set[str] = set()
    waiting = set(_imported(path))
    while waiting:
        name = waiting.pop()
        reached.add(name)
        source = _source(name)
        if source is not None:
            waiting |= _imported(source) - reached
    return reached


@cache
def _source(name: str) -> Path | None:
    if name.partition(".")[0] not in OURS:
        return None
    place = ROOT / name.replace(".", "/")
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@cache
def _imported(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {node.module} | {name for name in inner if _source(name) is not None}
    # Importing a.b.c runs a and a.b as well.
    return frozenset(".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1))
