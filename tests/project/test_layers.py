"""Imports follow the architecture: between folders, between the rooms of a folder, and never in a circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# folder (or file) -> which of our own it may import; lazy and type-only imports count
ALLOWED = {
    "planner": {"planner"},
    "launch": {"launch", "planner"},
    "model": {"model"},
    "runtime": {"runtime", "model", "planner"},
    "train.py": {"runtime", "planner"},
}
# The rooms of each folder, floor by floor. A room imports itself and the floors below it, which are listed
# before it; rooms on one floor do not import each other.
FLOORS = {
    "planner": (
        ("problems", "units", "errors", "exit_codes", "files", "paths", "version"),
        ("terminal_text",),
        ("standard_streams", "run_files", "run_holder", "heartbeats"),
        ("yaml12_scalars", "yaml12_stream", "yaml12_mistakes"),
        ("yaml12",),
        ("yaml12_writer",),
        ("hardware",),
        ("strategy",),
        ("topology",),
        ("rules",),
        ("loading",),
        ("plan",),
        ("counts",),
        ("memory",),
        ("build",),
        ("timing",),
        ("prediction",),
        ("search",),
        ("audit",),
        ("report",),
        ("generated", "__init__"),
    ),
    "runtime": (
        ("process", "files"),
        ("profiling",),
        ("parallel",),
        ("preflight", "data"),
        ("training",),
        ("checkpoint",),
        ("telemetry",),
        ("startup",),
        ("generate", "probe", "attempts", "drill", "warm_parent", "__init__"),
    ),
    "launch": (
        ("cli", "ssh", "remote"),
        ("scripts",),
        ("job", "launcher_output"),
        ("preflight", "supervisor"),
        ("drill",),
        ("run_folder",),
        ("monitor",),
        ("run_report",),
        ("commands",),
        ("__main__", "__init__"),
    ),
}
OURS = {"planner", "launch", "model", "runtime", "train", "tests", "benchmarks"}
# what thinking and acting on a cluster must not need
HEAVY = {"torch", "deepspeed", "transformers", "numpy", "tokenizers", "safetensors"}


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for place in ALLOWED for path in sources(place)}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports; `from a import b` names a.b where that is a module, else a."""
    names = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *(node.module or "").split("."))).strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                names.add(inner if inner in MODULES else base)
    return names


def top(name: str) -> str:
    return name.partition(".")[0]


def floor_of(module: str) -> int | None:
    """Which floor of its folder a module stands on; None for what the table does not list."""
    folder, _, rest = module.partition(".")
    room = rest.partition(".")[0] or "__init__"
    return next((i for i, rooms in enumerate(FLOORS[folder]) if room in rooms), None)


def inner_arrows(folder: str) -> Iterator[tuple[str, str]]:
    for module, path in MODULES.items():
        if top(module) == folder:
            yield from ((module, name) for name in imported(path) if top(name) == folder and name != module)


@pytest.mark.parametrize("place", ALLOWED)
def test_imports_follow_the_arrows(place: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(place)
        for name in imported(path)
        if top(name) in OURS - ALLOWED[place]
    }
    assert not wrong


@pytest.mark.parametrize("folder", FLOORS)
def test_every_room_has_a_floor(folder: str) -> None:
    assert not {module for module in MODULES if top(module) == folder and floor_of(module) is None}


@pytest.mark.parametrize("folder", FLOORS)
def test_rooms_import_downward(folder: str) -> None:
    wrong = set()
    for module, name in inner_arrows(folder):
        here, there = floor_of(module), floor_of(name)
        assert here is not None
        assert there is not None
        same_room = module.split(".")[1:2] == name.split(".")[1:2]
        if not same_room and there >= here:
            wrong.add(f"{module} imports {name}")
    assert not wrong


def test_no_circle() -> None:
    """Type-only and lazy imports count. A package's face counts as the modules that it imports."""
    arrows = {module: imported(path) & MODULES.keys() - {module} for module, path in MODULES.items()}
    while True:
        ends = {module for module, names in arrows.items() if not names}
        if not ends:
            break
        arrows = {module: names - ends for module, names in arrows.items() if module not in ends}
    assert not arrows, "modules in a circle, or above one"


@pytest.mark.parametrize("place", ["planner", "launch"])
def test_thinking_names_no_heavy_library(place: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {found}"
        for path in sources(place)
        if (found := {top(name) for name in imported(path)} & HEAVY)
    }
    assert not wrong


def test_planner_and_launch_import_no_torch() -> None:
    code = "import sys, planner, launch.__main__; print({'torch', 'deepspeed', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"
