"""CI fails on a skip that is not listed, of a test or of a module; a listed one passes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("reason", "code"), [("no NVIDIA GPU", 0), ("sshd is not installed", 1)])
def test_a_skip_passes_only_for_a_listed_reason(reason: str, code: int, tmp_path: Path) -> None:
    texts = {
        "test_one.py": f"import pytest\ndef test_it():\n    pytest.skip({reason!r})\n",
        "test_two.py": f"import pytest\npytest.skip({reason!r}, allow_module_level=True)\n",
        "test_three.py": "def test_passes():\n    pass\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.expected_skips", str(tmp_path)]
    alone = ["--rootdir", str(tmp_path), "-c", "/dev/null", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *alone], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stdout
    assert done.stdout.count("UNEXPECTED SKIP") == 2 * code
