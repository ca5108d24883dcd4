"""The fingerprint of the project's code: the same for the same files, another for any change of them."""

import hashlib
from pathlib import Path

import pytest

from planner.plan.code_fingerprint import code_fingerprint, list_source_files


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {
        "train.py": "print(1)\n",
        "planner/hardware/devices.yaml": "H100: 1\n",
        "planner/deep/er.py": "x = 1\n",
        "tests/test_x.py": "",
        "runtime/__pycache__/x.pyc": "compiled",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_is_the_hash_of_names_and_contents(project: Path) -> None:
    lines = [
        f"{hashlib.sha256(b'x = 1' + bytes([10])).hexdigest()} planner/deep/er.py",
        f"{hashlib.sha256(b'H100: 1' + bytes([10])).hexdigest()} planner/hardware/devices.yaml",
        f"{hashlib.sha256(b'print(1)' + bytes([10])).hexdigest()} train.py",
    ]
    text = "".join(f"{line}\n" for line in lines)
    assert code_fingerprint(project) == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("change", ["content", "name", "more", "fewer"])
def test_any_change_of_the_code_shows(project: Path, change: str) -> None:
    before = code_fingerprint(project)
    if change == "content":
        (project / "train.py").write_text("print(2)\n")
    elif change == "name":
        (project / "train.py").rename(project / "planner" / "train.py")
    elif change == "more":
        (project / "model").mkdir()
        (project / "model/new.py").write_text("")
    else:
        (project / "planner/deep/er.py").unlink()
    assert code_fingerprint(project) != before


def test_tests_and_compiled_files_do_not_count(project: Path) -> None:
    before = code_fingerprint(project)
    (project / "tests/test_x.py").write_text("assert True\n")
    (project / "runtime/__pycache__/x.pyc").unlink()
    (project / "runs").mkdir()
    (project / "runs/x.py").write_text("")
    assert code_fingerprint(project) == before


def test_it_covers_this_project() -> None:
    covered = {file.as_posix() for file in list_source_files()}
    assert {
        "train.py",
        "planner/plan/code_fingerprint.py",
        "planner/hardware/devices.yaml",
        "model/moe.py",
        "launch/scripts/templates/launch.sh.in",
    } <= covered
