"""`generate --for`: which files are written for what, what is printed to start them, what is refused."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.scripts.launch_files import FILE_NAMES

TINY = "ds_configs/tiny_cpu.yaml"
STAGED = "ds_configs/ep64_tp2_staged.yaml"
COMMON = {"strategy.yaml", "plan.json", "ds_config.json", "hostfile", "env"}
KUBERNETES = ("launch.container.image=i", "launch.kubernetes.volume_claim=c")


def scripts(folder: Path) -> set[str]:
    return {path.name for path in (folder / "x").iterdir()} - COMMON


@pytest.mark.parametrize(
    ("launcher", "names"),
    [
        ("deepspeed", {"launch.sh", "launch.sbatch"}),
        ("torchrun", {"launch.torchrun.sh"}),
        ("srun", {"launch.sbatch"}),
        ("mpirun", {"launch.mpirun.sh"}),
    ],
)
def test_without_for_the_launcher_of_the_strategy_decides(
    launcher: str, names: set[str], tmp_path: Path
) -> None:
    assert main(["generate", TINY, f"output.folder={tmp_path}", "name=x", f"launch.launcher={launcher}"]) == 0
    assert scripts(tmp_path) == names


@pytest.mark.parametrize("target", FILE_NAMES)
def test_for_writes_the_file_of_each_that_is_named(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (*KUBERNETES, f"launch.kubernetes.mount_path={tmp_path.anchor}") if target == "kubernetes" else ()
    line = ["generate", TINY, f"output.folder={tmp_path}", "name=x", *more, "--for", target]
    code = main([*line, "--json"])
    if target == "kubernetes":  # the folder of the test is not in the project
        assert code == 2
        assert "SW444" in capsys.readouterr().out
        return
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert scripts(tmp_path) == {FILE_NAMES[target]} == set(answer["files"]) - COMMON
    (started,) = (line for lines in answer["start_lines"].values() for line in lines)
    assert str(tmp_path / "x" / FILE_NAMES[target]) in started


def test_several_at_once(tmp_path: Path) -> None:
    names = [word for target in ("mpi", "slurm", "torchrun") for word in ("--for", target)]
    assert main(["generate", TINY, f"output.folder={tmp_path}", "name=x", *names]) == 0
    assert scripts(tmp_path) == {"launch.mpirun.sh", "launch.sbatch", "launch.torchrun.sh"}


def test_an_unknown_target_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", TINY, "--for", "lsf"]) == 2
    told = capsys.readouterr().err
    assert "SW482" in told
    assert "kubernetes" in told


def test_torchrun_has_a_line_for_each_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["generate", STAGED, f"output.folder={tmp_path}", "name=x", "--for", "torchrun"]
    assert main([*line, "cluster.hosts=node[01-16]"]) == 0
    told = capsys.readouterr().out.splitlines()
    script = tmp_path / "x" / "launch.torchrun.sh"
    assert [text.strip() for text in told if str(script) in text] == [
        f"with torchrun: on node{number + 1:02}: {script} {number}" for number in range(9)
    ]
    assert main([*line, "--force"]) == 0, "host names that are placeholders"
    assert f"on host 8: LAUNCH_MASTER_ADDR=HOST0 {script} 8" in capsys.readouterr().out


def test_a_memory_cap_below_the_need_is_told_by_generate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference document's own 16 MiB."""
    monkeypatch.setenv("MAX_MEMORY_PER_GPU", "16777216")
    assert main(["generate", STAGED, f"output.folder={tmp_path}", "name=x"]) == 2
    told = capsys.readouterr().err
    assert "SW307 MAX_MEMORY_PER_GPU: 16777216 allows 16.8 MB for a rank, but rank" in told
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("target", "overrides", "codes"),
    [
        ("torchrun", ("launch.modules=[a]", "launch.prologue=[b]"), []),
        ("torchrun", ("launch.container.image=i",), ["SW439"]),
        ("mpi", ("launch.modules=[a]", "launch.prologue=[b]"), ["SW439", "SW439"]),
        ("mpi", ("launch.ssh_config=a b",), ["SW402"]),
        ("slurm", ("launch.modules=[a]", "launch.container.image=i", "launch.ssh_config=a b"), []),
        ("slurm", ("launch.container={image: i, mounts: ['/a,/b']}",), ["SW441"]),
        ("slurm", ("launch.container.image=i", "data.path=/a:b/*"), ["SW441"]),
        ("slurm", ("launch.slurm={time: 2}",), ["SW419"]),
        ("mpi", ("launch.slurm={time: 2}",), []),  # of another launcher
        ("torchrun", ("cluster.hosts=[a, localhost]",), []),
        ("mpi", ("cluster.hosts=[a, localhost]",), ["SW404"]),
    ],
)
def test_each_target_refuses_what_it_cannot_do(
    target: str,
    overrides: tuple[str, ...],
    codes: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hosts = () if overrides[0].startswith("cluster") else ("cluster.hosts=[a, b]",)
    line = ["generate", TINY, f"output.folder={tmp_path}", "name=x", "cluster.gpus_per_host=2", *hosts]
    code = main([*line, *overrides, "--for", target, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert [problem["code"] for problem in answer.get("problems", ())] == codes
    assert code == (2 if codes else 0)
