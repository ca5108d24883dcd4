"""Devices and links of the user's own: `--hardware FILE` and ~/.config/switchyard/hardware.yaml."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from planner import StrategyError, loads
from planner.hardware.catalog import device_of
from planner.plan.serialization import full_strategy
from tests.support.examples import TEXT

OWN = """\
Gaudi9:
  like: h100
  memory: 100 GB
  memory_bandwidth: 6.7 TB/s
  peak: {bf16: 989 TFLOPS}
  source: a brochure
links:
  Rope: {bandwidth: 7 GB/s, source: my own measurement}
"""
MODEL = {
    "model_type": "mixtral",
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 4096,
}
NAMED = ("cluster.gpu=gaudi9", "cluster.links={intra_host: rope, inter_host: HDR}")


def own_file(folder: Path, text: str = OWN) -> Path:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_adds_a_device_and_a_link(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    given = loads(TEXT, NAMED, hardware=path)
    gpu, links = given.cluster.gpu, given.cluster.links
    assert (gpu.name, gpu.memory, gpu.memory_bandwidth, gpu.peak.bf16) == ("Gaudi9", 10**11, 6.7e12, 989e12)
    assert (links.intra_host, links.inter_host) == (7e9, 25e9)
    device = device_of(gpu, path)
    assert (device.name, device.is_calibrated) == ("Gaudi9", True)
    assert device.elementwise.at(1e9) == pytest.approx(2 * 2102e9)
    assert "Gaudi9: a brochure" in device.sources


def test_a_host_without_the_file_reads_what_generate_writes(tmp_path: Path) -> None:
    given = loads(TEXT, NAMED, hardware=own_file(tmp_path))
    again = loads(full_strategy(given))
    assert again.cluster == given.cluster


def test_without_the_file_the_names_are_unknown() -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, NAMED)
    codes = {problem.path: problem.code for problem in caught.value.problems}
    assert codes == {"cluster.gpu": "SW136", "cluster.links.intra_host": "SW138"}


def test_the_file_of_the_users_configuration_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "switchyard").mkdir()
    (tmp_path / "switchyard" / "hardware.yaml").write_text(OWN, encoding="utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    given = loads(TEXT, NAMED)
    assert device_of(given.cluster.gpu).name == "Gaudi9"


@pytest.mark.parametrize(
    ("change", "line", "fact"),
    [
        (("6.7 TB/s", "6.7 TB"), 4, "memory_bandwidth"),
        (("like: h100", "like: h1000"), 2, "unknown device 'h1000'"),
        (("  like: h100\n", ""), 1, "missing"),
        (("989 TFLOPS", "989 GB"), 5, "989 GB"),
        (("  memory: 100 GB\n", ""), 1, "memory is missing"),
        (("  memory_bandwidth: 6.7 TB/s\n", ""), 1, "memory_bandwidth is missing"),
        (("memory_bandwidth", "memory_bandwith"), 4, "'memory_bandwith'; did you mean memory_bandwidth?"),
        (("  source", "  price: 3\n  source"), 6, "unknown key 'price'; known: aliases, attention"),
    ],
)
def test_a_wrong_file_is_a_problem_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, fact: str
) -> None:
    path = own_file(tmp_path, OWN.replace(*change))
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, NAMED, hardware=path)
    problem = caught.value.problems[0]
    assert (problem.code, problem.file) == ("SW141", str(path))
    assert problem.line == line
    assert fact in problem.found


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    text = """\
Two:
  memory: 100 GB
  memory_bandwidth: 6.7 parsecs
  peak: {bf16: many}
  price: 3
  gemm: {bf16: 7}
Like:
  like: two
  memory: 100 GB
  memory_bandwidth: 6.7 TB/s
  peak: {bf16: 989 TFLOPS}
  source: a brochure
Other:
  like: nothing
  source: a brochure
Third: 7
links:
  Rope: {bandwidth: 7 sheep, source: mine}
  Line: {source: mine}
"""
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, NAMED, hardware=own_file(tmp_path, text))
    problems = caught.value.problems
    assert {problem.code for problem in problems} == {"SW141"}
    told = {(problem.path, problem.line): problem.found for problem in problems}
    for place, fact in {
        ("Two", 4): "peak",
        ("Two", 5): "unknown key 'price'",
        ("Two", 6): "gemm",
        ("Two", 1): "elementwise, operation, latency, message, link_share are missing; `like: H100`",
        ("Other", 13): "memory is missing",
        ("Other", 14): "unknown device 'nothing'",
        ("Third", 16): "not a mapping",
        ("links.Rope", None): "7 sheep",
        ("links.Line", None): "bandwidth is missing",
    }.items():
        assert fact in told[place], place
    assert not [problem for problem in problems if problem.path == "Like"], "its own keys are right"


def test_the_commands_take_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_file(tmp_path)
    small = (*NAMED, "cluster.hosts=1", "model.num_hidden_layers=1", "limits={}", f"output.folder={tmp_path}")
    for command in ("plan", "search", "audit", "fallback", "generate"):
        strategy = "ds_configs/ep64_tp2.yaml"
        layout = () if command == "search" else ("parallel=EP8",)
        code = main([command, strategy, *small, *layout, "claims=[]", "--hardware", str(path), "--json"])
        answer = json.loads(capsys.readouterr().out)
        assert code in (0, 1), (command, answer)
        if command == "plan":
            said = answer["prediction"]["assumptions"]
            assert "intra_host Rope: 7 GB/s of a GPU, one way (my own measurement)" in said
            assert any(line.startswith("Gaudi9: a brochure") for line in said)


def test_preflight_and_init_take_the_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(own_file(tmp_path))
    named = ("ds_configs/ep64_tp2.yaml", *NAMED, "training.precision=bf16", "--hosts-only")
    assert main(["preflight", *named]) == 2
    assert "SW136" in capsys.readouterr().err
    assert main(["preflight", *named, "--hardware", path]) == 2  # the hosts are made up
    assert "SW136" not in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    model = ("--model", str(tmp_path), "--gpu", "gaudi9", "--seq-length", "128", "--json")
    assert main(["init", *model]) == 2
    capsys.readouterr()
    assert main(["init", *model, "--hardware", path]) == 0
    written = loads(json.loads(capsys.readouterr().out)["strategy"])
    assert (written.cluster.gpu.name, written.cluster.gpu.memory) == ("Gaudi9", 10**11)
