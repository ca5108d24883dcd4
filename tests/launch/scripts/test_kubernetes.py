"""launch.kubernetes.yaml against the fields of its resources, as kubernetes_fields.yaml lists them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.scripts.launch_files import launch_files
from planner import StrategyError, build_plan, load
from tests.launch.scripts.test_generate import files_of, paths_for, plan_of
from tests.support.examples import plan

FIELDS = yaml.safe_load(Path(__file__).with_name("kubernetes_fields.yaml").read_text())
NEEDED = ("launch.container.image=image", "launch.kubernetes.volume_claim=claim")
KINDS = {"text": str, "integer": int, "boolean": bool}


def manifest(*overrides: str, text: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """TrainingRuntime and TrainJob."""
    if text is None:
        text = files_of(plan("parallel.ep=8", *NEEDED, *overrides), targets=("kubernetes",))[
            "launch.kubernetes.yaml"
        ]
    runtime, job = yaml.safe_load_all(text)
    return runtime, job


def check(value: Any, kind: Any, path: str) -> None:
    if isinstance(kind, list):
        assert isinstance(value, list), path
        for number, item in enumerate(value):
            check(item, kind[0], f"{path}[{number}]")
    elif kind in KINDS:
        assert type(value) is KINDS[kind], f"{path}: {value!r}"
    elif kind == "map":
        for name, item in value.items():
            check(item, "text", f"{path}.{name}")
    else:
        assert set(value) <= set(FIELDS[kind]["fields"]), path
        assert set(FIELDS[kind].get("required", ())) <= set(value), path
        for name, item in value.items():
            check(item, FIELDS[kind]["fields"][name], f"{path}.{name}")


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["trainer"]
    return found


def container(runtime: dict[str, Any]) -> dict[str, Any]:
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (found,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert (job["name"], found["name"]) == ("node", "node"), "the names that Trainer looks for"
    return dict(found)


def test_every_field_is_one_of_the_resource() -> None:
    runtime, job = manifest(
        text=files_of(plan_of("container_68"), targets=("kubernetes",))["launch.kubernetes.yaml"]
    )
    check(runtime, "TrainingRuntime", "TrainingRuntime")
    check(job, "TrainJob", "TrainJob")
    assert job["apiVersion"] == runtime["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert job["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": runtime["kind"],
        "name": runtime["metadata"]["name"],
    }
    assert job["metadata"]["namespace"] == runtime["metadata"]["namespace"] == "ml"


def test_a_field_that_a_resource_does_not_have_is_noticed() -> None:
    runtime, job = manifest()
    trainer(job)["numProcsPerNode"] = 8
    with pytest.raises(AssertionError, match=r"TrainJob\.spec\.trainer"):
        check(job, "TrainJob", "TrainJob")
    runtime["spec"]["mlPolicy"]["torch"]["numProcPerNode"] = "8"
    with pytest.raises(AssertionError, match=r"mlPolicy\.torch"):
        check(runtime, "TrainingRuntime", "TrainingRuntime")


def test_nodes_and_processes_are_the_plans_and_torchrun_gets_no_numbers() -> None:
    runtime, job = manifest(
        text=files_of(plan_of("container_68"), targets=("kubernetes",))["launch.kubernetes.yaml"]
    )
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 9, "torch": {}}
    found = trainer(job)
    assert (found["numNodes"], found["numProcPerNode"]) == (9, 8), (
        "68 ranks, and 4 processes with nothing to do"
    )
    assert found["resourcesPerNode"]["limits"] == found["resourcesPerNode"]["requests"]
    assert found["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    _, job = manifest()
    assert trainer(job)["command"] == [
        *("python", "-m", "torch.distributed.run", "--rdzv_conf=timeout=600"),
        *("train.py", "--strategy", "/srv/switchyard/runs/small/strategy.yaml"),
    ]


def test_a_prologue_runs_in_bash_before_torchrun() -> None:
    _, job = manifest("launch.prologue=['export A=\"$B\"', cd /x]")
    command = trainer(job)["command"]
    assert command[:3] == [
        "/bin/bash",
        "-c",
        'set -e\nexport A="$$B"\ncd /x\nexec "$$0" "$$@"',
    ]
    assert command[3:6] == ["python", "-m", "torch.distributed.run"]


@pytest.mark.parametrize(
    "value",
    ["1e3", "on", "0x10", "1:30", "null", "~", "a: b", "# x", " a ", "'", '"', "\\", "é", "1_000", "=", ""],
)
def test_values_arrive_as_text(value: str) -> None:
    """Whatever YAML makes of them; Kubernetes refuses a number as the value of a variable."""
    written = value.replace("'", "''")
    _, job = manifest(f"launch.environment={{X: '{written}'}}")
    assert {"name": "X", "value": value} in trainer(job)["env"]
    text = files_of(plan(*NEEDED, f"launch.environment={{X: '{written}'}}"), targets=("kubernetes",))
    line = text["launch.kubernetes.yaml"].split("name: X\n      value: ")[1].partition("\n")[0]
    assert line[0] in "\"'", "quoted, as other readers know more numbers than PyYAML"


def test_what_kubernetes_would_expand_is_escaped() -> None:
    _, job = manifest("launch.environment={X: 'a $(PATH) $$ $b'}")
    assert {"name": "X", "value": "a $$(PATH) $$$$ $$b"} in trainer(job)["env"]


@pytest.mark.parametrize(
    ("name", "label"),
    [("Run_1.a", "run-1-a"), ("68_ranks", "run-68-ranks"), ("x" * 99, "x" * (63 - len("-node-0-0-abcde")))],
)
def test_a_name_becomes_a_dns_label(name: str, label: str) -> None:
    runtime, job = manifest(f"name={name}")
    assert job["metadata"]["name"] == runtime["metadata"]["name"] == label
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", label)


def problems(*overrides: str) -> dict[str | None, str]:
    built = plan("parallel.ep=8", *overrides)
    with pytest.raises(StrategyError) as caught:
        launch_files(built, paths_for(), {}, ("kubernetes",))
    return {problem.path: problem.code for problem in caught.value.problems}


def test_image_and_claim_are_asked_for_together() -> None:
    assert problems() == {"launch.container.image": "SW443", "launch.kubernetes.volume_claim": "SW443"}


@pytest.mark.parametrize(
    "override",
    ["launch.kubernetes.mount_path=/", "launch.kubernetes.mount_path=/data", "data.path=/data/*.txt"],
)
def test_what_pods_would_not_see_is_refused(override: str) -> None:
    assert problems(*NEEDED, override) == {"launch.kubernetes.mount_path": "SW444"}


def test_pods_of_several_nodes_may_have_a_secret_that_people_create() -> None:
    built = plan("parallel.ep=8", "cluster.gpus_per_host=4", "launch.kubernetes.namespace=ml", *NEEDED)
    text = files_of(built, targets=("kubernetes",))["launch.kubernetes.yaml"]
    _, job = manifest(text=text)
    reference = {"name": "small", "key": "secret", "optional": True}
    assert trainer(job)["env"][-1] == {
        "name": "SWITCHYARD_SECRET",
        "valueFrom": {"secretKeyRef": reference},
    }
    line = (
        "# kubectl create secret generic small --namespace=ml --from-literal=secret=$(openssl rand -hex 32)"
    )
    assert line in text.splitlines()
    _, job = manifest()
    assert "SWITCHYARD_SECRET" not in {variable["name"] for variable in trainer(job)["env"]}, (
        "ranks of one host have a key of their own"
    )


def test_on_cpus_no_gpu_is_asked_for() -> None:
    built = build_plan(load("ds_configs/tiny_cpu.yaml", NEEDED))
    _, job = manifest(text=files_of(built, targets=("kubernetes",))["launch.kubernetes.yaml"])
    assert "resourcesPerNode" not in trainer(job)
    assert trainer(job)["numProcPerNode"] == 4
