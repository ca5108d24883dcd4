"""Identity of a process from its launcher's variables, as each was seen to set them; no launcher runs."""

from pathlib import Path

import pytest

from runtime.process.identity import Identity, LauncherError, identify
from runtime.process.launchers import Launcher, is_other_rank_here

# Second process of two on one host. torch 2.13, DeepSpeed 0.19.8, Slurm 22.05.8, Open MPI 4.1.4, 2026-11-30.
TORCHRUN = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29511",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
DEEPSPEED = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_SIZE": "2",
    "CROSS_RANK": "0",
    "CROSS_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
SALLOC = {
    "SLURM_JOB_ID": "41",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_SUBMIT_HOST": "login",
}
SBATCH = SALLOC | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_GTIDS": "0"}
SRUN = SALLOC | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.99",  # of the login node, where srun runs
}
SRUN_HOSTS = SRUN | {
    "SLURM_STEP_NODELIST": "node[07-08],gpu1",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_NUM_TASKS": "24",
    "SLURM_PROCID": "9",
}
# `srun -N2 --ntasks-per-node=1`, as the outer launcher of a torchrun on each host.
SRUN_OUTER = SRUN | {"SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "703266817",
}
HOW = "start it so"


def seen(identity: Identity) -> tuple[int, int, int]:
    return identity.rank, identity.local_rank, identity.world_size


@pytest.mark.parametrize(
    ("environment", "launcher", "expected"),
    [
        (TORCHRUN, Launcher.TORCHRUN, (1, 1, 2)),
        (DEEPSPEED, Launcher.DEEPSPEED, (1, 1, 2)),
        (SRUN, Launcher.SRUN, (1, 1, 2)),
        (SRUN_HOSTS, Launcher.SRUN, (9, 1, 24)),
        (MPIRUN, Launcher.MPIRUN, (1, 1, 2)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Launcher.BY_HAND, (3, 3, 4)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Launcher.BY_HAND, (3, 1, 4)),
        ({}, Launcher.NONE, (0, 0, 1)),
        # In a Slurm job, but not started by srun: SLURM_NTASKS is only what was asked for.
        (SALLOC, Launcher.NONE, (0, 0, 1)),
        (SBATCH, Launcher.NONE, (0, 0, 1)),
        (SBATCH | {"SLURM_STEP_ID": "4294967290"}, Launcher.NONE, (0, 0, 1)),  # an interactive salloc
        # One inside another: the inner one counts.
        (SRUN_OUTER | TORCHRUN, Launcher.TORCHRUN, (1, 1, 2)),
        (SRUN_HOSTS | TORCHRUN, Launcher.TORCHRUN, (1, 1, 2)),
        (SALLOC | DEEPSPEED, Launcher.DEEPSPEED, (1, 1, 2)),
        (SRUN | DEEPSPEED | {"RANK": "0", "LOCAL_RANK": "0"}, Launcher.DEEPSPEED, (0, 0, 2)),
        (MPIRUN | TORCHRUN | {"WORLD_SIZE": "16", "RANK": "9"}, Launcher.TORCHRUN, (9, 1, 16)),
        # mpirun in a Slurm job starts its daemon of each host with srun; seen with `salloc -N2 -n4 mpirun`.
        (
            SRUN_OUTER | MPIRUN | {"OMPI_COMM_WORLD_SIZE": "4", "MASTER_ADDR": "node1"},
            Launcher.MPIRUN,
            (1, 1, 4),
        ),
        # `srun --pty bash`, and ranks by hand in that shell.
        (
            SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "RANK": "1", "WORLD_SIZE": "2"},
            Launcher.BY_HAND,
            (1, 1, 2),
        ),
        # Wrappers that translate, completely or in part.
        (SRUN | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, Launcher.SRUN, (1, 1, 2)),
        (SRUN | {"WORLD_SIZE": "2"}, Launcher.SRUN, (1, 1, 2)),
        (MPIRUN | {"RANK": "1", "WORLD_SIZE": "2"}, Launcher.MPIRUN, (1, 1, 2)),
    ],
)
def test_the_innermost_launcher_is_found(
    environment: dict[str, str], launcher: Launcher, expected: tuple[int, int, int]
) -> None:
    identity = identify(environment, how=HOW)
    assert (identity.launcher, seen(identity)) == (launcher, expected)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, ("localhost", 29511)),
        (DEEPSPEED, ("127.0.0.1", 29500)),
        (SRUN, ("127.0.0.1", 20041)),
        (SRUN_HOSTS, ("node07", 20041)),
        (SRUN_HOSTS | {"SLURM_STEP_NODELIST": "gpu-a,gpu-b"}, ("gpu-a", 20041)),
        # Another step, or the same job after a requeue, has another port.
        (SRUN_HOSTS | {"SLURM_STEP_ID": "2", "SLURM_RESTART_COUNT": "1"}, ("node07", 20104)),
        (SRUN_HOSTS | {"SLURM_JOB_ID": "12041"}, ("node07", 20041)),
        (SRUN_HOSTS | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "2345"}, ("10.0.0.7", 2345)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ("127.0.0.1", 29500)),
        (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "77"}, ("node1", 77)),
        (SRUN_HOSTS | {"MASTER_ADDR": "node_1.lan."}, ("node_1.lan.", 20041)),
        (SRUN_HOSTS | {"MASTER_ADDR": "fe80::1%eth0"}, ("fe80::1%eth0", 20041)),
        (DEEPSPEED | {"MASTER_ADDR": "0.0.0.0"}, ("0.0.0.0", 29500)),  # all ranks on one host
    ],
)
def test_the_rendezvous_is_on_rank_0s_host(environment: dict[str, str], expected: tuple[str, int]) -> None:
    identity = identify(environment, how=HOW)
    assert (identity.master_addr, identity.master_port) == expected


def test_ranks_of_one_mpirun_have_one_port_and_another_mpirun_another() -> None:
    first, second = (identify(MPIRUN | {"OMPI_COMM_WORLD_RANK": rank}, how=HOW) for rank in "01")
    other = identify(MPIRUN | {"PMIX_NAMESPACE": "703266818"}, how=HOW)
    assert first.master_port == second.master_port != other.master_port
    assert 20_000 <= first.master_port < 32_000


def test_an_arbitrary_distribution_begins_on_the_first_host_of_its_file(tmp_path: Path) -> None:
    """Slurm sorts the step's list: with node3, node3, node1 in the file, rank 0 was on node3."""
    hosts = tmp_path / "hosts"
    hosts.write_text("node3\nnode3\nnode1\n")
    arbitrary = SRUN_HOSTS | {"SLURM_STEP_NODELIST": "node[1,3]", "SLURM_DISTRIBUTION": "arbitrary"}
    assert identify(arbitrary | {"SLURM_HOSTFILE": str(hosts)}, how=HOW).master_addr == "node3"
    with pytest.raises(LauncherError) as refused:
        identify(arbitrary, how=HOW)
    assert refused.value.problems[0].code == "SW604"


@pytest.mark.parametrize(
    ("environment", "code", "found"),
    [
        ({"RANK": "3", "WORLD_SIZE": "2"}, "SW601", "RANK=3, WORLD_SIZE=2"),
        ({"RANK": "0"}, "SW601", "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2"}, "SW601", "RANK is not set"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "SW601", "RANK=one"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "-1"}, "SW601", "LOCAL_RANK=-1"),
        ({"RANK": "9" * 5000, "WORLD_SIZE": "2"}, "SW601", "RANK=99999"),
        # Left over from a platform that starts one process per host, or from an export in a batch script.
        (MPIRUN | {"RANK": "0", "WORLD_SIZE": "1"}, "SW601", "WORLD_SIZE=1 but OMPI_COMM_WORLD_SIZE=2"),
        (SRUN | {"RANK": "0"}, "SW601", "RANK=0 but SLURM_PROCID=1"),
        (SRUN | {"WORLD_SIZE": "4"}, "SW601", "WORLD_SIZE=4 but SLURM_STEP_NUM_TASKS=2"),
        (SRUN | {"LOCAL_RANK": "0"}, "SW601", "LOCAL_RANK=0 but SLURM_LOCALID=1"),
        (SALLOC | {"WORLD_SIZE": "4"}, "SW601", "RANK is not set"),
        (SRUN | {"MASTER_PORT": "abc"}, "SW603", "MASTER_PORT=abc"),
        (TORCHRUN | {"MASTER_PORT": "70000"}, "SW603", "MASTER_PORT=70000"),
        (TORCHRUN | {"MASTER_PORT": "0"}, "SW603", "MASTER_PORT=0"),
        (DEEPSPEED | {"MASTER_ADDR": "node1:29500"}, "SW617", "MASTER_ADDR=node1:29500 is not a host name"),
        (DEEPSPEED | {"MASTER_ADDR": "http://node1"}, "SW617", "MASTER_ADDR=http://node1 is not"),
        (DEEPSPEED | {"MASTER_ADDR": " node1"}, "SW617", "MASTER_ADDR= node1 is not"),
        (DEEPSPEED | {"MASTER_ADDR": "node1..cluster"}, "SW617", "MASTER_ADDR=node1..cluster is not"),
        (DEEPSPEED | {"MASTER_ADDR": "n" * 64}, "SW617", "is not a host name"),
        (SRUN_HOSTS | {"MASTER_ADDR": "0.0.0.0"}, "SW617", "MASTER_ADDR=0.0.0.0 is the address of no host"),
        (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "4"}, "SW604", "mpirun over several hosts"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "SW605", "PMI_RANK=1"),
        ({"PMIX_RANK": "1"}, "SW605", "PMIX_RANK=1"),
    ],
)
def test_what_a_launcher_cannot_have_meant_is_refused(
    environment: dict[str, str], code: str, found: str
) -> None:
    with pytest.raises(LauncherError) as refused:
        identify(environment, how=HOW)
    (problem,) = refused.value.problems
    assert problem.code == code
    assert found in problem.found


def test_an_address_with_a_port_is_told_how_to_write_both() -> None:
    for written in ("node1:29511", "[fe80::1]:29511"):
        with pytest.raises(LauncherError) as refused:
            identify(SRUN_HOSTS | {"MASTER_ADDR": written}, how=HOW)
        fix = refused.value.problems[0].fix
        assert fix is not None
        words = dict(word.split("=") for word in fix.removeprefix("set ").split(" and "))
        identity = identify(SRUN_HOSTS | words, how=HOW)
        assert (identity.master_addr in written, identity.master_port) == (True, 29511)


def test_a_slurm_job_whose_number_is_none_has_a_port_all_the_same() -> None:
    identity = identify(SRUN_HOSTS | {"SLURM_JOB_ID": "41_3"}, how=HOW)
    assert 20_000 <= identity.master_port < 32_000


@pytest.mark.parametrize(
    ("left_over", "speaker"),
    [({"RANK": "0"}, 1), ({"RANK": "0", "LOCAL_RANK": "0"}, 1), ({"WORLD_SIZE": "4"}, 0), ({"RANK": "2"}, 0)],
)
def test_one_rank_reports_what_is_left_over(left_over: dict[str, str], speaker: int) -> None:
    speakers = []
    for rank in range(3):
        task = SRUN | {"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        try:
            identify(task | left_over, how=HOW)
        except LauncherError as error:
            speakers += [rank] * error.is_first
    assert speakers == [speaker]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, True),
        (TORCHRUN | {"RANK": "0"}, False),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, False),  # rank 0 is on another host
        (DEEPSPEED, True),
        (SRUN, True),
        (SRUN_HOSTS, False),
        (MPIRUN, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),  # nothing says where rank 0 is
        ({}, False),
        (SBATCH, False),
    ],
)
def test_ranks_beside_rank_0_are_known(environment: dict[str, str], expected: bool) -> None:
    assert is_other_rank_here(environment) is expected
