"""Modules that a host cannot load, because they are missing or broken: one Problem, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.process.missing_module import is_load_failure, missing_module
from tests.support.launching import NOT_HANDED_ON, ROOT, STRATEGY

BROKEN = {
    # Cut short by a full disk; a library of CUDA that torch opens by itself; any other error.
    "yaml": ("def f(:\n", "SyntaxError: "),
    "torch": ("raise OSError('libcublas.so.12: cannot open shared object file')", "OSError: libcublas.so.12"),
    "psutil": ("raise RuntimeError('odd \\x1b[31m')", "RuntimeError: odd \\x1b[31m"),
    "pydantic": ("import no_such_module", "No module named 'no_such_module'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_module_that_cannot_be_loaded_is_one_problem(name: str, tmp_path: Path) -> None:
    source, words = BROKEN[name]
    module = tmp_path / "broken" / f"{name}.py"
    module.parent.mkdir()
    module.write_text(source)
    strategy = tmp_path / "smoke.yaml"
    strategy.write_text(STRATEGY.format(text=tmp_path, runs=tmp_path / "runs"))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(NOT_HANDED_ON)}
    done = subprocess.run(
        [sys.executable, "train.py", "--strategy", str(strategy), "parallel.ep=1"],
        cwd=ROOT,
        env=clean | {"PYTHONPATH": str(module.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("SW608 "), done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 3
    assert (str(module) in done.stderr) == (name != "pydantic"), "the file, unless another is missing"
    failed = tmp_path / "runs" / "smoke" / "failed.json"
    if name == "torch":  # the others are loaded before the run's folder is known
        assert json.loads(failed.read_text())["problems"][0]["code"] == "SW608"


def test_a_broken_file_of_the_project_is_restored() -> None:
    file = ROOT / "runtime" / "telemetry" / "records.py"
    fields = missing_module(SyntaxError("invalid syntax", (str(file), 3, 1, "", 3, 2)))
    assert f"cannot load {file}: SyntaxError" in fields["found"]
    assert fields["fix"].endswith(f"git checkout -- runtime/telemetry/records.py in {ROOT}")


def test_an_error_of_a_module_that_is_loaded_is_none_of_loading() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        fail()
    assert not is_load_failure(caught.value)
