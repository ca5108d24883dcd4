"""Numbers and quantities in the spellings of people: the fix keeps the number, and names a second reading."""

import pytest

from planner import loads
from planner.loading.duration_spellings import read_duration
from planner.loading.number_spellings import read_numbers, split_number
from planner.loading.unit_spellings import suggest_quantity
from planner.strategy.addresses import copy_command
from tests.support.examples import TEXT
from tests.support.fixes import Written, settle

# what is written -> the override that means it
RESPELLED = {
    "limits.memory_max=80 gigs": "limits.memory_max=80 GB",
    "limits.memory_max=80 GB HBM3": "limits.memory_max=80 GB",
    "limits.memory_max=~80 GB": "limits.memory_max=80 GB",
    "limits.memory_max=90%": "limits.memory_max=57.6 GB",  # of 64 GB
    "limits.memory_max=81920": "limits.memory_max=81920 MiB",  # as nvidia-smi prints it
    "limits.memory_max=85899345920": "limits.memory_max=85899345920 B",
    "launch.timeout=00:30:00": "launch.timeout=30 min",
    "launch.timeout=1-12:00:00": "launch.timeout=36 h",
    "launch.timeout=30:00": "launch.timeout=30 min",
    "launch.timeout=1h30m": "launch.timeout=90 min",
    "launch.timeout=1 h 30 min": "launch.timeout=90 min",
    "launch.timeout=PT30M": "launch.timeout=30 min",
    "launch.timeout=2 weeks": "launch.timeout=14 d",
    "cluster.mtbf=5 years": "cluster.mtbf=1825 d",
    "cluster.mtbf=50k hours": "cluster.mtbf=50000 h",
    "cluster.cost=2 dollars per hour": "cluster.cost=2 $/GPU-hour",
    "cluster.links.inter_host=8x400 Gbps": "cluster.links.inter_host=400 Gbps",
    "cluster.links.per_host=8x400 Gbps": "cluster.links.per_host=3200 Gbps",
    "cluster.links.inter_host=3.2Tb": "cluster.links.inter_host=3.2 Tbps",
    "cluster.links.inter_host=400G InfiniBand": "cluster.links.inter_host=400 Gbps",
    "cluster.links.inter_host=ConnectX-7": "cluster.links.inter_host=400 Gbps",
    "cluster.links.intra_host=900": "cluster.links.intra_host=900 GB/s",
    "cluster.links.intra_host=900 GB/s bidirectional": "cluster.links.intra_host=450 GB/s",
    "cluster.links.intra_host=NVLink 4.0": "cluster.links.intra_host=NVLink4",
    "cluster.links.intra_host=nvlink3.0": "cluster.links.intra_host=NVLink3",
    "cluster.links.intra_host=4th gen NVLink": "cluster.links.intra_host=NVLink4",
    "cluster.links.intra_host=PCIe Gen5 x16": "cluster.links.intra_host=PCIe5",
    "cluster.links.oversubscription=2:1": "cluster.links.oversubscription=2",
    "cluster.gpu=NVIDIA H100 80GB HBM3": "cluster.gpu=H100",
    "cluster.gpu=H100-SXM5-80GB": "cluster.gpu=H100",
    "cluster.gpu=a100-sxm4-80gb": "cluster.gpu=A100-80GB",
    "cluster.gpu=8xH100": "cluster.gpu=H100",
    "cluster.gpu=A100 40GB": "cluster.gpu={name: A100-80GB, memory: 40 GB}",
    "cluster.gpus_per_host=8x": "cluster.gpus_per_host=8",
    "cluster.hosts=16 nodes": "cluster.hosts=16",
    "cluster.hosts=2x8": "cluster.hosts=2",
    "output.checkpoint_every=500 steps": "output.checkpoint_every=500",
    "output.checkpoint_every=1,000": "output.checkpoint_every=1000",
    "training.seq_length=4k": "training.seq_length=4096",
    "training.seq_length=4096 tokens": "training.seq_length=4096",
    "training.seq_length=2^12": "training.seq_length=4096",
    "training.seq_length=4*1024": "training.seq_length=4096",
    "training.global_batch=4M tokens": "training.global_batch=3906",  # of 1024
    "training.global_batch=256 sequences": "training.global_batch=256",
    "training.warmup_steps=1M tokens": "training.warmup_steps=8",  # of 128 × 1024
    "training.steps=1.5k": "training.steps=1500",
    "training.learning_rate=3e4": "training.learning_rate=3e-4",
    "training.learning_rate=0,0001": "training.learning_rate=1e-4",
    "training.learning_rate=3×10^-5": "training.learning_rate=3e-5",
    "training.optimizer.betas=(0.8, 0.9)": "training.optimizer.betas=[0.8, 0.9]",
    "training.optimizer.betas=0.8": "training.optimizer.betas=[0.8, 0.95]",
    "model.vocab_size=128k": "model.vocab_size=128000",
    "model.num_experts=8x": "model.num_experts=8",
    "model.num_experts_per_tok=top-2": "model.num_experts_per_tok=2",
    "model.rope_theta=10k": "model.rope_theta=10000",
    "parallel.ep=8 ways": "parallel.ep=8",
    "parallel.zero_stage=zero2": "parallel.zero_stage=2",
    "data.path=file:///data/x": "data.path=/data/x",
}


@pytest.mark.parametrize("found", RESPELLED)
def test_a_fix_keeps_the_number_that_was_written(found: str) -> None:
    written, wanted = Written.of(TEXT, found), RESPELLED[found]
    for problem in written.problems()[:1]:
        assert problem.path == wanted.partition("=")[0]
    assert settle(written) == settle(Written.of(TEXT, wanted))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1,000,000", 10**6),
        ("1.000.000", 10**6),
        ("1 000 000", 10**6),
        ("1e6 tokens", 10**6),
        ("1.5 T tokens", 15 * 10**11),
        ("20B tok", 2 * 10**10),
        ("1 trillion", 10**12),
    ],
)
def test_tokens_keep_their_number(text: str, tokens: int) -> None:
    without_steps = TEXT.replace("  steps: 100\n", "")
    assert settle(Written.of(without_steps, f"training.tokens={text}")).training.tokens == tokens


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("training.seq_length=4k", "or 4000 where k is 1000"),
        ("model.vocab_size=128k", "or 131072 where k is 1024"),
        ("launch.timeout=30:00", "or 30 h where hours are meant"),
        ("cluster.links.intra_host=900", "or Gbps; one way: data sheets of NVLink add both directions"),
        ("cluster.links.intra_host=NVLink", "or NVLink3 of A100, NVLink5 of B200"),
        ("output.checkpoint_every=30 min", "30 min / the step time that plan prints"),
        ("output.checkpoint_every=1 epoch", "those of an epoch follow from the data"),
    ],
)
def test_what_has_two_readings_names_both(override: str, hint: str) -> None:
    (problem,) = Written.of(TEXT, override).problems()
    assert hint in problem.fix


def test_nvlink_without_a_generation_is_the_one_of_the_gpu() -> None:
    found = Written.of(TEXT, "cluster.gpu=B200", "cluster.links.intra_host=NVLink")
    assert settle(found) == loads(TEXT, ["cluster.gpu=B200", "cluster.links.intra_host=NVLink5"])


@pytest.mark.parametrize(
    ("text", "number", "rest"),
    [
        ("3,350 GB/s", "3350", "GB/s"),
        ("3,35 TB/s", "3.35", "TB/s"),  # a decimal comma, not 335
        ("0,0003", "0.0003", ""),
        ("1.5", "1.5", ""),
        ("1'000 s", "1000", "s"),
        ("1_000", "1000", ""),
        ("-2e3 x", "-2e3", "x"),
    ],
)
def test_commas_are_of_thousands_only_in_groups_of_three(text: str, number: str, rest: str) -> None:
    assert split_number(text) == (number, rest)


@pytest.mark.parametrize(
    "text", ["", "many", "30 min", "4 tokens", "9**9**9", "2^999999", "__import__('os')", "1/0", "x" * 100]
)
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert list(read_numbers(text)) == []


@pytest.mark.parametrize("text", ["", "soon", "1:99", "P", "5", "10 apples", "00:00"])
def test_what_is_no_duration_is_not_read_as_one(text: str) -> None:
    assert read_duration(text) is None


def test_no_unit_is_invented_for_one_of_another_kind() -> None:
    assert suggest_quantity("64 apples", "bytes") is None


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("s3://bucket/texts", "aws s3 sync s3://bucket/texts texts"),
        ("s3://bucket/a.jsonl", "aws s3 cp s3://bucket/a.jsonl a.jsonl"),
        ("gs://b/t/a.jsonl.zst", "gcloud storage cp gs://b/t/a.jsonl.zst a.jsonl.zst"),
        ("hf://datasets/allenai/c4", "hf download allenai/c4 --repo-type dataset --local-dir c4"),
        ("hf://allenai/OLMoE", "hf download allenai/OLMoE --local-dir OLMoE"),
        ("gs://b/t/", "gcloud storage rsync -r gs://b/t/ t"),
        ("https://x.org/a.txt", "curl -L -o a.txt https://x.org/a.txt"),
        ("weird://a", ""),
    ],
)
def test_an_address_is_copied_by_the_usual_program(address: str, command: str) -> None:
    assert copy_command(address) == command


@pytest.mark.parametrize("key", ["data.path", "data.tokenizer", "model.init_from", "output.folder"])
def test_an_address_is_no_path(key: str) -> None:
    (problem,) = Written.of(TEXT, f"{key}=s3://bucket/x").problems()
    assert (problem.code, problem.path) == ("SW117", key)


def test_an_address_in_a_list_is_no_path_either() -> None:
    (problem,) = Written.of(TEXT, "data.path=[texts, s3://bucket/x]").problems()
    assert problem.code == "SW117"
    assert "aws s3 sync" in problem.fix


@pytest.mark.parametrize("rate", ["3.0", "1", "1000"])
def test_a_learning_rate_of_1_or_more_is_out_of_range(rate: str) -> None:
    (problem,) = Written.of(TEXT, f"training.learning_rate={rate}").problems()
    assert (problem.code, problem.path) == ("SW114", "training.learning_rate")
