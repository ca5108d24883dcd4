"""Modules that ranks import: read from source, with what only one plan needs; nothing is listed by hand."""

from pathlib import Path

import pytest

from launch.preflight.rank_modules import EXTRAS, modules_of_ranks
from planner.paths import PROJECT
from tests.support.examples import plan

# Distributions that the product needs (pyproject.toml), by the module under which ranks import each.
NEEDED = {
    "torch": "torch",
    "deepspeed": "deepspeed",
    "transformers": "transformers",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "rich": "rich",
    "psutil": "psutil",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
}
NOT_OF_RANKS = {"typer", "nvidia-ml-py"}  # of the commands, and of preflight's own program


def test_every_requirement_of_the_product_is_looked_for() -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    lines = text.partition("\ndependencies = [\n")[2].partition("\n]")[0].splitlines()
    # What an older Python needs instead of its own module is looked for there only.
    required = {line.strip().strip('",').partition(">")[0] for line in lines if "python_version" not in line}
    assert required == {*NEEDED, *NOT_OF_RANKS}
    assert set(NEEDED.values()) <= set(modules_of_ranks(plan()))


def test_extras_and_what_the_plan_leaves_out_are_not() -> None:
    found = set(modules_of_ranks(plan("operate.tensorboard=false")))
    assert "tensorboard" not in found
    assert not found & EXTRAS
    assert not found & {"launch", "planner", "runtime", "model", "json", "__future__"}


def test_what_only_another_version_of_python_needs_is_not(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import sys\nif sys.version_info >= (3, 2):\n    import needed\nelse:\n    import of_old\n"
        "if sys.version_info >= (4, 0):\n    import of_new\nelse:\n    import of_today\n"
    )
    assert modules_of_ranks(plan(), tmp_path) == ("needed", "of_today")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "train.py": "import json\nfrom runtime.run import go\n",
        "runtime/__init__.py": "import of_the_package\n",
        "runtime/run.py": "def go():\n    import lazily.imported\n    from . import beside, inner\n",
        "runtime/beside.py": "from .inner.deep import x\nfrom torch.utils.tensorboard import SummaryWriter\n",
        "runtime/inner/__init__.py": "",
        "runtime/inner/deep.py": "from ..beside import y\nimport deep_down as d, os.path\n",
        "runtime/unused.py": "import nobody_needs\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_are_followed_through_every_file_that_the_program_leads_to(project: Path) -> None:
    expected = ("deep_down", "lazily", "of_the_package", "tensorboard", "torch")
    assert modules_of_ranks(plan(), project) == expected
