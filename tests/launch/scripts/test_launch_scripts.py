"""launch.sh runs with stand-ins for what it starts: what it passes on, and how it ends; shellcheck."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch.scripts.launch_files import FILE_NAMES, launch_files, write_together
from launch.scripts.template import TEMPLATES, LaunchPaths
from planner import Plan, build_plan, load
from planner.paths import PROJECT
from tests.launch.scripts.test_generate import CASES, STAGED, files_of, plan_of

NAMED = "cluster.hosts=[" + ",".join(f"user@node{i}" for i in range(16)) + "]"
# Notes how it was called, and then does what the test asks.
STAND_IN = """\
#!/usr/bin/env bash
name=$(basename "$0")
name=${{name%%-*}}
case "$1 $2" in
  '-m launch.job') name=job ;;
  '-m launch.launcher_output') exec env PYTHONPATH="{root}" "{python}" "$@" ;;
  '-m runtime.attempts') name=attempts ;;
esac
{{ printf '%s\\n' "$@"; }} >>"{folder}/$name.called"
env >"{folder}/$name.env"
if [[ $name == attempts ]]; then
  :
elif [[ $name != job ]]; then
  {then}
elif [[ $3 == make ]]; then
  mkdir -p "$(dirname "$4")"
  ln -s "$0" "$4"
fi
"""


class Scene:
    """A run's folder with its generated files, and programs of our own in front of PATH."""

    def __init__(self, folder: Path, built: Plan, targets: tuple[str, ...] = ()) -> None:
        self.folder, self.plan = folder, built
        self.run = folder / "run"
        self.paths = LaunchPaths(
            project=folder, run=self.run, python=str(folder / "bin/python"), ssh_config=None
        )
        write_together(self.run, launch_files(built, self.paths, {}, targets))
        (folder / "bin").mkdir()
        for name in ("python", "pdsh", "scancel"):
            self.stand_in(name, "true")
        self.stand_in("ssh", 'echo user root; echo "hostname 10.0.0.7"')

    def stand_in(self, name: str, then: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(STAND_IN.format(folder=self.folder, then=then, root=PROJECT, python=sys.executable))
        path.chmod(0o755)

    def start(self, script: str, *arguments: str, **env: str) -> tuple[int, str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "CUDA"))}
        done = subprocess.run(
            [str(self.run / script), *arguments],
            env={**clean, "PATH": path, **env},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stderr

    def called(self, name: str) -> list[str]:
        path = self.folder / f"{name}.called"
        return path.read_text().splitlines() if path.exists() else []

    def env(self, name: str) -> dict[str, str]:
        lines = (self.folder / f"{name}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


def job_of(scene: Scene) -> str:
    """The name of the attempt, which its folder had."""
    return Path(scene.called("job")[3]).name.removeprefix("python-")


# As the stand-in's launch calls itself: by its link, or by Slurm's job.
_OWN = "${SLURM_JOB_ID:+slurm-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}}"


def end(name: str, *, attempt: int, launch: str | None = None, **content: object) -> str:
    """What a stand-in does to end a run, as an attempt of its own launch or of another."""
    own = f'own={_OWN}; own=${{own:-$(basename "$0")}}' if launch is None else f"own={launch}"
    claim = f'{{ echo "{{"; echo " \\"launch\\": \\"$own\\""; echo "}}"; }} >run/attempts/{attempt:04d}.json'
    ended = json.dumps({"attempt": attempt, **content})
    return f"{own}; mkdir -p run/attempts; {claim}; echo '{ended}' >run/{name}.json"


@pytest.fixture
def staged(tmp_path: Path) -> Scene:
    return Scene(tmp_path, build_plan(load(STAGED, [NAMED])))


@pytest.fixture
def tiny(tmp_path: Path) -> Scene:
    return Scene(tmp_path, plan_of("tiny_cpu"))


def test_many_hosts_get_the_hostfile_address_port_and_variables(staged: Scene) -> None:
    staged.stand_in("python", end("done", attempt=1))
    assert staged.start("launch.sh", "23456", CUDA_VISIBLE_DEVICES="3") == (0, "")
    run = str(staged.run)
    assert staged.called("python") == [
        *("-m", "deepspeed.launcher.runner", "--hostfile", f"{run}/hostfile", "--force_multi"),
        *("--no_ssh_check", "--master_addr", "10.0.0.7", "--master_port", "23456", "--no_local_rank"),
        *("train.py", "--strategy", f"{run}/strategy.yaml", "--rank-logs", f"{run}/logs/{job_of(staged)}"),
    ]
    env = staged.env("python")
    assert env["DS_ENV_FILE"] == f"{run}/env"
    assert "-o ServerAliveInterval=5 -o ServerAliveCountMax=6" in env["PDSH_SSH_ARGS_APPEND"]
    assert "user@node0" in staged.called("ssh")
    assert (staged.run / "logs").is_dir()


def test_one_host_exports_the_variables_and_needs_no_ssh(tiny: Scene) -> None:
    tiny.stand_in("python", end("done", attempt=1))
    assert tiny.start("launch.sh", CUDA_VISIBLE_DEVICES="3") == (0, "")
    called = tiny.called("python")
    assert called[called.index("--num_gpus") + 1] == "4"
    env = tiny.env("python")
    assert env["SWITCHYARD_PLAN"] == tiny.plan.fingerprint
    assert (env["DS_ACCELERATOR"], env["EXPERT_GPUS"], env.get("CUDA_VISIBLE_DEVICES")) == (
        "cpu",
        "0-3",
        None,
    )
    assert tiny.called("ssh") == tiny.called("pdsh") == []
    ports = {line for line in called if line.isdecimal() and len(line) == 5}
    assert len(ports) == 1


@pytest.mark.parametrize("name", ["run", "link", "python", "code", "command"])
def test_a_variable_may_have_a_name_that_the_script_uses(tmp_path: Path, name: str) -> None:
    overrides = [f"launch.environment={{{name}: 'an odd value'}}"]
    scene = Scene(tmp_path, build_plan(load("ds_configs/tiny_cpu.yaml", overrides)))
    scene.stand_in("python", end("done", attempt=1))
    assert scene.start("launch.sh")[0] == 0
    assert scene.env("python")[name] == "an odd value"


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("exit 0", 3),  # DeepSpeed's runner ends so when its launcher was killed
        (end("failed", attempt=2, code=130) + "; exit 1", 130),
        (end("failed", attempt=2, code=130) + "; exit 130", 130),
        (end("failed", attempt=2, code=130) + "; exit 247", 3),  # another rank was killed
        (end("failed", attempt=2, code=2) + "; exit 1", 2),
        (end("done", attempt=2) + "; exit 1", 0),
    ],
)
def test_only_what_rank_0_wrote_now_counts(tiny: Scene, then: str, code: int) -> None:
    (tiny.run / "done.json").write_text('{"attempt": 1}\n')
    tiny.stand_in("python", then)
    assert tiny.start("launch.sh")[0] == code


@pytest.mark.parametrize(
    ("then", "code"),
    [
        (end("done", attempt=2, launch="python-20261130-120000-other-7") + "; exit 1", 3),
        (end("done", attempt=2, launch="") + "; exit 1", 3),  # started by hand
        (end("failed", attempt=2, launch="python-other", code=130) + "; exit 1", 3),
        ("echo '{\"attempt\": 2}' >run/done.json; exit 0", 3),  # a claim that is gone
    ],
)
def test_the_end_of_another_launchs_attempt_does_not_count(tiny: Scene, then: str, code: int) -> None:
    tiny.stand_in("python", then)
    assert tiny.start("launch.sh")[0] == code


def test_a_lost_connection_is_no_requested_stop(staged: Scene) -> None:
    """Ranks behind it report 130, and pdsh passes on their exit code; launch.sh reports 3."""
    staged.stand_in("python", end("failed", attempt=1, code=130) + "; exit 130")
    assert staged.start("launch.sh")[0] == 3


STOPPED = "stopped by SIGUSR1, saved at step 14"


@pytest.mark.parametrize("target", ["deepspeed", "torchrun", "mpi"])
def test_what_rank_0_says_of_a_stop_is_the_last_line_of_every_script(target: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, plan_of("tiny_cpu"), (target,))
    own = {"deepspeed": None, "torchrun": "$SWITCHYARD_LAUNCH", "mpi": "$SWITCHYARD_LAUNCH"}[target]
    ended = end("failed", attempt=1, launch=own, code=130)
    failed = json.dumps({"attempt": 1, "code": 130, "stopped": STOPPED}, indent=1)  # as rank 0 writes it
    then = f"kill -TERM $PPID; sleep 1; {ended}; echo '{failed}' >run/failed.json; exit 130"
    scene.stand_in("mpirun" if target == "mpi" else "python", f"trap '' USR1 USR2 TERM; {then}")
    code, said = scene.start(FILE_NAMES[target])
    assert code == 130, said
    assert said.splitlines()[-1] == f"{FILE_NAMES[target]}: {STOPPED}; started again, the run resumes"


@pytest.mark.parametrize(("target", "starter"), [("torchrun", "python"), ("mpi", "mpirun")])
def test_a_rank_0_that_was_killed_leaves_a_reason_by_the_script(
    target: str, starter: str, tmp_path: Path
) -> None:
    """Under launch.sh too (test_remaining_processes…); a reason that rank 0 has left is not replaced."""
    scene = Scene(tmp_path, plan_of("tiny_cpu"), (target,))
    scene.stand_in(starter, "exit 137")
    code, said = scene.start(FILE_NAMES[target])
    assert (code, "SW434 run not done" in said) == (3, True)
    module, command, run, _, launcher_code = scene.called("attempts")[1:]
    assert (module, command, launcher_code) == ("runtime.attempts", "record-failure", "137")
    assert Path(run) == scene.run
    scene.stand_in(starter, end("failed", attempt=1, launch="$SWITCHYARD_LAUNCH", code=2) + "; exit 2")
    assert scene.start(FILE_NAMES[target])[0] == 2
    assert len(scene.called("attempts")) == 6, "once"


@pytest.fixture
def torchrun(tmp_path: Path) -> Scene:
    return Scene(tmp_path, build_plan(load(STAGED, [NAMED])), ("torchrun",))


def test_hosts_that_start_torchrun_by_themselves_have_one_secret(torchrun: Scene) -> None:
    seen = set()
    for node in ("3", "0"):
        torchrun.start("launch.torchrun.sh", node)
        seen.add(torchrun.env("python")["SWITCHYARD_SECRET"])
    (secret,) = seen
    assert re.fullmatch("[0-9a-f]{64}", secret)
    assert (torchrun.run / "logs/torchrun.secret").stat().st_mode & 0o777 == 0o600
    assert list((torchrun.run / "logs").iterdir()) == [torchrun.run / "logs/torchrun.secret"]
    assert secret not in " ".join(torchrun.called("python"))
    torchrun.start("launch.torchrun.sh", "0", SWITCHYARD_SECRET="written by the operator")
    assert torchrun.env("python")["SWITCHYARD_SECRET"] == "written by the operator"


def test_a_taken_port_is_told_before_torchrun_is_started(torchrun: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {"LAUNCH_MASTER_ADDR": "127.0.0.1", "LAUNCH_MASTER_PORT": port}
        code, said = torchrun.start("launch.torchrun.sh", "0", **env)
        assert (code, torchrun.called("python")) == (2, [])
        assert f"launch.torchrun.sh: SW632 port {port} of 127.0.0.1 is in use" in said
        torchrun.start("launch.torchrun.sh", "1", **env)
        assert torchrun.called("python"), "on the other hosts rank 0's may answer already"


def test_without_a_place_for_the_secret_nothing_starts(torchrun: Scene) -> None:
    (torchrun.run / "logs").mkdir()
    (torchrun.run / "logs/torchrun.secret").symlink_to("/nowhere/secret")
    code, said = torchrun.start("launch.torchrun.sh", "0")
    assert (code, torchrun.called("python")) == (2, [])
    assert "launch.torchrun.sh: SW448 cannot read the secret of the run, " in said


@pytest.mark.parametrize(("attempt", "expected"), [(8, 130), (7, 3)])
def test_a_stop_on_another_host_is_a_stop_on_this_one(torchrun: Scene, attempt: int, expected: int) -> None:
    """Rank 0 is elsewhere, and says so in the run's folder; an end of before this start is not this one's."""
    (torchrun.run / "attempts").mkdir()
    (torchrun.run / "attempts/0007.json").write_text("{}")
    failed = json.dumps({"attempt": attempt, "code": 130, "stopped": STOPPED}, indent=1)
    torchrun.stand_in("python", f"(sleep 1; echo '{failed}' >run/failed.json) & exit 1")
    code, said = torchrun.start("launch.torchrun.sh", "1")
    assert code == expected, said
    assert (STOPPED in said) == (expected == 130)


def test_run_folder_that_cannot_be_written_is_refused(tiny: Scene) -> None:
    (tiny.run / "logs").touch()
    code, told = tiny.start("launch.sh")
    assert code == 2
    assert "launch.sh: SW426 " in told
    assert str(tiny.run) in told


def test_project_that_has_moved_is_refused(tiny: Scene) -> None:
    script = tiny.run / "launch.sh"
    script.write_text(script.read_text().replace(f"project={tiny.folder}\n", "project=/not/there\n"))
    code, told = tiny.start("launch.sh")
    assert code == 2
    assert "launch.sh: SW423 no project folder /not/there" in told
    assert tiny.called("job") == []


@pytest.mark.parametrize(("then", "ends"), [(end("done", attempt=2), 0), ("exit 0", 1), ("kill -9 $$", 1)])
def test_remaining_processes_are_ended_unless_the_run_is_done(tiny: Scene, then: str, ends: int) -> None:
    tiny.stand_in("python", then)
    tiny.start("launch.sh")
    link = tiny.called("job")[3]
    assert Path(link).parents[2] == tiny.run / "logs"
    assert tiny.called("job") == [
        *("-m", "launch.job", "make", link),
        *("-m", "launch.job", "end", link) * ends,
        *("-m", "launch.job", "remove", link),
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_the_ranks_of_all_hosts(staged: Scene, number: signal.Signals) -> None:
    asked = f"grep -qs launch.job.ask {staged.folder}/pdsh.called"
    wait = f"kill -{number} $PPID; until {asked}; do sleep 0.05; done; "
    staged.stand_in("python", wait + end("failed", attempt=1, code=130) + "; exit 130")
    assert staged.start("launch.sh")[0] == 130
    assert sum("-m launch.job ask" in word for word in staged.called("pdsh")) == 1


def test_a_killed_launch_sh_takes_its_ranks_with_it(staged: Scene) -> None:
    staged.stand_in("python", "kill -9 $PPID; exec sleep 60")
    assert staged.start("launch.sh")[0] == -signal.SIGKILL
    assert sum("-m launch.job end" in word for word in staged.called("pdsh")) == 1
    assert staged.called("job")[-2] == "remove"


def test_a_lost_host_ends_the_others_after_a_while(staged: Scene) -> None:
    script = staged.run / "launch.sh"
    script.write_text(script.read_text().replace("out > 30", "out > 1"))
    lost = "pdsh@head: node3: ssh exited with exit code 255"
    staged.stand_in("python", f"echo '{lost}' >&2; exec sleep 60")
    code, told = staged.start("launch.sh")
    assert code == 3
    assert lost in told
    assert any("-m launch.job end" in word for word in staged.called("pdsh"))


def test_a_host_that_is_not_ready_is_named_before_anything_starts(staged: Scene) -> None:
    staged.stand_in(
        "pdsh", "echo node3: ssh: connect to host node3 port 22: Connection refused >&2; exit 255"
    )
    code, told = staged.start("launch.sh")
    assert code == 2
    assert "node3: ssh: connect" in told
    assert "launch.sh: SW433 " in told
    assert staged.called("python") == []


@pytest.mark.parametrize("value", ["a $B", "`x`", 'say "yes"', "50%", "back\\slash", "two\nlines"])
def test_a_variable_of_the_shell_that_hosts_would_alter_is_refused(staged: Scene, value: str) -> None:
    staged.stand_in("python", end("done", attempt=1))
    code, told = staged.start("launch.sh", PYTHONSTARTUP=value)
    assert code == 2
    assert "launch.sh: SW430 " in told
    assert "PYTHONSTARTUP=" in told
    assert staged.start("launch.sh", PYTHONSTARTUP="it's (a) b; c", OTHER=value)[0] == 0


def test_files_of_two_plans_are_not_launched(staged: Scene) -> None:
    other = build_plan(load(STAGED, [NAMED, "training.steps=5"]))
    (staged.run / "hostfile").write_bytes(launch_files(other, staged.paths, {})["hostfile"])
    code, told = staged.start("launch.sh")
    assert code == 2
    assert f"launch.sh: SW424 {staged.run}/hostfile" in told
    assert staged.called("python") == []


def test_placeholder_hosts_are_not_launched(tmp_path: Path) -> None:
    code, told = Scene(tmp_path, plan_of("colocated_64")).start("launch.sh")
    assert code == 2
    assert "launch.sh: SW408 " in told
    assert "(host-00 …)" in told


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (("training.steps=3",), {}, "SW421 usage: launch.sh [--take-over] [--job NAME] [PORT]"),
        (("0",), {}, "SW421 invalid port 0 "),
        (("99999",), {}, "SW421 invalid port 99999 "),
        ((), {"MEMORY_FRACTION": "0.25"}, "SW425 MEMORY_FRACTION=0.25 "),
        ((), {"MEMORY_FRACTION": "\x1b[31m\n1"}, "SW425 MEMORY_FRACTION=?[31m?1 "),
    ],
)
def test_what_would_not_reach_the_ranks_is_refused(
    staged: Scene, arguments: tuple[str, ...], env: dict[str, str], words: str
) -> None:
    code, told = staged.start("launch.sh", *arguments, **env)
    assert code == 2
    assert words in told


def test_gpus_that_deepspeed_would_not_take_are_refused(tmp_path: Path) -> None:
    overrides = ["cluster.hosts=1", "cluster.spare_hosts=0", "parallel={ep: 8}", "training.precision=bf16"]
    scene = Scene(tmp_path, build_plan(load("ds_configs/ep64_tp2.yaml", overrides)))
    code, told = scene.start("launch.sh", CUDA_VISIBLE_DEVICES="4,5,6,7")
    assert code == 2
    assert "SW427 CUDA_VISIBLE_DEVICES=4,5,6,7" in told
    assert "0,1,2,3,4,5,6,7" in told
    scene.stand_in("python", end("done", attempt=1))
    assert scene.start("launch.sh", CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7")[0] == 0


def shellcheck(folder: Path) -> str:
    """What shellcheck finds in the scripts and templates of a folder."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (apt-get install shellcheck)")
    names = sorted(path.name for path in folder.iterdir())
    assert names
    done = subprocess.run(
        ["shellcheck", "-x", *names], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_shellcheck_finds_nothing_in_the_templates() -> None:
    assert shellcheck(TEMPLATES) == ""


SCRIPTS = ("deepspeed", "torchrun", "slurm", "mpi")


@pytest.mark.parametrize("case", [*CASES, "container_68", "odd_path", "site"])
def test_shellcheck_finds_nothing_in_filled_templates(case: str, tmp_path: Path) -> None:
    targets = ("slurm",) if case == "container_68" else SCRIPTS
    if case == "odd_path":
        odd = LaunchPaths(
            project=Path("/srv/$x `y`"), run=Path("/srv/$x `y`/run"), python="python", ssh_config=None
        )
        texts = launch_files(plan_of("tiny_cpu"), odd, {}, SCRIPTS)
    else:
        site = ["launch.modules=[cuda]", "launch.prologue=['source ~/x/bin/activate', 'export A=1']"]
        built = build_plan(load("ds_configs/tiny_cpu.yaml", site)) if case == "site" else plan_of(case)
        texts = {name: text.encode() for name, text in files_of(built, targets=targets).items()}
    for target in targets:
        (tmp_path / FILE_NAMES[target]).write_bytes(texts[FILE_NAMES[target]])
    assert shellcheck(tmp_path) == ""


@pytest.mark.parametrize("case", [*CASES, "container_68"])
def test_nothing_of_the_template_syntax_is_left(case: str) -> None:
    targets = ("slurm",) if case == "container_68" else SCRIPTS
    files = files_of(plan_of(case), targets=targets)
    for target in targets:
        assert not re.search(r"@[A-Z_]+@|^#@|^source .*\.in", files[FILE_NAMES[target]], re.MULTILINE)


def test_modules_and_prologue_run_before_the_ranks(tmp_path: Path) -> None:
    """As site scripts are: `module` from a file, unset variables, variables for the ranks."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/init").mkdir()
    (tmp_path / "site/init/bash").write_text('module() { export LOADED="$LOADED $*"; }\n')
    (tmp_path / "site/conda.sh").write_text('export CONDA="$1 $CONDA_SHLVL"; PS1=$PS1\n')
    overrides = [
        "launch.modules=[cuda/12.6, 'b c']",
        f"launch.prologue=['source {tmp_path}/site/conda.sh train', 'export ODD=\"it''s $LOADED\"']",
    ]
    scene = Scene(tmp_path, build_plan(load("ds_configs/tiny_cpu.yaml", overrides)))
    scene.stand_in("python", end("done", attempt=1))
    assert scene.start("launch.sh", MODULESHOME=str(tmp_path / "site")) == (0, "")
    env = scene.env("python")
    assert (env["LOADED"], env["CONDA"]) == (" load cuda/12.6 b c", "train ")
    assert env["ODD"] == "it's  load cuda/12.6 b c"


@pytest.mark.parametrize(
    "line", ["false", "exit 0", "source /not/there", "no_such_program", "f() { false; }; f"]
)
def test_a_failing_line_of_the_prologue_starts_nothing(line: str, tmp_path: Path) -> None:
    built = build_plan(load("ds_configs/tiny_cpu.yaml", [f"launch.prologue=['{line}']"]))
    scene = Scene(tmp_path, built)
    code, told = scene.start("launch.sh")
    assert code == 2
    assert "launch.sh: SW440 " in told
    assert scene.called("python") == []
