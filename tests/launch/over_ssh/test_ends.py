"""However a job ends, nothing of it is left on any host, and another job on the same hosts goes on."""

import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.support.hosts import LoopbackHosts
from tests.support.jobs import Job, until

pytestmark = pytest.mark.slow
TWO = ("cluster.hosts=[node1, node2]", "cluster.gpus_per_host=2")
ONE = ("cluster.hosts=[node1]", "cluster.gpus_per_host=2", "parallel.ep=2")
RUNNER, LAUNCHER = "deepspeed.launcher.runner", "deepspeed.launcher.launch"


def kill_first(program: str) -> Callable[[Job], None]:
    return lambda job: job.of(program)[0].kill()


def kill_last(program: str) -> Callable[[Job], None]:
    """On the last host: processes of node2 are started after those of node1, or have higher ranks."""
    return lambda job: max(job.of(program), key=_node_of).kill()


def _node_of(process: psutil.Process) -> str:
    words = process.cmdline()
    number = next((word for word in words if word.startswith("--node_rank=")), "")
    return number or process.environ().get("RANK", "")


# name of the job: its hosts, what happens to it, the exit code of launch.sh, and why each rank ends
ASKED = "asked by SIGTERM"
EARLY = "interrupt-before-ranks"
ENDS = {
    "interrupt": (TWO, lambda job: job.send(signal.SIGINT), 130, [ASKED] * 4),
    EARLY: (TWO, lambda _: None, 130, [ASKED] * 4),
    "no-script": (ONE, lambda job: job.send(signal.SIGKILL), -signal.SIGKILL, [ASKED] * 2),
    "no-runner": (ONE, kill_first(RUNNER), 3, [ASKED] * 2),
    "no-pdsh": (ONE, kill_first("pdsh"), 3, [ASKED] * 2),
    "no-launcher": (TWO, kill_last(LAUNCHER), 3, [ASKED] * 2 + ["because the launcher has ended"] * 2),
    "no-rank": (TWO, kill_last("train.py"), 3, [ASKED] * 3),
}


@pytest.fixture(scope="module")
def ended(
    loopback: LoopbackHosts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Job, int, str]]]:
    """All of them at once on the same hosts, beside a training: by name the job, its code, what it said."""
    folder = tmp_path_factory.mktemp("ends")
    training = Job(folder, "training", loopback.ssh_config, *TWO)
    jobs = {
        name: Job(folder, name, loopback.ssh_config, *hosts, light=True) for name, (hosts, *_) in ENDS.items()
    }
    for job in jobs.values():
        script = job.run / "launch.sh"
        script.write_text(script.read_text().replace("out > 30", "out > 3"))
    try:
        training.start()
        for job in jobs.values():
            job.start()
        early = jobs[EARLY]
        until(lambda: bool(early.of(RUNNER)), 600, early.alive)
        assert not early.of("train.py")
        early.send(signal.SIGINT)
        for job in jobs.values():
            if job is not early:
                job.wait_for_light_ranks()
        training.wait_for_step(1)
        for name, (_, act, *_) in ENDS.items():
            act(jobs[name])
        jobs["training"] = training
        yield {name: (job, *job.finish()) for name, job in jobs.items()}
    finally:
        for job in (training, *jobs.values()):
            job.kill_all()


@pytest.mark.parametrize("name", ENDS)
def test_nothing_is_left(ended: dict[str, tuple[Job, int, str]], name: str) -> None:
    job, code, said = ended[name]
    _, _, expected, reasons = ENDS[name]
    assert code == expected, said
    ends = sorted(job.ends().values())
    # A rank that is asked before it takes signals just ends.
    assert set(ends) <= set(reasons) if name == EARLY else ends == sorted(reasons)
    assert [process.cmdline() for process in job.processes()] == []
    assert list((job.run / "logs").glob("job-*")) == []
    assert not (job.run / "done.json").exists()


def test_another_job_trains_on_to_the_losses_of_one_host(
    ended: dict[str, tuple[Job, int, str]], one_host: Job
) -> None:
    training, code, said = ended["training"]
    assert code == 0, said
    assert training.read("done.json")["step"] == len(training.losses()) == 40
    assert training.losses() == one_host.losses()
    assert [process.cmdline() for process in training.processes()] == []
