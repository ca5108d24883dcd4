"""`python -m launch generate`, and the launch.sh that it writes, for real: DeepSpeed and two ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.smoke.launching import ROOT, Launch


def test_generated_script_trains_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    launch = Launch(folder)
    generate = [sys.executable, "-m", "launch", "generate", str(launch.strategy), "training.steps=3"]
    subprocess.run(generate, cwd=ROOT, check=True, timeout=60)
    written = {
        name: (launch.run / name).read_bytes() for name in ("strategy.yaml", "plan.json", "ds_config.json")
    }
    done = subprocess.run(
        [str(launch.run / "launch.sh")],
        cwd=tmp_path,  # it finds its own way to the project
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "9"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 3/3" in done.stdout
    assert launch.read("done.json")["step"] == 3
    # The ranks had the variables of the file: rank 0 writes the same bytes, with those variables.
    assert {name: (launch.run / name).read_bytes() for name in written} == written
    assert json.loads(written["plan.json"])["environment"]["EXPERT_GPUS"] == "0,1"
