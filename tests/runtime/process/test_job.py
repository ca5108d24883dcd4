"""Which ranks are of one job."""

import pytest

from runtime.process.job import job_of_rank, launch_of_rank

ONE_HOST = {"WORLD_SIZE": "4", "LOCAL_SIZE": "4"}
TWO_HOSTS = {"WORLD_SIZE": "8", "LOCAL_SIZE": "4"}
# As srun, mpirun and torchrun start ranks of several hosts.
SRUN = {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "1"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_SIZE": "16", "PMIX_NAMESPACE": "703266817"}
TORCHRUN = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "a"}
COMMAND = ("train.py", "--local_rank=0", "--strategy", "tiny.yaml")


def job(
    environment: dict[str, str], command: tuple[str, ...] = COMMAND, parent: int = 7, python: str = "python"
) -> str:
    return job_of_rank(environment, command=command, executable=f"/bin/{python}", parent=parent)


def test_ranks_of_one_launcher_are_of_one_job() -> None:
    other_rank = ("train.py", "--local_rank=3", "--strategy", "tiny.yaml")
    assert job(ONE_HOST | {"RANK": "0"}) == job(ONE_HOST | {"RANK": "3"}, other_rank)


def test_ranks_of_several_hosts_are_of_one_job_though_each_has_a_launcher() -> None:
    assert job(TWO_HOSTS, parent=7) == job(TWO_HOSTS, parent=9)


@pytest.mark.parametrize("inner", [MPIRUN, TORCHRUN])
def test_ranks_are_of_one_job_though_an_outer_srun_has_a_step_for_each_host(inner: dict[str, str]) -> None:
    step = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "12"}
    first, second, none = ({**step, "SLURM_STEP_ID": "0"}, {**step, "SLURM_STEP_ID": "1"}, step)
    assert len({job(outer | inner) for outer in (first, second, none)}) == 1


@pytest.mark.parametrize(
    ("environment", "given"),
    [
        (ONE_HOST, {"parent": 9}),
        (ONE_HOST, {"command": (*COMMAND, "name=other")}),
        (TWO_HOSTS, {"command": (*COMMAND, "name=other")}),
        (TWO_HOSTS, {"python": "python-20261130-054500-node0-77"}),
    ],
)
def test_jobs_differ(environment: dict[str, str], given: dict[str, object]) -> None:
    assert job(environment, **given) != job(environment)


@pytest.mark.parametrize(
    ("environment", "other"),
    [
        (SRUN, {"SLURM_JOB_ID": "13"}),
        (SRUN, {"SLURM_STEP_ID": "2"}),
        (MPIRUN, {"PMIX_NAMESPACE": "703266818"}),
        (TORCHRUN, {"TORCHELASTIC_RUN_ID": "b"}),
    ],
)
def test_jobs_of_a_launcher_differ_by_its_name_for_them(
    environment: dict[str, str], other: dict[str, str]
) -> None:
    assert job(environment | other) != job(environment)


@pytest.mark.parametrize(
    ("environment", "python", "launch"),
    [
        ({}, "python", None),
        ({}, "python3.11", None),
        (ONE_HOST, "python-20261130-054500-node0-77", "python-20261130-054500-node0-77"),
        ({"SLURM_JOB_ID": "12"}, "python", "slurm-12-0"),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"}, "python", "slurm-12-2"),
        ({"SLURM_JOB_ID": "12"}, "python-a", "python-a"),  # launch.sh inside of a Slurm job
        ({"SLURM_JOB_ID": "12", "SWITCHYARD_LAUNCH": "mpirun-a"}, "python", "mpirun-a"),
    ],
)
def test_the_launch_is_named_as_its_script_names_it(
    environment: dict[str, str], python: str, launch: str | None
) -> None:
    assert launch_of_rank(environment, f"/bin/{python}") == launch
