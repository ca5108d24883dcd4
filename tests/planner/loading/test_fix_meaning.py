"""Every fix means what was written: the value is kept, under the key and in the spelling that are read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from planner import loads
from planner.yaml12 import Document
from tests.support.examples import TEXT
from tests.support.fixes import Written, settle

# what is written -> the override that means it
RESPELLED = {
    "training.steps='100'": "training.steps=100",
    "training.steps=1_000": "training.steps=1000",
    "training.steps=1,000": "training.steps=1000",
    "training.steps=[100]": "training.steps=100",
    "training.steps=2k": "training.steps=2000",
    "training.precision=bfloat16": "training.precision=bf16",
    "training.precision=float32": "training.precision=fp32",
    "training.precision=BF16": "training.precision=bf16",
    "training.learning_rate=-3e-4": "training.learning_rate=3e-4",
    "training.learning_rate='1e-4'": "training.learning_rate=1e-4",
    "runtime.deterministic=yes": "runtime.deterministic=true",
    "operate.tensorboard=off": "operate.tensorboard=false",
    "runtime.recompute=full": "runtime.recompute=layer",
    "runtime.recompute=true": "runtime.recompute=layer",
    "limits.utilization_min=95": "limits.utilization_min=0.95",
    "limits.communication_share_max=8": "limits.communication_share_max=0.08",
    "limits.balance_min=100": "limits.balance_min=1",
    "training.warmup_steps=10%": "training.warmup_steps=10",  # of 100 steps
    "training.warmup_steps=0.1": "training.warmup_steps=10",
    "training.warmup_steps=0.001": "training.warmup_steps=1",
    "output.checkpoint_every=25 %": "output.checkpoint_every=25",
    "training.min_learning_rate=10%": "training.min_learning_rate=3e-5",  # of 3e-4
    "runtime.recompute={layers: 99}": "runtime.recompute=layer",
    "launch.environment={a: null}": 'launch.environment={a: "1"}',
    "limits.utilization_min=95 %": "limits.utilization_min=0.95",
    "limits.memory_max=-1 GB": "limits.memory_max=1 GB",
    "limits.memory_max=64G": "limits.memory_max=64 GB",
    "limits.memory_max=64 gigabytes": "limits.memory_max=64 GB",
    "limits.memory_max=64": "limits.memory_max=64 GB",
    "cluster.hosts={}": "cluster.hosts=1",  # not a hostfile that nobody has written
    "cluster.links.inter_host=10 GBps": "cluster.links.inter_host=10 GB/s",
    "cluster.links.inter_host=10 GB": "cluster.links.inter_host=10 GB/s",
    "cluster.links.inter_host=400 Gbit": "cluster.links.inter_host=400 Gbps",
    "cluster.links.inter_host=400GbE": "cluster.links.inter_host=400 Gbps",
    "cluster.links.inter_host=NDR800": "cluster.links.inter_host=800 Gbps",
    "cluster.links.inter_host=InfiniBand HDR": "cluster.links.inter_host=HDR",
    "cluster.links.intra_host=NVLnk4": "cluster.links.intra_host=NVLink4",
    "cluster.gpu=h1000": "cluster.gpu=H100",
    "launch.timeout=10 minutes": "launch.timeout=10 min",
    "launch.timeout=600": "launch.timeout=600 s",
    "cluster.cost=$2.5": "cluster.cost=2.5 $/GPU-hour",
    "cluster.mtbf=50000 hours": "cluster.mtbf=50000 h",
    "parallel=ep4_tp2": "parallel=EP4_TP2",
    "parallel=EP=4,TP=2": "parallel=EP4_TP2",
    "name=../up": "name=up",
    "name=7": 'name="7"',
    "operate.hook=7": 'operate.hook="7"',
    'data.path=["", a]': "data.path=[a]",
    "modle.num_shared_experts=1": "model.num_shared_experts=1",
    "model.num_share_experts=1": "model.num_shared_experts=1",
    "training.warmupsteps=3": "training.warmup_steps=3",
    "training.num_experts_per_tok=2": "model.num_experts_per_tok=2",
    "ep=4": "parallel.ep=4",
    "launch.environment={A-B: x}": "launch.environment={A_B: x}",
    "parallel.ep:4": "parallel.ep=4",
    "--parallel.ep 4": "parallel.ep=4",
    "output.folder=null": "output.folder=runs",
    # off, never and without end, for keys that say it in another way
    "training.gradient_clipping=off": "training.gradient_clipping=0",
    "training.gradient_clipping=null": "training.gradient_clipping=0",
    "training.warmup_steps=none": "training.warmup_steps=0",
    "training.z_loss=false": "training.z_loss=0",
    "training.balance=none": "training.balance_loss=0",
    "output.checkpoint_every=0": "output.checkpoint_every=100",  # the last of 100 steps
    "output.checkpoint_every=never": "output.checkpoint_every=100",
    "output.save_interval=0": "output.checkpoint_every=100",
    "output.validate_every=-1": "output.validate_every=100",
    "output.keep_every=0": "output.keep_every=null",
    "output.keep_last=0": "output.keep_every=1",
    "output.keep_last=null": "output.keep_every=1",
    "operate.metrics_port=off": "operate.metrics_port=null",
    "launch.timeout=0": "launch.timeout=30 d",
    "launch.launcher=slurm": "launch.launcher=srun",
    # one value where a section belongs
    "output=results": "output.folder=results",
    "data=texts": "data.path=texts",
    "data=0.7 a 0.3 b": "data.mix=[{path: a, weight: 0.7}, {path: b, weight: 0.3}]",
    "data.path=0.7 a 0.3 b": "data.mix=[{path: a, weight: 0.7}, {path: b, weight: 0.3}]",
    "data.path=[0.7 a, 0.3 b]": "data.mix=[{path: a, weight: 0.7}, {path: b, weight: 0.3}]",
    "launch=slurm": "launch.launcher=srun",
    "limits=64 GB": "limits.memory_max=64 GB",
    "parallel=8": "parallel.ep=8",
    "parallel={ep:8, tp:2}": "parallel={ep: 8, tp: 2}",
    "parallel={tp_size:2}": "parallel={tp: 2}",
    "training.optimizer=adam": "training.optimizer={}",
    "optimizer=adam": "training.optimizer={}",
    # 16 hosts of 8 GPUs are 128, over which ep 1 and pp 1 leave 128 replicas
    "parallel.data_parallel_shard_degree=-1": "parallel.dp=128",
}


@pytest.mark.parametrize("found", RESPELLED)
def test_a_fix_means_what_was_written(found: str) -> None:
    fixed = settle(Written.of(TEXT, found))
    assert fixed == loads(TEXT, [RESPELLED[found]])


@pytest.mark.parametrize("found", [key for key in RESPELLED if re.match(r"[a-z_.]+=", key)])
def test_a_fix_in_the_file_means_what_was_written(found: str) -> None:
    """The same mistakes, written in the file."""
    written = Written.of(TEXT)
    key, _, value = found.partition("=")
    place: Any = written.data
    *before, last = key.split(".")
    for name in before:
        if isinstance(place.get(name, {}), str):
            return
        place = place.setdefault(name, {})
    root = Document(value, None).root
    place[last] = root.plain() if root is not None else None
    assert settle(written) == loads(TEXT, [RESPELLED[found]])


# an argument -> the overrides that it means
ARGUMENTS = {
    "steps=20": ["training.steps=20"],
    "steps:20": ["training.steps=20"],
    "cluster.name=x": ["name=x"],
    **{
        f"{key}=20": ["training.steps=20"]
        for key in (
            "training/steps",
            "training:steps",
            "training__steps",
            "training[steps]",
            "+training.steps",
        )
    },
    "training['steps']=20": ["training.steps=20"],
    "'training.steps=20'": ["training.steps=20"],
    '"training.steps=20"': ["training.steps=20"],
    "training.steps =20 steps": ["training.steps=20"],
    "training.learning_rate=2e\u22124": ["training.learning_rate=2e-4"],
    "training.tokens=": [],
    "limits.memory_max=": ["limits.memory_max=null"],
    "Training.Steps=20": ["training.steps=20"],
    "training steps=20": ["training.steps=20"],
    "training.global-batch=64": ["training.global_batch=64"],
    "parallel.ep=2 training.steps=4": ["parallel.ep=2", "training.steps=4"],
    "parallel.ep=2, steps=4": ["parallel.ep=2", "training.steps=4"],
    "parallel={ep: 2} training.steps=4": ["parallel={ep: 2}", "training.steps=4"],
    "data.path=x training.steps=4": ["data.path=x", "training.steps=4"],
    "cluster={spare_hosts: 1}": ["cluster.spare_hosts=1"],
    "cluster={name: b}": ["name=b"],
    "training={steps: 3, optimizer: {eps: 1e-6}}": ["training.steps=3", "training.optimizer.eps=1e-6"],
    "cluster={}": [],
    "cluster=8xH100": ["cluster.gpus_per_host=8", "cluster.gpu=H100"],
    "cluster=4": ["cluster.hosts=4"],
    "cluster.links=200 Gbps": ["cluster.links={intra_host: 200 Gbps, inter_host: 200 Gbps}"],
    "cluster.links=HDR": ["cluster.links={intra_host: NVLink4, inter_host: HDR}"],
    "training=2000": ["training.steps=2000"],
    "cluster.hosts=[::1]": ["cluster.hosts=['::1']"],
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_the_fix_of_an_argument_means_what_was_written(argument: str) -> None:
    assert settle(Written.of(TEXT, argument)) == loads(TEXT, ARGUMENTS[argument])


@pytest.mark.parametrize(
    "text", ["data.path=a b=2", "data.path=/x y, z=1", "launch.prologue=[export A=1 B=2]"]
)
def test_a_text_with_an_equals_sign_is_one_value(text: str) -> None:
    assert not Written.of(TEXT, text).problems()


def test_folders_that_begin_with_a_year_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.7 a 0.3 b").mkdir()
    for value in ("2024 news", ["2023 news", "2024 news"], "0.7 a 0.3 b"):
        assert not Written.of(TEXT, f"data.path={json.dumps(value)}").problems()


def test_a_model_by_name_is_told_where_its_shape_is() -> None:
    (problem,) = Written.of(TEXT, "model=mixtral").problems()
    assert (
        problem.fix == "add --from FOLDER with the folder of mixtral or its config.json, and leave model out"
    )


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        (
            "cluster.gpu={memory: 24 GB, memory_bandwidth: 1 TB/s, peak: {}}",
            "write cluster.gpu.peak: {bf16: 400 TFLOPS}",
        ),
        (
            "training.warmup_steps=0.1",
            "write training.warmup_steps=10, 10 % of 100 steps, or a number of steps where 0.1 is",
        ),
        ("data.path=%USERPROFILE%/x", "write $HOME, or write the path out"),
        ("data.path=%SCRATCH%/x", "write $SCRATCH, or write the path out"),
        ("name='a\\nb'", "write name=a-nb"),
        ("cluster.links.inter_host=fast", "write inter_host: 400 Gbps with the figure of the link"),
        ("training.optimizer=sgd", "leave optimizer out; the optimizer is then AdamW"),
        (
            "cluster.links.inter_host=10 gb/s",
            "write 'cluster.links.inter_host=10 Gbps', or 10 GB/s where bytes",
        ),
    ],
)
def test_what_cannot_be_known_is_said(override: str, fix: str) -> None:
    (problem,) = Written.of(TEXT, override).problems()
    assert problem.fix.startswith(fix)


def test_a_missing_section_is_shown_with_an_example() -> None:
    for section in ("cluster", "model", "training"):
        written = Written.of(TEXT)
        del written.data[section]
        problems = [p for p in written.problems() if p.code == "SW110"]
        assert [problem.path for problem in problems] == [section]
        assert f"add {section}: {{" in problems[0].fix
        assert settle(written)


def test_a_described_gpu_without_parts_is_told_each_of_them() -> None:
    written = Written.of(TEXT, "cluster.gpu={memory: 24 GB}")
    assert {problem.path for problem in written.problems()} == {
        "cluster.gpu.memory_bandwidth",
        "cluster.gpu.peak",
    }
    assert all("with " in p.expected and not p.expected.endswith("with ") for p in written.problems())
    assert settle(written)


@pytest.mark.parametrize(
    ("written", "override", "means"),
    [
        ("data: {path: corpus, packing: documents}", "data={tokenizer: tok}", "data.tokenizer=tok"),
        ("output: {folder: /scratch/runs}", "output={keep_last: 3}", "output.keep_last=3"),
    ],
)
def test_a_section_does_not_lose_what_is_trained_or_where(written: str, override: str, means: str) -> None:
    """data={tokenizer: tok} would train on the default data, without a word."""
    text = f"{TEXT}\n{written}\n"
    (problem,) = Written.of(text, override).problems()
    assert problem.code == "SW126"
    assert settle(Written.of(text, override)) == loads(text, [means])


def test_the_name_of_a_device_may_be_overridden_where_only_a_name_is_written() -> None:
    text = TEXT.replace("cluster:", "cluster: {gpu: H100, hosts: 4, gpus_per_host: 8}\nx:", 1).split("x:")[0]
    (problem,) = [p for p in Written.of(text, "cluster.gpu.name=H200").problems() if p.code == "SW124"]
    assert problem.fix == "write cluster.gpu=H200"


def test_a_fix_is_not_what_is_written_already() -> None:
    """ep 3 nests with no tp of 2, and divides no 64 experts: once it divides them, tp fits too."""
    codes = [problem.code for problem in Written.of(TEXT, "parallel.ep=3", "parallel.tp=2").problems()]
    assert "SW201" in codes
    assert "SW202" not in codes
