"""launch.sbatch with stand-ins for Slurm: what ranks get, the container, and when a job is requeued."""

import json
from pathlib import Path

import pytest

from planner import build_plan, load
from tests.launch.scripts.test_generate import STAGED
from tests.launch.scripts.test_launch_scripts import NAMED, STOPPED, Scene, end

JOB = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "gpu[0-8]"}
RUNS = 'while [[ $1 == --* ]]; do shift; done; SLURM_PROCID=9 SLURM_LOCALID=1 exec "$@"'


@pytest.fixture
def staged(tmp_path: Path) -> Scene:
    return scene(tmp_path)


def scene(folder: Path, *overrides: str) -> Scene:
    found = Scene(folder, build_plan(load(STAGED, [NAMED, *overrides])), ("slurm",))
    found.stand_in("scontrol", "for i in {0..8}; do echo gpu$i; done")
    found.stand_in("srun", RUNS)
    found.stand_in("python", end("done", attempt=1))
    return found


def start(scene: Scene, **env: str) -> tuple[int, str]:
    return scene.start("launch.sbatch", **JOB, **env)


def test_slurm_gets_one_host_a_rank_and_ranks_the_variables(staged: Scene) -> None:
    left_over = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_PORT": "29500"}
    code, told = start(staged, MASTER_ADDR="old", SLURM_CPUS_PER_TASK="12", **left_over)
    assert (code, told) == (0, "")
    hosts = (staged.run / "logs" / "slurm-77.hosts").read_text().splitlines()
    assert hosts == [f"gpu{i // 8}" for i in range(68)]
    assert staged.env("srun")["SLURM_HOSTFILE"] == str(staged.run / "logs" / "slurm-77.hosts")
    assert {"--ntasks=68", "--distribution=arbitrary", "--export=ALL"} <= set(staged.called("srun"))
    env = staged.env("python")
    assert env["SLURM_PROCID"] == "9", "by which a rank knows its number (runtime/process/launchers.py)"
    assert not {*left_over, "MASTER_ADDR"} & set(env)
    assert env["SRUN_CPUS_PER_TASK"] == "12"
    assert env["SWITCHYARD_PLAN"] == staged.plan.fingerprint


def test_the_address_of_rank_0_can_be_given(staged: Scene) -> None:
    assert start(staged, LAUNCH_MASTER_ADDR="10.0.0.1") == (0, "")
    assert staged.env("python")["MASTER_ADDR"] == "10.0.0.1"


def test_options_of_the_step_arrive_as_they_are_written(tmp_path: Path) -> None:
    options = """launch.srun={cpu-bind: "map_cpu:0,1", comment: "it's $HOME", mpi: pmix, exclusive: true}"""
    found = scene(tmp_path, options)
    assert start(found) == (0, "")
    called = found.called("srun")
    assert {"--cpu-bind=map_cpu:0,1", "--comment=it's $HOME", "--mpi=pmix", "--exclusive"} <= set(called)
    assert called.index("--mpi=pmix") < called.index(found.paths.python), "before the program"


@pytest.mark.parametrize("engine", ["pyxis", "apptainer"])
def test_ranks_start_in_the_container_of_the_engine(engine: str, tmp_path: Path) -> None:
    container = f"launch.container={{image: 'reg#x/y:1 $a', engine: {engine}, mounts: [/models, '/d a:/d']}}"
    found = scene(tmp_path, container, "data.path=/texts/*.txt", "launch.environment={A: 1}")
    found.stand_in("apptainer", 'while [[ $1 != python ]]; do shift; done; exec "$@"')
    assert start(found) == (0, "")
    here = str(tmp_path)
    mounts = ["/texts:/texts", f"{here}:{here}", "/models:/models", "/d a:/d"]
    ranks = ["python", "-u", "train.py", "--strategy", f"{found.run}/strategy.yaml"]
    called = found.called("srun")
    assert called[-5:] == ranks
    if engine == "pyxis":
        (names,) = (word for word in called if word.startswith("--container-env="))
        assert {"A", "SWITCHYARD_PLAN", "OMP_NUM_THREADS"} <= set(names.partition("=")[2].split(","))
        assert {
            "--container-image=reg#x/y:1 $a",
            f"--container-workdir={here}",
            f"--container-mounts={','.join(mounts)}",
        } <= set(called)
    else:
        inside = found.called("apptainer")
        assert inside[:2] == ["exec", "--nv"]
        assert [inside[i + 1] for i, word in enumerate(inside) if word == "--bind"] == mounts
        assert inside[-8:] == ["--pwd", here, "reg#x/y:1 $a", *ranks]


def near_the_limit(
    staged: Scene, *, saves: str = "", requeues: bool = True, then: str = ""
) -> tuple[int, str]:
    """A job that Slurm signals, and whose ranks then stop."""
    requeue = "[[ $1 == requeue ]]" if requeues else "{ [[ $1 == requeue ]] && exit 1; }"
    staged.stand_in("scontrol", f"{requeue} || for i in {{0..8}}; do echo gpu$i; done")
    staged.stand_in("scancel", f"touch {staged.folder}/asked")
    (staged.folder / "asked").unlink(missing_ok=True)
    wait = f"kill -USR1 $PPID; until [[ -e {staged.folder}/asked ]]; do sleep 0.05; done; "
    save = f"mkdir -p run/checkpoints; echo {saves} >run/checkpoints/latest; " if saves else ""
    staged.stand_in("srun", f"{wait}{save}{end('failed', attempt=1, code=130)}{then}; exit 130")
    return start(staged)


def test_a_job_near_its_limit_that_saved_is_requeued_each_time(staged: Scene) -> None:
    for step in ("step-1", "step-2", "step-3"):
        code, told = near_the_limit(staged, saves=step)
        assert (code, "checkpoint saved near the time limit; to be requeued" in told) == (0, True), told
    assert staged.called("scancel") == ["--signal=USR1", "77"] * 3
    assert staged.called("scontrol")[-2:] == ["requeue", "77"]


def test_a_job_near_its_limit_repeats_what_rank_0_says_of_the_stop(staged: Scene) -> None:
    failed = json.dumps({"attempt": 1, "code": 130, "stopped": STOPPED}, indent=1)
    _, told = near_the_limit(staged, saves="step-1", then=f"; echo '{failed}' >run/failed.json")
    assert told.splitlines()[-1] == f"launch.sbatch: {STOPPED} near the time limit; to be requeued"


def test_a_job_that_saved_nothing_is_requeued_once(staged: Scene) -> None:
    code, told = near_the_limit(staged)
    assert (code, "nothing saved; to be requeued" in told) == (0, True), told
    code, told = near_the_limit(staged)
    assert (code, "SW438" in told) == (130, True), told
    assert staged.called("scontrol").count("requeue") == 1
    code, told = near_the_limit(staged, saves="step-1")  # a checkpoint in between counts anew
    assert code == 0
    assert near_the_limit(staged)[0] == 0
    assert staged.called("scontrol").count("requeue") == 3


def test_a_job_that_slurm_does_not_requeue_says_so(staged: Scene) -> None:
    code, told = near_the_limit(staged, saves="step-1", requeues=False)
    assert (code, "SW437 checkpoint saved" in told) == (130, True), told


def test_a_job_that_was_cancelled_is_not_requeued_and_says_how_it_continues(staged: Scene) -> None:
    staged.stand_in("srun", end("failed", attempt=1, code=130) + "; exit 130")
    code, told = start(staged)
    assert code == 130
    assert "stopped on request; submitted again, the run resumes" in told
    assert "requeue" not in staged.called("scontrol")


def test_a_job_whose_rank_0_was_killed_leaves_a_reason(staged: Scene) -> None:
    staged.stand_in("srun", "exit 137")
    code, told = start(staged)
    assert (code, "SW434 run not done (srun exit code 137)" in told) == (3, True)
    assert staged.called("attempts")[:4] == ["-m", "runtime.attempts", "record-failure", str(staged.run)]
