"""torchtitan's jobs in TOML: read by `--from`, told what they are in the place of a strategy."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from planner import StrategyError, load, loads
from planner.loading.source_file import read_source
from planner.loading.toml_document import looks_like_toml, read_toml
from tests.support.examples import TEXT

# train_configs/deepseek_v3_16b.toml, shortened.
JOB = """\
# torchtitan Config.toml

[job]
dump_folder = "./outputs"

[model]
name = "deepseek_v3"

[optimizer]
name = "AdamW"
lr = 2.2e-4

[lr_scheduler]
warmup_steps = 200
decay_type = "cosine"
min_lr_factor = 0.1

[training]
local_batch_size = 4
seq_len = 4096
max_norm = 1.0
steps = 1000
dataset = "c4"

[parallelism]
data_parallel_replicate_degree = 1
data_parallel_shard_degree = -1
tensor_parallel_degree = 1
pipeline_parallel_degree = 1
expert_parallel_degree = 8
context_parallel_degree = 1

[checkpoint]
enable = true
interval = 500

[activation_checkpoint]
mode = "selective"
"""


def job(folder: Path, text: str = JOB, name: str = "job.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["job.toml", "job"])
def test_a_job_is_read_by_its_content(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["plan", "--from", job(tmp_path, name=name), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["strategy"] == {
        "output": {"folder": "./outputs", "checkpoint_every": 500},
        "training": {
            "learning_rate": 2.2e-4,
            "warmup_steps": 200,
            "min_learning_rate": 2.2e-5,  # 0.1 of the rate
            "micro_batch": 4,
            "seq_length": 4096,
            "gradient_clipping": 1.0,
            "steps": 1000,
        },
        "parallel": {"tp": 1, "pp": 1, "ep": 8},
        "data": {"path": "allenai/c4:en"},
        "runtime": {"recompute": "attention"},
    }
    assert "-1 is all GPUs" in found["left_out"]["parallelism.data_parallel_shard_degree"]


def test_all_gpus_are_those_of_the_strategy(tmp_path: Path) -> None:
    """16 hosts of 8 GPUs, of which 8 share the experts, are 16 replicas."""
    given = job(tmp_path, JOB.replace("local_batch_size = 4", "local_batch_size = 1"))
    loaded = loads(TEXT, model_from=given)
    assert (loaded.parallel.ep, loaded.parallel.dp) == (8, 16)


def test_a_job_as_a_strategy_is_told_what_it_is(tmp_path: Path) -> None:
    given = job(tmp_path)
    with pytest.raises(StrategyError) as caught:
        load(given)
    (problem,) = caught.value.problems
    assert (problem.code, problem.found) == ("SW109", "this is a torchtitan configuration, not a strategy")
    assert problem.fix == f"python -m launch plan --from {given}"


def test_a_strategy_in_toml_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(StrategyError) as caught:
        load(job(tmp_path, '[cluster]\nhosts = 1\n[training]\nglobal_batch = "2"\n'))
    (problem,) = caught.value.problems
    assert (problem.code, problem.found) == ("SW102", "this is TOML, not YAML")


def test_a_mistake_of_form_has_its_line(tmp_path: Path) -> None:
    given = job(tmp_path, JOB.replace('decay_type = "cosine"', "decay_type = cosine"))
    with pytest.raises(StrategyError) as caught:
        read_source(given)
    (problem,) = caught.value.problems
    assert (problem.code, problem.line) == ("SW102", 15)


def test_a_wrong_value_has_its_line(tmp_path: Path) -> None:
    given = job(tmp_path, JOB.replace("seq_len = 4096", "seq_len = -1"))
    assert main(["plan", "--from", given]) == 2
    root = read_toml(JOB)
    assert root is not None
    training = root.entries["training"].value
    assert training.entries["seq_len"].line == 20  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["cluster:\n  hosts: 1\n", '{"a": 1}', "# [x]\nname: y\n", "", "[a, b]: 1"])
def test_yaml_and_json_are_not_taken_for_toml(text: str) -> None:
    assert not looks_like_toml(text) or read_toml(text) is None
