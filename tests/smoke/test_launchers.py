"""train.py under each launcher, for real: equal losses bit for bit, and what is said of too few processes."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.smoke.conftest import MPI, OVERRIDES, Losses
from tests.support.launching import Launch, free_port
from tests.support.slurm import Slurm

LAUNCHERS = ("torchrun", "srun", "mpirun")
SLOW_LAUNCHERS = ("deepspeed", "torch.distributed.launch")
ONE_PROCESS = {
    "torchrun": "torchrun --nproc_per_node=1",
    "srun": "srun --ntasks=1 python",
    "mpirun": "mpirun -np 1 python",
    "deepspeed": "deepspeed --quiet --num_gpus 1",
    "torch.distributed.launch": "python -m torch.distributed.launch --nproc_per_node=1",
}


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """What the launchers of this machine need; skips where the test's own is not installed."""
    words = str(request.node.callspec.params).split() if hasattr(request.node, "callspec") else []
    found = dict(MPI)
    if any("mpirun" in word for word in words) and shutil.which("mpirun") is None:
        pytest.skip("mpirun missing (apt-get install openmpi-bin)")
    if any("srun" in word or "salloc" in word for word in words):
        found |= request.getfixturevalue("slurm").environment
    return found


def train(launch: Launch, command: str, environment: dict[str, str], *overrides: str) -> tuple[int, str]:
    words = ("train.py", "--strategy", str(launch.strategy), *OVERRIDES, *overrides)
    return launch.run_command(*shlex.split(command), *words, env=environment)


def attempts(launch: Launch) -> list[str]:
    """The claims of the run."""
    return sorted(path.name for path in (launch.run / "attempts").iterdir())


def says_once_what_to_type(launcher: str, launch: Launch, environment: dict[str, str]) -> str:
    """The command in the fix, after a start of one process for a plan of two."""
    _, output = train(launch, ONE_PROCESS[launcher], environment)
    assert output.count("SW602") == 1, output
    assert "EP2_TP1_PP1_DP1 has 2 ranks; 1 process was started" in output
    assert launch.read("failed.json")["code"] == 2
    fix = re.search(r"start it with (.*) train\.py …, or", output)
    assert fix is not None, output
    assert launcher in fix[1]
    return fix[1]


@pytest.mark.parametrize(
    "launcher", [*LAUNCHERS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_LAUNCHERS)]
)
def test_too_few_processes_are_told_the_command_that_trains(
    launcher: str, tmp_path: Path, environment: dict[str, str], expected: Losses
) -> None:
    """And what that command trains is what `deepspeed` trains, bit for bit."""
    launch = Launch(tmp_path)
    command = says_once_what_to_type(launcher, launch, environment)
    code, output = train(launch, command, environment)
    assert code == 0, output
    assert launch.read("done.json")["step"] == 3
    assert launch.losses() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("torchrun --standalone --nproc_per_node=2", {}),
        (
            "torchrun --nnodes=1 --node_rank=0 --master_addr=localhost --master_port=PORT --nproc_per_node=2",
            {},
        ),
        ("torchrun --rdzv_backend=c10d --rdzv_endpoint=localhost:PORT --nproc_per_node=2", {}),
        ("python -m torch.distributed.launch --nproc_per_node=2 --master_port=PORT", {}),
        ("deepspeed --quiet --num_gpus 2 --master_port PORT", {}),
        ("srun --nodes=2 --ntasks=2 python", {"MASTER_ADDR": "127.0.0.1"}),
        ("srun --nodes=1 --ntasks=1 torchrun --nproc_per_node=2 --master_port=PORT", {}),
        # An allocation of another size, with its variables around the step.
        ("salloc --ntasks=5 srun --nodes=1 --ntasks=2 python", {}),
        ("salloc --nodes=2 --ntasks=2 mpirun -x MASTER_ADDR -np 2 python", {"MASTER_ADDR": "127.0.0.1"}),
        ("salloc --ntasks=5 deepspeed --quiet --num_gpus 2 --master_port PORT", {}),
        ("salloc --ntasks=2 mpirun -np 2 python", {}),
    ],
)
def test_every_launcher_trains_the_same(
    command: str, variables: dict[str, str], tmp_path: Path, environment: dict[str, str], expected: Losses
) -> None:
    launch = Launch(tmp_path)
    code, output = train(launch, command.replace("PORT", str(free_port())), environment | variables)
    assert code == 0, output
    assert launch.losses() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("torchrun --standalone --nproc_per_node=4", {}),
        ("deepspeed --quiet --num_gpus 4 --master_port PORT", {}),
        ("mpirun -np 4 python", {}),
        (
            "srun --nodes=2 --ntasks=4 --ntasks-per-node=2 --kill-on-bad-exit=1 python",
            {"MASTER_ADDR": "127.0.0.1"},
        ),
    ],
)
def test_processes_beyond_the_plan_end_and_say_so_once(
    command: str, variables: dict[str, str], tmp_path: Path, environment: dict[str, str], expected: Losses
) -> None:
    launch = Launch(tmp_path)
    code, output = train(launch, command.replace("PORT", str(free_port())), environment | variables)
    assert code == 0, output
    assert output.count("ranks 2-3 have nothing to do") == 1
    assert launch.losses() == expected
    assert attempts(launch) == ["0001.json"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["srun -n3 python", "mpirun -np 3 python"])
def test_a_start_of_more_processes_than_a_plan_of_one_rank_has_claims_one_attempt(
    launcher: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    launch = Launch(tmp_path)
    code, output = train(launch, launcher, environment, "parallel.ep=1")
    assert code == 0, output
    assert output.count("ranks 1-2 have nothing to do") == 1
    assert attempts(launch) == ["0001.json"]


@pytest.mark.slow
def test_two_torchrun_agents_train_the_same(tmp_path: Path, expected: Losses) -> None:
    """c10d: two agents as on two hosts, which number themselves as they arrive."""
    launch, other = Launch(tmp_path), Launch(tmp_path)
    words = ["torchrun", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=two"]
    words += [f"--rdzv_endpoint=localhost:{free_port()}", "train.py", "--strategy", str(launch.strategy)]
    other.start_command([*words, *OVERRIDES])
    launch.start_command([*words, *OVERRIDES])
    for code, output in (launch.finish(), other.finish()):
        assert code == 0, output
    assert launch.losses() == expected


@pytest.mark.slow
@pytest.mark.parametrize("command", ["torchrun --nproc_per_node=4", "srun --ntasks=4 python"])
def test_a_wrong_command_line_is_reported_once(
    command: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    code, output = train(Launch(tmp_path), command, environment, "--batchsize=8")
    assert code in (1, 2)
    assert output.count("unrecognized arguments: --batchsize=8") == 1, output


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["python", "salloc --ntasks=4 python"])
def test_a_plan_of_one_rank_needs_no_launcher_in_a_job_either(
    launcher: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    launch = Launch(tmp_path)
    code, output = train(launch, launcher, environment, "parallel.ep=1")
    assert code == 0, output
    assert launch.read("done.json")["step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["block", "cyclic", "arbitrary"])
def test_rank_0s_host_is_the_one_that_slurm_gives_it(distribution: str, tmp_path: Path, slurm: Slurm) -> None:
    """On three nodes, whose names Slurm sorts, in the order of a file that is not sorted."""
    hosts = tmp_path / "hosts"
    hosts.write_text("node3\nnode3\nnode1\nnode2\n")
    tell = (
        "import os; from runtime.process.identity import identify; found = identify(how='');"
        "print(found.rank, os.environ['SLURMD_NODENAME'], found.master_addr, found.master_port)"
    )
    launch = Launch(tmp_path)
    code, output = launch.run_command(
        *("srun", "--nodes=3", "--ntasks=4", f"--distribution={distribution}", "python", "-c", tell),
        env=slurm.environment | ({"SLURM_HOSTFILE": str(hosts)} if distribution == "arbitrary" else {}),
    )
    assert code == 0, output
    ranks = sorted(line.split() for line in output.splitlines())
    assert [rank for rank, *_ in ranks] == ["0", "1", "2", "3"]
    assert {(address, port) for *_, address, port in ranks} == {(ranks[0][1], ranks[0][3])}
    assert ranks[0][1] == ("node3" if distribution == "arbitrary" else "node1")
