"""A bit flips in a real run: it ends and says where; the next has the bits of an unbroken one."""

import json
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.launching import Launch, free_port


def _train(launch: Launch, mark: Path) -> tuple[int, str]:
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2"]
    program = ["--master_port", str(free_port()), "tests/support/flipped_train.py"]
    keys = ("runtime.check_replicas_every=1", "runtime.replay_every=2")
    return launch.run_command(
        *runner, *program, "--strategy", str(launch.strategy), *keys, env={"FLIPPED_MARK": str(mark)}
    )


@pytest.mark.slow  # three launches
def test_a_flipped_bit_ends_the_run_and_the_next_has_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    mark = tmp_path / "mark"
    mark.touch()
    unbroken, broken = Launch(tmp_path / "unbroken"), Launch(tmp_path / "broken")
    code, output = _train(unbroken, mark)
    assert code == 0, output
    mark.unlink()

    code, output = _train(broken, mark)
    assert code != 0
    assert output.count("SW902 step 5: copies differ: weight model.norm.weight of ranks 0,1 on ") == 1
    assert "Traceback" not in output
    failed = broken.read("failed.json")
    (problem,) = failed["problems"]
    assert (failed["code"], failed["checkpoint"]) == (3, 3)
    assert (problem["code"], problem["step"], problem["ranks"]) == ("SW902", 5, [0, 1])
    kept = [load_file(Path(problem["tensors"]) / f"rank-000{rank}.safetensors") for rank in (0, 1)]
    ours, theirs = (one["weight model.norm.weight"] for one in kept)
    assert (ours != theirs).nonzero()[0].tolist() == [7]
    assert [line["step"] for line in broken.lines()] == [1, 2, 3, 4]

    code, output = _train(broken, mark)
    assert code == 0, output
    assert broken.losses() == unbroken.losses()
    lines = [json.loads(line) for line in (broken.run / "telemetry.jsonl").read_text().splitlines()]
    checked = {line["step"]: line["checked"] for line in lines}
    assert all(one["replicas"] and one["seconds"] > 0 for one in checked.values())
    # Two micro-batches a step, in turn; a step before a checkpoint replays one too.
    replayed = {step: one["replayed"] for step, one in checked.items() if one["replayed"] is not None}
    assert sorted(replayed) == [2, 3, 4, 6, 8, 9, 10, 12]
    assert set(replayed.values()) == {0, 1}
