"""Imports go along the arrows of the architecture only, and planning never needs torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# folder (or file) -> which of our own it may import; lazy imports count
ALLOWED = {
    "planner": {"planner"},
    "launch": {"launch", "planner"},
    "model": {"model"},
    "runtime": {"runtime", "model", "planner"},
    "train.py": {"runtime", "planner"},
}
OURS = {"planner", "launch", "model", "runtime", "train", "tests", "benchmarks"}
# what thinking and acting on a cluster must not need
HEAVY = {"torch", "deepspeed", "transformers", "numpy", "tokenizers", "safetensors"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(path.parent.name if node.level else str(node.module).partition(".")[0])
    return names


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("place", ALLOWED)
def test_imports_follow_the_arrows(place: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(place)
        for name in imported(path) & OURS - ALLOWED[place]
    }
    assert not wrong


@pytest.mark.parametrize("place", ["planner", "launch"])
def test_thinking_names_no_heavy_library(place: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {imported(path) & HEAVY}"
        for path in sources(place)
        if imported(path) & HEAVY
    }
    assert not wrong


def test_planner_and_launch_import_no_torch() -> None:
    code = "import sys, planner, launch.__main__; print({'torch', 'deepspeed', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"
