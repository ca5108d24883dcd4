"""Verdicts about hosts: each rule fails on the fault it is for, with code and fix."""

from typing import Any

import pytest

from launch.preflight.ask_hosts import HostAnswer, clock_of
from launch.preflight.check import PreflightCheck, Role, equal_everywhere, roles_of, unused_hosts
from launch.preflight.host_checks import files_needed, host_checks
from launch.ssh.failures import HostFailure
from planner import Plan
from tests.support.examples import plan
from tests.support.host_facts import answer, device, gpus, no_xids

NAMES = ("a", "b", "c")
GPU_PLAN = plan(
    "cluster.hosts=[a, b, c]",
    "cluster.gpus_per_host=1",
    "cluster.spare_hosts=1",
    "parallel.dp=2",
    "training.global_batch=4",
)
CPU_PLAN = plan(
    "cluster.hosts=[a, b, c]",
    "cluster.gpus_per_host=1",
    "cluster.gpu=cpu",
    "cluster.spare_hosts=1",
    "parallel.dp=2",
    "training.global_batch=4",
)


def checked(built: Plan, **answers: HostAnswer | HostFailure) -> tuple[PreflightCheck, ...]:
    everybody: dict[str, HostAnswer | HostFailure] = {name: healthy(built) for name in NAMES}
    checks = host_checks(built, roles_of(built), {**everybody, **answers})
    # The code of this process is no host's in these tests.
    return tuple(check for check in checks if check.name != "code")


def healthy(built: Plan, **changed: Any) -> HostAnswer:
    if built.strategy.cluster.gpu.is_cpu:
        return answer(**changed)
    return answer(**{"gpus": gpus(device()), "xid": no_xids(), **changed})


def failing(checks: tuple[PreflightCheck, ...]) -> list[tuple[str, str | None]]:
    return [(check.name, check.host) for check in checks if check.verdict == "fails"]


@pytest.mark.parametrize("built", [GPU_PLAN, CPU_PLAN])
def test_healthy_hosts_pass_every_check(built: Plan) -> None:
    checks = checked(built)
    assert {check.verdict for check in checks} == {"passes"}
    assert {check.host for check in checks} == set(NAMES)


def test_roles_are_ranks_spares_and_neither() -> None:
    built = plan(
        "cluster.hosts=[a, b, c slots=2, d]",
        "cluster.spare_hosts=1",
        "parallel.dp=8",
        "cluster.gpus_per_host=8",
        "training.global_batch=8",
    )
    assert [(role.name, str(role), role.slots) for role in roles_of(built)] == [
        ("a", "ranks 0-7", 8),
        ("d", "spare", 8),
    ]
    assert unused_hosts(built) == ("b", "c")


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("torch", {"packages__torch": "2.12.0"}),
    ("deepspeed", {"packages__deepspeed": None}),
    ("python", {"python": "3.10.1"}),
    ("modules", {"missing_modules": ["psutil", "torch"]}),
    ("torch's CUDA", {"cuda": None}),
    ("NCCL", {"nccl": "2.26.0"}),
    ("shared path", {"shared__nonce": None}),
    ("shared path", {"shared__error": "fsync: input/output error"}),
    ("shared path", {"seen": False}),
    ("disk", {"disk__free_bytes": 10**6}),
    ("open files", {"open_files__soft": 100}),
    ("clock", {"offset_s": -3600.0}),
    ("clock", {"offset_s": 1.1}),
    ("GPUs", {"gpus": gpus(error="no NVIDIA driver")}),
    ("GPUs", {"gpus": gpus()}),
    ("GPUs", {"gpus": gpus({"index": 0, "error": "GPU is lost", "name": None})}),
    ("GPU memory", {"gpus": gpus(device(memory_bytes=63 * 10**9))}),
    ("GPU health", {"gpus": gpus(device(ecc={"enabled": True, "corrected": 0, "uncorrected": 1}))}),
    (
        "GPU health",
        {"gpus": gpus(device(retired_pages={"single_bit": 0, "double_bit": 1, "pending": True}))},
    ),
    (
        "GPU health",
        {
            "gpus": gpus(
                device(remapped_rows={"corrected": 0, "uncorrected": 1, "pending": True, "failed": 0})
            )
        },
    ),
    (
        "GPU health",
        {
            "gpus": gpus(
                device(remapped_rows={"corrected": 0, "uncorrected": 9, "pending": False, "failed": 1})
            )
        },
    ),
    ("GPU errors (XID)", {"xid": no_xids() | {"events": [{"pci": "0000:3b:00", "xid": 79, "text": ""}]}}),
    ("GPUs free", {"gpus": gpus(device(processes=2, used_bytes=10**10))}),
    ("GPU model", {"gpus": gpus(device(name="NVIDIA A100-SXM4-80GB"))}),
    ("driver", {"gpus": gpus(device(), driver="535.1")}),
]


@pytest.mark.parametrize("host", ["b", "c"])
@pytest.mark.parametrize(("name", "changed"), FAULTS)
def test_a_fault_is_reported_on_its_host_also_on_a_spare(
    name: str, changed: dict[str, Any], host: str
) -> None:
    checks = checked(GPU_PLAN, **{host: healthy(GPU_PLAN, **changed)})
    assert failing(checks) == [(name, host)]
    (check,) = (check for check in checks if check.verdict == "fails")
    assert check.code.startswith("SW5")
    assert check.found
    assert check.expected
    assert check.fix


@pytest.mark.parametrize(
    "changed",
    [
        {"offset_s": 0.9},
        {"gpus": gpus(device(), device(1, memory_bytes=1))},  # beyond its slots
        {"gpus": gpus(device(ecc={"enabled": True, "corrected": 7, "uncorrected": 0}))},
        {"gpus": gpus(device(retired_pages={"single_bit": 2, "double_bit": 1, "pending": False}))},
        {"xid": no_xids() | {"events": [{"pci": "0000:3b:00", "xid": 31, "text": ""}]}},
        {"open_files__soft": None},
    ],
)
def test_harmless_findings_are_no_failure(changed: dict[str, Any]) -> None:
    assert failing(checked(GPU_PLAN, b=healthy(GPU_PLAN, **changed))) == []


def test_what_cannot_be_checked_is_unknown() -> None:
    silent = device(ecc={"enabled": None, "corrected": None, "uncorrected": None})
    unreadable = {"source": None, "error": "dmesg: not permitted", "events": [], "num_events": 0}
    checks = checked(GPU_PLAN, b=healthy(GPU_PLAN, gpus=gpus(silent), xid=unreadable))
    assert [(c.name, c.host) for c in checks if c.verdict == "unknown"] == [
        ("GPU health", "b"),
        ("GPU errors (XID)", "b"),
    ]


def test_a_host_without_a_driver_has_one_failure() -> None:
    checks = checked(GPU_PLAN, **{n: healthy(GPU_PLAN, gpus=gpus(error="no NVIDIA driver")) for n in NAMES})
    assert failing(checks) == [("GPUs", "a"), ("GPUs", "b"), ("GPUs", "c")]
    assert {c.found for c in checks if c.verdict == "fails"} == {"no NVIDIA driver"}


def test_a_torch_without_cuda_everywhere_fails_where_gpus_are_named() -> None:
    without = {name: healthy(GPU_PLAN, cuda=None) for name in NAMES}
    assert failing(checked(GPU_PLAN, **without)) == [("torch's CUDA", name) for name in NAMES]
    assert failing(checked(CPU_PLAN, **{name: answer(cuda=None) for name in NAMES})) == []


def test_a_host_that_does_not_answer_leaves_the_others_checked() -> None:
    gone = HostFailure(kind="unreachable", found="ssh to b: refused", expected="x", fix="look")
    checks = checked(CPU_PLAN, b=gone)
    assert failing(checks) == [("answers", "b")]
    assert {check.host for check in checks if check.name == "disk"} == {"a", "c"}


def test_if_no_host_answers_nothing_else_is_reported() -> None:
    gone = HostFailure(kind="unreachable", found="refused", expected="x", fix="look")
    assert failing(checked(CPU_PLAN, a=gone, b=gone, c=gone)) == [("answers", name) for name in NAMES]


def test_shared_memory_matters_between_gpus_of_a_host() -> None:
    two = plan("cluster.hosts=[a, b]", "cluster.gpus_per_host=2", "parallel.dp=4", "training.global_batch=4")
    docker = answer(gpus=gpus(device(), device(1)), xid=no_xids(), shm__total_bytes=64 * 2**20)
    fine = answer(gpus=gpus(device(), device(1)), xid=no_xids())
    checks = host_checks(two, roles_of(two), {"a": fine, "b": docker})
    assert ("/dev/shm", "b") in failing(checks)
    assert failing(checked(GPU_PLAN, b=healthy(GPU_PLAN, shm__total_bytes=64 * 2**20))) == []


def test_versions_are_held_to_the_majority_and_a_tie_to_the_first() -> None:
    def odd(**values: str | None) -> list[str]:
        checks = equal_everywhere("SW511", "torch", values, missing="none", fix="same")
        return [str(check.host) for check in checks if check.verdict == "fails"]

    assert odd(a="1", b="2", c="2") == ["a"]
    assert odd(a="1", b="2") == ["b"]
    assert odd(a=None, b="2") == ["a"]
    assert odd(a=None, b=None) == []


def test_code_that_differs_from_this_machine_fails() -> None:
    checks = host_checks(CPU_PLAN, roles_of(CPU_PLAN), {"a": answer(), "b": answer(), "c": answer()})
    assert failing(checks) == [("code", "this machine")]


def test_a_project_that_cannot_be_imported_fails() -> None:
    broken = answer(code={"fingerprint": None, "error": "ModuleNotFoundError: No module named 'pydantic'"})
    checks = host_checks(CPU_PLAN, roles_of(CPU_PLAN), {"a": answer(), "b": broken})
    (check,) = (c for c in checks if c.name == "code" and c.host == "b")
    assert "No module named 'pydantic'" in check.found


def test_disk_needs_one_checkpoint_more_than_are_kept() -> None:
    built = plan("cluster.hosts=[a]", "parallel.dp=1", "output.keep_last=3", "training.global_batch=4")
    # 12 bytes a parameter: fp32 weights and two moments; 4,372,595,712 − 1,048,576 (no aggregation).
    need = 4 * 12 * (4_372_595_712 - 1_048_576)
    for free, verdict in ((need, "passes"), (need - 1, "fails")):
        checks = host_checks(
            built, roles_of(built), {"a": answer(disk__free_bytes=free, gpus=gpus(error="x"))}
        )
        assert {c.verdict for c in checks if c.name == "disk"} == {verdict}


def test_open_files_follow_from_the_peers_of_a_rank() -> None:
    # The world's 127 peers, 63 of its EP group, 1 of its TP group, 63 with its share, 1 with its experts.
    built = plan("parallel={ep: 64, tp: 2, dp: 2}")
    assert files_needed(built) == 128 + 2 * (127 + 63 + 1 + 63 + 1)


def test_the_network_interface_must_be_on_every_host() -> None:
    named = plan(
        "cluster.hosts=[a, b]",
        "cluster.gpus_per_host=1",
        "cluster.gpu=cpu",
        "parallel.dp=2",
        "training.global_batch=4",
        "launch.network_interface=eth0,ib0",
    )
    checks = host_checks(named, roles_of(named), {"a": answer(), "b": answer(interfaces=["lo", "eth0"])})
    (check,) = (c for c in checks if c.name == "network interface" and c.verdict == "fails")
    assert (check.code, check.host) == ("SW517", "b")
    assert "ib0" in check.found
    assert "lo, eth0" in check.expected


def test_clock_offset_is_that_of_the_fastest_answer() -> None:
    # Sent at 10, received at 10.2, read as 15.15 there: ahead by 5.05 s, give or take half the round trip.
    clock = clock_of([(0.0, 9.0, 3.0), (10.0, 15.15, 10.2), (20.0, 26.0, 21.0)])
    assert clock.offset_s == pytest.approx(5.05)
    assert clock.uncertainty_s == pytest.approx(0.1)


def test_a_slow_answer_is_no_wrong_clock() -> None:
    late = answer(1.8)
    late = HostAnswer(facts=late.facts, clock=clock_of([(0.0, 1.8, 4.0)]), seen=True)
    assert failing(checked(CPU_PLAN, b=late)) == []


def test_a_role_prints_its_ranks() -> None:
    assert str(Role(name="x", slots=1, ranks=(3,))) == "rank 3"
