"""How a preflight reads: rows that hosts share, failures with their fixes, few rows of many hosts."""

import io

from launch.preflight.check import Check, roles_of
from launch.preflight.report import Report, print_report, report_dict
from launch.ssh.failures import Failure
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


def report(built: Plan, *checks: Check, gone: str = "") -> Report:
    names = [role.name for role in roles_of(built)]
    failure = Failure(kind="time-out", found="no answer", expected="one", fix="look")
    return Report(
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


def printed(found: Report) -> list[str]:
    out = io.StringIO()
    print_report(found, out, is_plain=True)
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def disk(host: str, verdict: str, found: str) -> Check:
    fix = "free it" if verdict == "fails" else ""
    return Check(name="disk", host=host, verdict=verdict, found=found, expected="10 GB", fix=fix)  # type: ignore[arg-type]


def test_hosts_that_pass_share_a_row_and_a_failure_says_what_to_do() -> None:
    built = cpu_plan(3)
    lines = printed(
        report(
            built, disk("n00", "passes", "9 GB"), disk("n01", "fails", "1 GB"), disk("n02", "passes", "9 GB")
        )
    )
    assert "disk passes 2 hosts 9 GB" in lines
    assert "disk fails n01 1 GB" in lines
    start = lines.index("n01: disk: 1 GB")
    assert lines[start : start + 3] == ["n01: disk: 1 GB", "expected: 10 GB", "fix: free it"]
    assert lines[-1] == "not ready: 1 check failed"


def test_of_many_hosts_those_that_fail_are_shown_first() -> None:
    built = cpu_plan(40)
    lines = printed(report(built, disk("n37", "fails", "1 GB"), gone="n37"))
    hosts = lines[lines.index("Hosts") + 2 :]
    assert hosts[0] == "n37 rank 37 time-out - - - - -"
    assert hosts[1].startswith("n00 rank 0 h 3.11.7")
    assert hosts[16] == "and 24 more"


def test_what_could_not_be_looked_at_is_counted() -> None:
    found = report(cpu_plan(1), disk("n00", "unknown", "input/output error"))
    assert printed(found)[-1] == "the hosts are ready; no exchange was tried; 1 could not be looked at"
    assert report_dict(found)["ready"] is True
    assert report_dict(found)["checks"][0]["verdict"] == "unknown"
