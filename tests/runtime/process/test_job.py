"""Which ranks are of one job."""

import pytest

from runtime.process.job import job_of_rank

ONE_HOST = {"WORLD_SIZE": "4", "LOCAL_SIZE": "4"}
TWO_HOSTS = {"WORLD_SIZE": "8", "LOCAL_SIZE": "4"}
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


@pytest.mark.parametrize(
    ("environment", "given"),
    [
        (ONE_HOST, {"parent": 9}),
        (ONE_HOST, {"command": (*COMMAND, "name=other")}),
        (TWO_HOSTS, {"command": (*COMMAND, "name=other")}),
        (TWO_HOSTS, {"python": "python-20261130-054500-node0-77"}),
        (TWO_HOSTS | {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "1"}, {}),
        (TWO_HOSTS | {"PMIX_NAMESPACE": "node0-prterun"}, {}),
        (TWO_HOSTS | {"TORCHELASTIC_RUN_ID": "b"}, {}),
    ],
)
def test_jobs_differ(environment: dict[str, str], given: dict[str, object]) -> None:
    plain = {name: environment[name] for name in ("WORLD_SIZE", "LOCAL_SIZE")}
    assert job(environment, **given) != job(plain)
