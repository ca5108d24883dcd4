"""`init`: from a model and a machine to a strategy that loads, plans and says what comes next."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from launch.commands import new_machine
from launch.commands.new_machine import describe_machine
from planner import build_plan, load, loads, predict
from planner.memory.rank_memory import fullest_ranks
from planner.plan.memory_limit import memory_limit
from planner.prediction.run_forecast import forecast_run
from planner.rules.not_implemented import find_unimplemented
from planner.search.search import search

SMALL = {
    "model_type": "mixtral",
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}
LARGE = {"num_hidden_layers": 12, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}
MIXTRAL = {"model_type": "mixtral"}  # its class's defaults are 8x7B


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL))
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["init", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    return json.loads(printed(capsys, *arguments, "--json"))


def test_what_is_printed_loads_fits_and_trains(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--model", model, "--gpu", "H100", "--hosts", 2, "--tokens", "1B")
    strategy = loads(text)
    assert (strategy.cluster.hosts.count, strategy.cluster.gpus_per_host) == (2, 8)
    assert strategy.cluster.gpu == loads(text, ["cluster.gpu=H100"]).cluster.gpu
    assert (strategy.model.num_hidden_layers, strategy.model.expert) == (4, "swiglu")
    # 8 sequences a GPU of 4096 tokens: 128 · 4096 = 524,288 a step
    assert (strategy.training.global_batch, strategy.training.steps) == (128, -(-(10**9) // 524_288))
    assert find_unimplemented(strategy) == ()
    plan = build_plan(strategy)
    assert max(memory.peak_bytes for memory in fullest_ranks(plan)) <= memory_limit(strategy)
    assert strategy.name == "my-model"


def test_every_key_is_written_once_with_a_comment(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--model", model, "--gpu", "H100")
    strategy = loads(text)
    for section in ("cluster", "model", "parallel", "training", "data", "output"):
        block = text.partition(f"\n{section}:\n")[2].partition("\n\n")[0]
        for key in type(getattr(strategy, section)).model_fields:
            if (section, key) != ("training", "tokens"):
                assert block.count(f"  {key}:") == 1, (section, key)
    assert text.count("#") > 60


def test_plan_of_it_agrees_with_the_search(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--model", model, "--gpu", "H100", "--hosts", 2)
    strategy = loads(found["strategy"])
    plan = build_plan(strategy)
    assert found["fingerprint"] == plan.fingerprint
    assert found["tokens_per_s"] == pytest.approx(predict(plan).tokens_per_s)
    best = next(row for row in search(strategy).rows if not find_unimplemented(row.strategy))
    assert best.tokens_per_s == pytest.approx(found["tokens_per_s"])


def test_a_cpu_and_a_config_alone(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--gpu", "cpu", "--gpus-per-host", 4, "--seq-length", 128, "--global-batch", 24)
    strategy = loads(printed(capsys, "--model", model / "config.json", *options))
    assert (strategy.cluster.gpu.is_cpu, strategy.training.precision) == (True, "fp32")
    assert (strategy.training.seq_length, strategy.training.global_batch) == (128, 24)
    assert (strategy.training.steps, strategy.training.tokens) == (1000, None)
    assert build_plan(strategy).world_size <= 4


def test_trays_of_a_rack_share_nvlink_and_several_racks_do_not() -> None:
    """GB200 NVL72: 18 trays of 4 GPUs are one NVLink domain of 900 GB/s."""
    one, two = (describe_machine("GB200", None, hosts, None) for hosts in (18, 19))
    assert (one.gpus_per_host, one.links["inter_host"][0], one.links["intra_host"][0]) == (
        4,
        "900 GB/s",
        "900 GB/s",
    )
    assert two.links["inter_host"][0] == "50 GB/s"
    assert describe_machine("GB200", None, 18, "NDR").links["inter_host"] == ("NDR", "as given")


def test_links_are_written_as_given(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--model", model, "--gpu", "H100", "--hosts", 2, "--links", "200 GB/s,400 Gbps")
    assert "links: {intra_host: 200 GB/s, inter_host: 400 Gbps}" in text
    links = loads(text).cluster.links
    assert (links.intra_host, links.inter_host) == (200e9, 50e9)


def test_weights_and_tokenizer_are_named_in_comments(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "model-00001-of-00002.safetensors").touch()
    (model / "tokenizer.json").touch()
    text = printed(capsys, "--model", model, "--gpu", "H100")
    assert f'  # init_from: "{model}"' in text
    assert f'  # tokenizer: "{model}"' in text
    strategy = loads(text)
    assert (strategy.model.init_from, strategy.data.tokenizer) == (None, None)


def test_the_machine_answers_what_is_left_out(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [{"name": "NVIDIA H100 80GB HBM3"}] * 4
    monkeypatch.setattr(new_machine, "gpu_facts", lambda: {"error": None, "devices": cards})
    monkeypatch.chdir(model)
    strategy = loads(printed(capsys))
    assert (strategy.cluster.gpus_per_host, strategy.cluster.hosts.count) == (4, 1)
    assert strategy.model.hidden_size == 512
    assert "gpu: H100" in printed(capsys)


def test_output_is_a_new_file_with_what_to_type_next(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.yaml"
    said = printed(capsys, "--model", model, "--gpu", "H100", "--output", file)
    assert load(file).model.hidden_size == 512
    for command in ("plan", "search", "preflight", "generate"):
        assert f"python -m launch {command} {file}" in said
    assert main(["init", "--model", str(model), "--gpu", "H100", "--output", str(file)]) == 2
    assert "SW488 --output: " in capsys.readouterr().err
    assert (
        main(["init", "--model", str(model), "--gpu", "H100", "--output", str(tmp_path / "no/x.yaml")]) == 2
    )
    assert "SW489 --output: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--gpu", "H1000"), "SW136"),
        (("--gpu", "H100", "--links", "1,2,3"), "SW493"),
        (("--gpu", "H100", "--links", "fast"), "SW1"),
        (("--gpu", "H100", "--tokens", "much"), "SW116"),
        (("--gpu", "H100", "--hosts", "0"), "SW482"),
        (("--gpu", "H100", "--model", "nowhere"), "SW151"),
        ((), "SW492"),
    ],
)
def test_wrong_input_is_a_problem(
    model: Path,
    options: tuple[str, ...],
    code: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(new_machine, "gpu_facts", lambda: {"error": "no NVIDIA driver", "devices": []})
    assert main(["init", "--model", str(model), *options]) == 2
    captured = capsys.readouterr()
    assert f"{code}" in captured.err
    assert "expected:" in captured.err
    assert captured.out == ""


def test_what_does_not_fit_says_with_how_many_hosts_it_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    call = ["init", "--model", str(tmp_path), "--gpu", "H100", "--gpus-per-host", "2", "--hosts"]
    # 46.7B parameters train in no less than 18 bytes each over all ranks: 841 GB, which 8 GPUs of 80 GB lack.
    assert main([*call, "4"]) == 1
    said = capsys.readouterr().err
    assert "no plan of " in said
    assert "it does with --hosts " in said
    enough = said.rsplit(" ", 1)[1].strip()
    assert main([*call, enough]) == 0


@pytest.mark.parametrize(("gpus", "is_longer"), [(8, True), (1, False)])
def test_saves_take_a_small_part_of_the_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gpus: int, is_longer: bool
) -> None:
    """Weights and moments of 8x7B over a step of 8 GPUs are long to write; those of a small model are not."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL if not is_longer else {**SMALL, **LARGE}))
    given = ("--gpu", "H100", "--gpus-per-host", gpus, "--tokens", "1T")
    text = printed(capsys, "--model", tmp_path, *given)
    strategy = loads(text)
    if not is_longer:
        assert strategy.output.checkpoint_every == 100
        return
    shares = []
    for every in (strategy.output.checkpoint_every, 100):
        plan = build_plan(loads(text, [f"output.checkpoint_every={every}"]))
        shares.append(forecast_run(plan, predict(plan)).checkpoint_share)
    assert shares[0] <= 0.05 < shares[1]
    assert f"every 100 steps they would take {shares[1]:.0%}" in text
