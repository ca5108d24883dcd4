"""Printed report of a preflight: shared rows, failures with code and fix, few rows for many hosts."""

import io

from launch.preflight.check import PreflightCheck, failed, passed, roles_of, unknown
from launch.preflight.report import PreflightReport, print_report, report_dict
from launch.ssh.failures import HostFailure
from planner import Plan
from tests.support.examples import plan
from tests.support.host_facts import answer


def cpu_plan(num_hosts: int) -> Plan:
    names = ", ".join(f"n{i:02d}" for i in range(num_hosts))
    return plan(
        f"cluster.hosts=[{names}]",
        "cluster.gpus_per_host=1",
        "cluster.gpu=cpu",
        f"parallel.dp={num_hosts}",
        f"training.global_batch={num_hosts}",
    )


def report(built: Plan, *checks: PreflightCheck, gone: str = "") -> PreflightReport:
    names = [role.name for role in roles_of(built)]
    failure = HostFailure(kind="time-out", found="no answer", expected="one", fix="look")
    return PreflightReport(
        plan=built,
        roles=roles_of(built),
        unused=(),
        answers={name: failure if name == gone else answer() for name in names},
        checks=checks,
        job="",
        rows=(),
        links=(),
        pair_bytes=0,
        hardware_file=None,
    )


def printed(found: PreflightReport) -> list[str]:
    out = io.StringIO()
    print_report(found, out, is_plain=True)
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def full_disk(host: str) -> PreflightCheck:
    return failed("SW514", "disk", "1 GB", expected="10 GB", fix="free it", host=host)


def test_hosts_that_pass_share_a_row_and_a_failure_says_what_to_do() -> None:
    built = cpu_plan(3)
    found = report(built, passed("disk", "9 GB", "n00"), full_disk("n01"), passed("disk", "9 GB", "n02"))
    lines = printed(found)
    assert "disk passes 2 hosts 9 GB" in lines
    assert "disk fails n01 1 GB" in lines
    start = lines.index("n01: SW514 disk: 1 GB")
    assert lines[start + 1 : start + 3] == ["expected: 10 GB", "fix: free it"]
    assert [check["code"] for check in report_dict(found)["checks"]] == ["", "SW514", ""]
    assert lines[-1] == "not ready: 1 check failed"


def test_of_many_hosts_those_that_fail_are_shown_first() -> None:
    built = cpu_plan(40)
    lines = printed(report(built, full_disk("n37"), gone="n37"))
    hosts = lines[lines.index("Hosts") + 2 :]
    assert hosts[0] == "n37 rank 37 time-out - - - - -"
    assert hosts[1].startswith("n00 rank 0 h 3.11.7")
    assert hosts[16] == "and 24 more"


def test_unknown_checks_are_counted_and_no_failures() -> None:
    found = report(cpu_plan(1), unknown("disk", "input/output error", "n00"))
    assert "; 1 could not be checked" in printed(found)[-1]
    assert report_dict(found)["ready"] is True
    assert report_dict(found)["checks"][0]["verdict"] == "unknown"
