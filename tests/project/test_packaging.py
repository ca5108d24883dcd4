"""Nothing is installed: `model` and `launch` are found in the repository's folder and nowhere else."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")

ROOT = Path(__file__).resolve().parents[2]


def test_no_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["packages"] == []


@pytest.mark.parametrize("name", ["benchmarks", "launch", "model", "planner", "runtime"])
def test_our_folders_cannot_be_imported_from_elsewhere(name: str, tmp_path: Path) -> None:
    """Unless another distribution has a package of that name, which is then not ours."""
    code = f"""
try:
    import {name}
    print({name}.__file__)
except ModuleNotFoundError as error:
    print("not found:", error.name)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == f"not found: {name}"


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-newest.txt"])
def test_every_dependency_is_pinned(file: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*settings["dependencies"], *settings["optional-dependencies"]["dev"]]
    assert {name_of(requirement) for requirement in wanted} <= pinned(file)


def test_the_planners_requirements_are_what_planner_and_launch_import() -> None:
    lines = (ROOT / "requirements-plan.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    imported = {
        name
        for place in ("planner", "launch")
        for path in (ROOT / place).rglob("*.py")
        for name in imported_packages(path)
    }
    outside = imported - sys.stdlib_module_names - {"planner", "launch"}
    # The module's name where it is not the distribution's; pydantic_core is a part of pydantic.
    distributions = {"yaml": "pyyaml", "pydantic_core": "pydantic"}
    assert {name_of(line) for line in listed} == {distributions.get(name, name) for name in outside}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(listed) <= set(project["dependencies"]), "another range than in pyproject.toml"


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!]", requirement)[0].strip().lower()


def pinned(file: str) -> set[str]:
    lines = (ROOT / file).read_text().splitlines()
    return {line.split("==")[0].lower() for line in lines if "==" in line}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
