"""`generate`: the bytes of a launch's files, that they are written together, and what is refused.

golden/ holds the files of one local, one remote and one containerized launch;
`python -m tests.launch.scripts.test_generate` rewrites it. For the other plans only what differs is asserted.
"""

import json
import os
import re
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.scripts.launch_files import FILE_NAMES, launch_files, write_together
from launch.scripts.template import LaunchPaths
from planner import Plan, StrategyError, build_plan, load
from planner.paths import PROJECT
from planner.plan.operator_env import read_environment
from planner.strategy.hostfile import read_hostfile
from runtime.startup.claims import claim
from runtime.startup.outcome_files import write_done
from tests.support.examples import plan
from tests.support.holders import other_process_that_holds

GOLDEN = Path(__file__).parent / "golden"
STAGED = "ds_configs/ep64_tp2_staged.yaml"
NODES = ",".join(f"node{i}" for i in range(16))
CASES = {
    "staged_68": (
        STAGED,
        f"cluster.hosts=[{NODES}]",
        "launch={network_interface: ib0, ssh_config: cluster.ssh, timeout: 90 s, "
        "slurm: {partition: gpu, time: '12:00:00', exclusive: true, requeue: false}, "
        "environment: {OMP_NUM_THREADS: 4, A_WORD: two words}}",
    ),
    "colocated_64": ("ds_configs/ep64_tp2.yaml",),
    "dp2_128": ("ds_configs/ep64_tp2.yaml", "parallel.dp=2"),
    "tiny_cpu": ("ds_configs/tiny_cpu.yaml",),
}
CONTAINER_68 = (
    STAGED,
    "cluster.hosts=node[01-16]",
    "data.path=/srv/data/texts/*.txt",
    "launch={modules: [cuda/12.6, 'my module'], prologue: ['export X=\"$HOME/a b\"', 'source /opt/site.sh'], "
    "container: {image: 'nvcr.io#nvidia/pytorch:25.08-py3', mounts: [/scratch, '/models:/m:ro']}, "
    "environment: {NCCL_IB_HCA: mlx5, ODD: 'a \"b\" $(c) on'}, network_interface: eth0, "
    "slurm: {account: physics, qos: high, time: 1-12, cpus-per-task: 12}, "
    "srun: {mpi: pmix, cpu-bind: 'map_cpu:0,1', comment: \"it's $x\"}, "
    "kubernetes: {namespace: ml, volume_claim: shared, mount_path: /srv, "
    "resources: {cpu: 96, memory: 900Gi}, labels: {kueue.x-k8s.io/queue-name: training}}}",
)
_SCRIPTS = ("launch.sh", "launch.torchrun.sh", "launch.sbatch", "launch.mpirun.sh")
GOLDEN_CASES = {
    "tiny_cpu": ("hostfile", "env", *_SCRIPTS),
    "staged_68": ("hostfile", "env", *_SCRIPTS),
    "container_68": ("launch.sbatch", "launch.kubernetes.yaml"),
}
KEPT = ("hostfile", "env", "launch.sh", "launch.sbatch")


def plan_of(case: str) -> Plan:
    path, *overrides = CONTAINER_68 if case == "container_68" else CASES[case]
    return build_plan(load(path, overrides))


def paths_for(name: str = "run", ssh_config: str | None = None) -> LaunchPaths:
    project = Path("/srv/switchyard")
    return LaunchPaths(
        project=project,
        run=project / "runs" / name,
        python="/srv/venv/bin/python",
        ssh_config=None if ssh_config is None else project / ssh_config,
    )


def files_of(
    built: Plan, environ: dict[str, str] | None = None, targets: tuple[str, ...] = ()
) -> dict[str, str]:
    where = paths_for(built.strategy.name, built.strategy.launch.ssh_config)
    files = launch_files(built, where, environ or {}, targets)
    return {name: content.decode() for name, content in files.items()}


def golden_files(case: str) -> dict[str, str]:
    """The files of a case without what any new key of a strategy or constant of the cost model changes: the
    fingerprint, the port that follows from it, and the time of a step."""
    built = plan_of(case)
    targets = tuple(target for target, name in FILE_NAMES.items() if name in GOLDEN_CASES[case])
    files = files_of(built, targets=targets)
    found = {}
    for name in GOLDEN_CASES[case]:
        text = files[name].replace(built.fingerprint, "0000PLAN0000")
        text = re.sub(r"a step of \S+ s", "a step of 0 s", text)
        found[name] = re.sub(r"LAUNCH_MASTER_PORT:-\d+", "LAUNCH_MASTER_PORT:-0", text)
    return found


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case, names in GOLDEN_CASES.items() for name in names]
)
def test_files_equal_their_golden_copies(case: str, name: str) -> None:
    kept = (GOLDEN / case / name).read_text(encoding="utf-8")
    assert golden_files(case)[name] == kept, (
        "run: python -m tests.launch.scripts.test_generate, and read the change"
    )


@pytest.mark.parametrize("case", CASES)
def test_every_file_carries_the_fingerprint(case: str) -> None:
    built = plan_of(case)
    files = files_of(built)
    assert list(files) == ["strategy.yaml", "plan.json", "ds_config.json", *KEPT]
    assert all(built.fingerprint in text for text in files.values())
    assert files == files_of(plan_of(case))


@pytest.mark.parametrize(("case", "hosts", "world"), [("colocated_64", 8, 64), ("dp2_128", 16, 128)])
def test_other_plans_differ_in_hosts_and_ranks(case: str, hosts: int, world: int) -> None:
    files = files_of(plan_of(case))
    assert files["hostfile"].splitlines()[1:] == [f"host-{i:02} slots=8" for i in range(hosts)]
    groups = {"EMBEDDING_GPUS", "EXPERT_GPUS", "AGGREGATION_GPUS"}
    assert {f"{name}=0-{world - 1}" for name in groups} <= set(files["env"].splitlines())
    sbatch = files["launch.sbatch"]
    assert f"#SBATCH --nodes={hosts}\n#SBATCH --ntasks-per-node=8\n" in sbatch
    assert "#SBATCH --requeue\n" in sbatch
    assert f"srun --ntasks={world} " in sbatch
    assert "placeholder_hosts=yes" in files["launch.sh"]
    assert "-G host-00 |" in files["launch.sh"]
    assert "ssh_config=" not in files["launch.sh"]


def test_68_ranks_fill_8_hosts_and_half_of_the_ninth() -> None:
    files = files_of(plan_of("staged_68"))
    _, *lines = files["hostfile"].splitlines()
    assert lines == [*(f"node{i} slots=8" for i in range(8)), "node8 slots=4"]
    row = json.loads(files["plan.json"])["ranks"][65]
    assert (row["host"], row["local_rank"], row["stage"], row["ep"]) == ("node8", 1, "experts", 63)


def test_short_host_comes_last_and_spares_stay_out(tmp_path: Path) -> None:
    hosts = "cluster.hosts=[n9 slots=4, n2, n7, n1, n3, n4, n5, n6, n8, n0, nx]"
    built = build_plan(load(STAGED, [hosts, "cluster.spare_hosts=2"]))
    (tmp_path / "hostfile").write_text(files_of(built)["hostfile"])
    read, problems = read_hostfile(str(tmp_path / "hostfile"))
    assert not problems
    names = ("n2", "n7", "n1", "n3", "n4", "n5", "n6", "n8", "n9")
    assert read == tuple(zip(names, (8,) * 8 + (4,), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_env_is_what_deepspeed_and_a_rank_read(case: str) -> None:
    built = plan_of(case)
    values = dict(line.split("=", maxsplit=1) for line in files_of(built)["env"].split("\n")[:-1])
    assert values["SWITCHYARD_PLAN"] == built.fingerprint
    read = read_environment(built, values)
    assert read.warnings == ()
    strategy = built.strategy
    # 64 GB is written in the reference; a CPU rank has its own 2 GB.
    assert read.memory_limit_bytes == (2e9 if strategy.cluster.gpu.is_cpu else 64e9)
    assert json.loads(files_of(built)["plan.json"])["environment"] == read.values


def test_deterministic_runs_on_gpus_fix_what_libraries_would_choose() -> None:
    def environment(*overrides: str) -> set[str]:
        return set(files_of(plan("runtime.deterministic=true", *overrides))["env"].splitlines())

    fixed = {"CUBLAS_WORKSPACE_CONFIG=:4096:8", "NCCL_ALGO=Ring", "NCCL_PROTO=Simple"}
    assert fixed <= environment()
    assert not fixed & environment("cluster.gpu=cpu", "training.precision=fp32")
    own = environment("launch.environment={NCCL_ALGO: Tree}")
    assert fixed - own == {"NCCL_ALGO=Ring"}
    assert "NCCL_ALGO=Tree" in own


def test_operators_variables_win_and_both_limits_agree() -> None:
    built = plan_of("staged_68")
    env = files_of(built, {"MEMORY_FRACTION": "0.5", "EXPERT_GPUS": "2-40,41-65", "ELSE": "1"})["env"]
    lines = env.splitlines()
    assert {"MEMORY_FRACTION=0.5", "MAX_MEMORY_PER_GPU=32000000000", "EXPERT_GPUS=2-40,41-65"} <= set(lines)
    assert "ELSE=1" not in lines
    with pytest.raises(StrategyError, match="SW302 EXPERT_GPUS"):
        files_of(built, {"EXPERT_GPUS": "0-63"})


@pytest.mark.parametrize(
    ("overrides", "path", "code", "fact"),
    [
        (("launch.environment={X: 'a $B'}",), "launch.environment.X", "SW412", "$"),
        (("launch.environment={X: '50%'}",), "launch.environment.X", "SW412", "%"),
        (("launch.environment={X: 'say \"yes\"'}",), "launch.environment.X", "SW412", '"'),
        (("launch.environment={X: ' a'}",), "launch.environment.X", "SW412", "spaces"),
        (("launch.environment={RANK: 1}",), "launch.environment.RANK", "SW410", "RANK"),
        (("launch.environment={SWITCHYARD_PLAN: x}",), "launch.environment.SWITCHYARD_PLAN", "SW410", ""),
        (("launch.network_interface='eth0; x'",), "launch.network_interface", "SW411", "eth0; x"),
        (("launch.environment={PET_NNODES: 1}",), "launch.environment.PET_NNODES", "SW410", ""),
        (("launch.slurm={nodes: 3}",), "launch.slurm.nodes", "SW416", "nodes"),
        (("launch.slurm={cpus_per_task: 3}",), "launch.slurm.cpus_per_task", "SW415", "cpus_per_task"),
        (("launch.srun={ntasks: 3}",), "launch.srun.ntasks", "SW416", "ntasks"),
        (("launch.srun={cpu_bind: none}",), "launch.srun.cpu_bind", "SW415", "cpu_bind"),
        (("launch.modules=[cuda]",), "launch.modules", "SW439", "deepspeed"),
        (("launch.prologue=[cd]",), "launch.prologue", "SW439", "deepspeed"),
        (("launch.container.image=x",), "launch.container.image", "SW439", "deepspeed"),
        (("launch.slurm={comment: 'a\"b'}",), "launch.slurm.comment", "SW417", 'a"b'),
        (('launch.slurm={comment: "a\\n#SBATCH -N1"}',), "launch.slurm.comment", "SW417", "#SBATCH"),
        (("output.folder=my runs",), "output.folder", "SW402", "/srv/switchyard/my runs/x"),
        (("cluster.hosts=[localhost slots=4, b slots=4]",), "cluster.hosts", "SW404", "2 hosts"),
        (("cluster.hosts=['fe80::1', b]",), "cluster.hosts", "SW405", "fe80::1"),
    ],
)
def test_what_would_not_arrive_as_written_is_refused(
    overrides: tuple[str, ...], path: str, code: str, fact: str
) -> None:
    degrees = ("cluster.gpus_per_host=8", "parallel={ep: 8}")
    remote = () if overrides[0].startswith("cluster.hosts") else ("cluster.hosts=[a, b]",)
    built = plan(*degrees, *remote, *overrides)
    folder = Path("/srv/switchyard") / built.strategy.output.folder / "x"
    where = LaunchPaths(project=Path("/srv/switchyard"), run=folder, python="/p", ssh_config=None)
    with pytest.raises(StrategyError) as caught:
        launch_files(built, where, {})
    problems = [(problem.code, problem.path) for problem in caught.value.problems]
    assert problems == [(code, path)]
    assert fact in caught.value.problems[0].found


def test_on_one_host_any_value_is_exported_as_it_is() -> None:
    built = build_plan(load("ds_configs/tiny_cpu.yaml", ["launch.environment={X: ' a $B \"c\" 5%'}"]))
    assert '\nX= a $B "c" 5%\n' in files_of(built)["env"]


def test_files_are_written_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "x"
    write_together(folder, {"a": b"1", "b.sh": b"#!/bin/sh\n"})
    (folder / "telemetry.jsonl").write_text("{}\n")
    assert os.access(folder / "b.sh", os.X_OK)
    assert not os.access(folder / "a", os.X_OK)
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_together(folder, {"a": b"2", "b.sh": b"#!/bin/sh -e\n"})
    assert (folder / "a").read_bytes() == b"1"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b.sh", "telemetry.jsonl"]


def test_command_writes_equal_bytes_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", STAGED, f"output.folder={tmp_path}", "name=twice", "--json"]
    assert main(command) == 0
    answer = json.loads(capsys.readouterr().out)
    folder = tmp_path / "twice"
    assert (answer["schema_version"], answer["command"], answer["folder"]) == (2, "generate", str(folder))
    assert answer["start"] is None, "placeholder host names"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == set(answer["files"])
    assert main(command[:-1]) == 0
    assert "placeholder" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_command_prints_problems_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(STAGED).read_text(encoding="utf-8") + "launch:\n  environment: {RANK: 3}\n"
    (tmp_path / "s.yaml").write_text(text)
    assert main(["generate", str(tmp_path / "s.yaml"), f"output.folder={tmp_path / 'none'}"]) == 2
    line = len(text.splitlines())
    assert f"s.yaml:{line}: SW410 launch.environment.RANK: " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_paths_start_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """launch.sh runs train.py in the project folder, whatever folder it was generated in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("node1 slots=2\nnode2 slots=2\n")
    arguments = ["cluster.hosts={hostfile: hosts}", "data.path=text/*.txt", "output.folder=out"]
    tiny = str(PROJECT / "ds_configs" / "tiny_cpu.yaml")
    assert main(["generate", tiny, *arguments]) == 0
    assert f"in {tmp_path}/out/tiny_cpu: " in capsys.readouterr().out
    written = load(tmp_path / "out" / "tiny_cpu" / "strategy.yaml")
    assert (written.data.path, written.output.folder) == (f"{tmp_path}/text/*.txt", f"{tmp_path}/out")
    plan = json.loads((tmp_path / "out" / "tiny_cpu" / "plan.json").read_text())
    assert build_plan(written).fingerprint == plan["fingerprint"]


@pytest.fixture
def generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[str]]:
    """The folder of a launch, and the command line that generated it."""
    line = ["generate", "ds_configs/tiny_cpu.yaml", f"output.folder={tmp_path}"]
    assert main(line) == 0
    capsys.readouterr()
    return tmp_path / "tiny_cpu", line


def refused(line: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line) == 2
    return capsys.readouterr().err


def test_the_files_of_a_finished_run_of_another_plan_are_not_replaced(
    generated: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, line = generated
    before = (run / "plan.json").read_bytes()
    write_done(run, {"attempt": claim(run, {}), "step": 1})
    assert main(line) == 0, "the same plan"
    told = refused([*line, "training.steps=7"], capsys)
    assert f"SW418 name: the run in {run} is finished, and is of another plan: training.steps was " in told
    assert (run / "plan.json").read_bytes() == before

    assert main([*line, "training.steps=7", "--force"]) == 0
    assert f"are kept in {run / 'replaced-001'}" in capsys.readouterr().out
    assert (run / "replaced-001" / "plan.json").read_bytes() == before
    assert (run / "plan.json").read_bytes() != before


def test_the_files_of_a_running_run_of_another_plan_are_not_replaced_but_of_a_stopped_one(
    generated: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, line = generated
    with other_process_that_holds(run) as process:
        told = refused([*line, "training.steps=7"], capsys)
        assert f"is being trained (attempt 1, pid {process.pid} on " in told
    assert main([*line, "training.steps=7"]) == 0, "the process was killed: the run may go on otherwise"


def test_the_limits_of_a_running_run_are_not_replaced_but_those_of_a_stopped_one(
    generated: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, line = generated
    before = (run / "env").read_bytes()
    assert b"MAX_MEMORY_PER_GPU=1500000000\n" not in before
    monkeypatch.setenv("MAX_MEMORY_PER_GPU", "1500000000")
    with other_process_that_holds(run) as process:
        told = refused(line, capsys)
        assert f"is being trained (attempt 1, pid {process.pid} on " in told
        assert re.search(r"with other limits: MAX_MEMORY_PER_GPU was \d+, now 1500000000", told), told
        assert (run / "env").read_bytes() == before
        monkeypatch.delenv("MAX_MEMORY_PER_GPU")
        assert main([*line, "--for", "torchrun"]) == 0, "the same limits: one more script"
        monkeypatch.setenv("MAX_MEMORY_PER_GPU", "1500000000")
        assert main([*line, "--force"]) == 0
        assert (run / "replaced-001" / "env").read_bytes() == before
    assert main(line) == 0
    assert b"MAX_MEMORY_PER_GPU=1500000000\n" in (run / "env").read_bytes()


def test_a_finished_run_whose_strategy_is_lost_is_not_replaced(
    generated: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, line = generated
    write_done(run, {"attempt": claim(run, {}), "step": 1})
    (run / "strategy.yaml").unlink()
    assert "its strategy.yaml is missing or damaged" in refused(line, capsys)


if __name__ == "__main__":
    for case in GOLDEN_CASES:
        for name, text in golden_files(case).items():
            (GOLDEN / case).mkdir(parents=True, exist_ok=True)
            (GOLDEN / case / name).write_text(text, encoding="utf-8")
