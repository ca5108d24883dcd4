"""The warm parent's imports: everything that a rank imports until its last step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from planner.paths import PROJECT
from tests.support.launching import Launch, free_port

LIST = """
import json, os, sys
os.environ["DS_ACCELERATOR"] = "cpu"
from runtime.warm_parent import import_all
import_all()
print(json.dumps({"modules": sorted(sys.modules), "threads": len(os.listdir("/proc/self/task"))}))
"""


@pytest.mark.slow
def test_a_forked_rank_has_nothing_left_to_import(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    command = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port()), "--no_local_rank"]
    command += ["--module", "tests.support.module_list", str(tmp_path)]
    code, output = launch.run_command(*command, "--strategy", str(launch.strategy))
    assert code == 0, output
    warm = subprocess.run(
        [sys.executable, "-c", LIST], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    told = json.loads(warm.stdout.splitlines()[-1])
    assert told["threads"] == 1
    for rank in range(2):
        imported = set(json.loads((tmp_path / f"modules-{rank}.json").read_text()))
        late = imported - set(told["modules"]) - {"tests.support.module_list"}
        assert len(late) < 40, sorted(late)
