"""`python -m launch plan` as people and programs call it: text, JSON, exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch.__main__ import main

ROOT = Path(__file__).parents[3]
REFERENCE = "ds_configs/ep64_tp2_staged.yaml"


def launch(
    *arguments: str, env: dict[str, str] | None = None, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-m", "launch", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )


def test_plan_prints_the_documents_layout() -> None:
    done = launch("plan", REFERENCE)
    assert done.returncode == 1  # its utilization and communication miss the limits that it writes
    assert done.stderr == ""
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "ep64_tp2_staged: EP64_TP2_PP1_DP1, staged, rank order document"
    assert lines[1].startswith("68 of 128 GPUs, on 9 of 16 hosts, 7 spare; plan ")
    assert "embedding 0-1 embedding 1 × 2 - 64" in lines
    assert "experts 2-65 layers 0-15 64 × 1 1 × 64 1" in lines
    assert "aggregation 66-67 output 1 × 2 - 64" in lines
    assert "host-08 4 64-67 experts, aggregation" in lines
    assert "tp embedding 1 2 (0, 1)" in lines
    assert "ep experts 1 64 (2-65)" in lines
    assert "note: EP spans 9 hosts; 8 with parallel.rank_order: compact" in lines
    assert not any("not implemented" in line for line in lines), "it trains as it is written"
    assert "\x1b" not in done.stdout


def test_plan_json_is_one_object_on_stdout() -> None:
    done = launch("plan", REFERENCE, "parallel.rank_order=compact", "--json", "--full")
    answer = json.loads(done.stdout)
    assert (answer["schema_version"], answer["command"], answer["code"]) == (2, "plan", 1)
    assert [stage["ranks"] for stage in answer["plan"]["stages"]] == [[64, 65], [0, 63], [66, 67]]
    assert answer["plan"]["strategy"]["cluster"]["links"]["inter_host"] == "100 Gbps"


def test_plan_takes_how_evenly_tokens_reach_experts() -> None:
    even, uneven = (
        json.loads(launch("plan", REFERENCE, *more, "--json").stdout) for more in ([], ["--balance", "0.25"])
    )
    assert (even["prediction"]["balance"], uneven["prediction"]["balance"]) == (1.0, 0.25)
    assert uneven["prediction"]["step_s"]["expected"] > even["prediction"]["step_s"]["expected"]
    memory = [answer["plan"]["memory"]["stages"][1]["activations"] for answer in (even, uneven)]
    assert memory[1] > memory[0]
    refused = launch("plan", REFERENCE, "--balance", "1.5")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--balance" in refused.stderr


@pytest.mark.parametrize("overrides", [("cluster.hosts=1",), ("parallel.ep=3",)])
def test_a_layout_that_is_not_legal_is_searched_for_a_better_one(overrides: tuple[str, ...]) -> None:
    strategy = "ds_configs/ep64_tp2.yaml"
    refused = launch("plan", strategy, *overrides, "--json")
    assert refused.returncode == 2
    done = launch("search", strategy, *overrides, "model.num_hidden_layers=2", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], done.stderr) == (0, 0, "")
    found = [problem["found"] for problem in answer["problems_as_written"]]
    assert found == [problem["found"] for problem in json.loads(refused.stdout)["problems"]]
    assert answer["rows"][0]["gpus"] <= answer["gpus"]


def test_a_balance_beside_a_forced_routing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    forced = ["runtime.force_routing.kind=hot_expert", "runtime.force_routing.share=0.3"]
    assert main(["plan", REFERENCE, *forced, "--balance", "0.5"]) == 2
    assert "SW495 runtime.force_routing" in capsys.readouterr().err
    main(["plan", REFERENCE, *forced, "--plain"])
    assert "(counted)" in capsys.readouterr().out


def test_search_ranks_plans_that_can_be_trained_first(capsys: pytest.CaptureFixture[str]) -> None:
    # Some layouts fit only with complete layers recomputed, which does not run with DeepSpeed's dispatch.
    stock = ["model.dispatch=deepspeed", "training.balance_loss=0", "training.z_loss=0"]
    stock.append("data.validation_sequences=72")
    changes = ["limits.memory_max=600 MB", *stock]
    call = ["search", "ds_configs/tiny_cpu.yaml", *changes, "--rows", "100000"]
    assert main([*call, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    trainable = [row["trainable"] for row in rows]
    assert trainable == [row["recompute"] in ("none", "attention", "experts") for row in rows]
    assert trainable == sorted(trainable, reverse=True)
    assert len(set(trainable)) == 2
    for kind in (True, False):
        speeds = [row["tokens_per_s"] for row in rows if row["trainable"] is kind]
        assert speeds == sorted(speeds, reverse=True)
    assert main([*call, "--plain"]) == 0
    printed = capsys.readouterr().out
    assert "trainable plans first" in printed
    assert f"cannot train rows from {sum(trainable) + 1} on yet: runtime.recompute" in printed


def test_a_search_forgives_nothing_but_the_layout() -> None:
    done = launch("search", "ds_configs/ep64_tp2.yaml", "cluster.hosts=1", "parallel.epp=2", "seed=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean pp?" in done.stderr


def test_audit_prints_each_claim_and_says_no() -> None:
    done = launch("audit", REFERENCE)
    assert (done.returncode, done.stderr) == (1, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith("ep64_tp2_staged: EP64_TP2_PP1_DP1, staged; plan ")
    assert lines[1].startswith("51 claims: ")
    assert any(
        line.startswith("memory_share, by its own figures 6.25 % 0.025 % does not hold") for line in lines
    )
    assert (
        "gpus, staged 68 68 holds Parallel Strategy Overview EP64_TP2_PP1_DP1 staged: 2 + 64 + 2 = 68; "
        "60 of 128 left" in lines
    )
    assert "GPU count passes 68 needed, 128 available, 7 spare hosts" in lines
    assert "\x1b" not in done.stdout


def test_audit_json_is_one_object_on_stdout() -> None:
    done = launch("audit", REFERENCE, "--json")
    answer = json.loads(done.stdout)
    assert (answer["schema_version"], answer["command"], answer["code"]) == (2, "audit", 1)
    (twice,) = [claim for claim in answer["audit"]["claims"] if claim["with"] == {"parallel.dp": 2}]
    assert (twice["quantity"], twice["derived"]) == ("gpus", 136)
    assert twice["verdict"] == "cannot be met on this cluster"
    assert answer["audit"]["load_balance"]["stages"][1]["num_ranks"] == 64
    assert len(answer["audit"]["checks"]) == 6


def test_audit_without_claims_says_so_and_shows_balance(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "ds_configs/ep64_tp2.yaml", "--plain"]) == 1  # its limits are not kept
    printed = capsys.readouterr().out
    assert "the strategy makes no claims" in printed
    assert "Load balance: " in printed
    assert "Compatibility checks" in printed


def test_audit_is_yes_where_all_holds(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("limits.utilization_min=0", "limits.communication_share_max=1")
    assert main(["audit", "ds_configs/ep64_tp2.yaml", *limits, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audit"]["holds"] is True


def test_audit_of_a_wrong_strategy_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", REFERENCE, "parallel.ep=6"]) == 2
    assert "6 does not divide model.num_experts (64)" in capsys.readouterr().err


def test_full_prints_every_default() -> None:
    done = launch("plan", "ds_configs/tiny_cpu.yaml", "--full")
    assert "rms_norm_eps: 1.0e-06" in done.stdout
    assert "check_replicas_every: 100" in done.stdout


def test_wrong_strategy_exits_2_with_problems_on_stderr() -> None:
    done = launch("plan", "ds_configs/tiny_cpu.yaml", "parallel.ep=6", "training.steps=0", "--json")
    assert done.returncode == 2
    assert "command line: parallel.ep=6: SW201 6 does not divide model.num_experts (64)" in done.stderr
    answer = json.loads(done.stdout)
    assert answer["code"] == 2
    assert [problem["path"] for problem in answer["problems"]] == ["training.steps", "parallel.ep"]


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "SW481 "),
        (("plna", REFERENCE), "SW481 unknown command 'plna'; did you mean plan?"),
        (("adit", REFERENCE), "SW481 unknown command 'adit'; did you mean audit?"),
        (("plan",), "SW482 "),
        (("audit",), "SW482 "),
        (("plan", "nothing.yaml"), "nothing.yaml: SW101"),
        (("plan", "ds_configs"), "ds_configs: SW101"),
        (("plan", REFERENCE, "--colour"), "SW482 No such option: --colour"),
        (("audit", REFERENCE, "ds_configs/tiny_cpu.yaml"), "SW483 "),
        (("search", REFERENCE, "ds_configs/tiny_cpu.yaml"), "SW483 "),
        (("preflight", REFERENCE, "ds_configs/tiny_cpu.yaml"), "SW483 "),
        (("fallback", REFERENCE, "other.yml"), "SW483 second strategy other.yml"),
        (("fallback", REFERENCE, "--lost-gpus", "1", "--lost-hosts", "1"), "SW485 "),
        (("plan", REFERENCE, REFERENCE, REFERENCE), "SW484 3 strategies"),
        (("plan", REFERENCE, "--hardware", "nosuch.yaml"), "nosuch.yaml: SW141"),
        (("search", REFERENCE, "--hardware", "README.md"), "README.md: SW141"),
        (("search", REFERENCE, "--vary", "seed, batch"), "SW486 --vary: unknown name 'seed'"),
        (("fallback", REFERENCE, "--lost-gpus", "0"), "SW482 Invalid value for '--lost-gpus'"),
        (("explain", "SW999"), "SW491 "),
        (("fallback", REFERENCE, "--lost-hosts", "16"), "SW321 "),
        (("plan", REFERENCE, "nonsense"), "SW121"),
    ],
)
def test_wrong_call_is_2_with_what_is_legal(
    arguments: tuple[str, ...], words: str, is_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *(["--json"] if is_json else [])]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "expected:" in captured.err
    if is_json:
        answer = json.loads(captured.out)
        assert (answer["code"], len(answer["problems"])) == (2, 1)
    else:
        assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (("init", "--gpu", "H100", "model"), "expected: python -m launch init --model FOLDER --gpu NAME\n"),
        (("explain",), "expected: python -m launch explain SWnnn\n"),
        (("ledger", "--colour"), "expected: python -m launch ledger [RUN …]\n"),
        (("inti",), "fix:      python -m launch init --model FOLDER --gpu NAME\n"),
    ],
)
def test_a_command_without_a_strategy_is_not_asked_for_one(
    arguments: tuple[str, ...], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments]) == 2
    assert usage in capsys.readouterr().err + "\n"


def test_what_breaks_inside_is_one_line_and_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("a fuse blew")

    monkeypatch.setattr("launch.commands.plan.build_plan", breaks)
    monkeypatch.delenv("SWITCHYARD_DEBUG", raising=False)
    assert main(["plan", REFERENCE, "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith("SW499 ")
    assert "RuntimeError: a fuse blew" in captured.err
    assert "Traceback" not in captured.err
    assert json.loads(captured.out)["code"] == 3
    monkeypatch.setenv("SWITCHYARD_DEBUG", "1")
    assert main(["plan", REFERENCE]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["plan", "--help"], ["plan", "-h"]])
def test_help_is_0(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "plan" in capsys.readouterr().out


def test_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert capsys.readouterr().out == f"switchyard {version}\n"


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.commands.plan.load", interrupted)
    assert main(["plan", REFERENCE]) == 130


def test_plan_imports_no_torch() -> None:
    done = launch("plan", REFERENCE, options=("-X", "importtime"))
    modules = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "planner.plan.plan" in modules
    assert not {
        name for name in modules if name.partition(".")[0] in ("torch", "deepspeed", "transformers", "numpy")
    }


def test_reader_that_stops_early_is_no_error() -> None:
    command = (
        f"{sys.executable} -m launch plan ds_configs/tiny_cpu.yaml --full | head -1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_name_that_a_terminal_cannot_show_is_no_crash() -> None:
    done = launch("plan", REFERENCE, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert "\\xd7" in done.stdout


@pytest.mark.parametrize("arguments", [["--parallel.ep=2"], ["--parallel.ep", "2"]])
def test_an_override_with_dashes_is_told_without_them(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "ds_configs/tiny_cpu.yaml", *arguments]) == 2
    assert "fix:      write parallel.ep=2, without dashes" in capsys.readouterr().err
