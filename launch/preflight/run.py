"""`preflight`: are the hosts and the links between them as the strategy says, before a training finds out."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from launch.cli.output import Output
from launch.cli.progress import Progress
from launch.preflight.ask_hosts import INSPECT, Answer, Shared, ask_hosts, shared_folder
from launch.preflight.check import Check, Role, roles_of, unused_hosts
from launch.preflight.host_checks import host_checks
from launch.preflight.link_checks import link_checks, links_of, measured_links, rows_of
from launch.preflight.probe_job import JobFailed, job_files, job_place, run_job
from launch.preflight.report import Report, print_report, report_dict
from launch.scripts.hostfile import has_placeholder_hosts, is_local
from launch.scripts.launch_files import place_of
from launch.scripts.template import Place
from launch.ssh.client import Program, Ssh
from launch.ssh.failures import Failure
from planner import Plan, Problem, StrategyError, build_plan, load, locate_problems
from planner.exit_codes import ExitCode
from planner.hardware.catalog import CALIBRATION_NAME, read_calibration
from planner.prediction.link_calibration import write_links

# Checks whose failure a training would suffer from, and the exchanges of some minutes do not.
_HARMLESS = frozenset({"disk", "clock", "/dev/shm", "GPU memory", "GPU model", "driver"})


def check_cluster(
    output: Output, strategy: str, overrides: Sequence[str], hardware: str | None, *, is_hosts_only: bool
) -> ExitCode:
    """Runs a preflight and prints its report; NEGATIVE if a check fails.

    Args:
        hardware: where measured links are written; None: hardware.yaml in output.folder.

    Raises:
        StrategyError: with what is wrong with the strategy, or prevents its plan from being launched.
    """
    plan = build_plan(load(strategy, overrides))
    try:
        request = _request(plan, hardware, is_hosts_only=is_hosts_only)
    except StrategyError as error:
        raise StrategyError(locate_problems(error.problems, plan.strategy)) from None
    report = asyncio.run(_until_stopped(request))
    if report is None:
        print("stopped: nothing is left on any host", file=sys.stderr)
        if output.is_json:
            output.print_json(ExitCode.STOPPED, {})
        return ExitCode.STOPPED
    code = ExitCode.NEGATIVE if report.failures else ExitCode.OK
    if output.is_json:
        return output.print_json(code, report_dict(report))
    print_report(report, sys.stdout, is_plain=output.is_plain)
    return code


@dataclass(frozen=True, kw_only=True)
class _Request:
    plan: Plan
    place: Place
    hardware: Path
    is_hosts_only: bool


def _request(plan: Plan, hardware: str | None, *, is_hosts_only: bool) -> _Request:
    """What is asked for, once nothing of it can be refused any more.

    Raises:
        StrategyError: made-up hosts, what keeps the plan from being launched, a --hardware that is none.
    """
    place = place_of(plan)
    if has_placeholder_hosts(plan) and not is_local(plan):
        raise StrategyError([_made_up_hosts(plan)])
    if place.ssh_config is not None and not os.access(place.ssh_config, os.R_OK):
        raise StrategyError([_no_ssh_config(place.ssh_config)])
    job_files(plan, place, place.run)
    file = Path(hardware) if hardware is not None else place.run.parent / CALIBRATION_NAME
    if file.exists():
        read_calibration(file)
    return _Request(plan=plan, place=place, hardware=file, is_hosts_only=is_hosts_only)


async def _until_stopped(request: _Request) -> Report | None:
    """The report; None when it was stopped by INT, TERM or HUP, and everything it started has ended."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            loop.add_signal_handler(number, task.cancel)
    with Progress(sys.stderr) as progress:
        try:
            return await _run(request, progress)
        except asyncio.CancelledError:
            return None


async def _run(request: _Request, progress: Progress) -> Report:
    plan, place = request.plan, request.place
    roles, output = roles_of(plan), place.run.parent
    result, job, hardware_file = None, "", None
    with contextlib.ExitStack() as stack:
        try:
            shared = stack.enter_context(shared_folder(output))
        except OSError as error:
            raise StrategyError([_cannot_write(output, error)]) from error
        answers = await _ask(request, roles, shared, progress)
        checks = [*_here(plan), *host_checks(plan, roles, answers)]
        job = _why_no_job(request, roles, checks)
        if not job:
            progress.show("starting the ranks")
            folder = shared.folder / "job"
            files = job_files(plan, place, folder)
            try:
                result = await run_job(files, job_place(place, folder), folder, progress.show)
            except JobFailed as failed:
                checks.append(_job_failed(failed))
    if result is not None:
        found = link_checks(plan, result)
        checks += found
        if not any(check.name == "values" and check.verdict == "fails" for check in found):
            hardware_file = _write_links(request, result, checks)
    return Report(
        plan=plan,
        roles=roles,
        unused=unused_hosts(plan),
        answers=answers,
        checks=tuple(checks),
        job=job,
        rows=() if result is None else rows_of(plan, result),
        links=() if result is None else links_of(plan, result),
        pair_bytes=0 if result is None else result["pair_bytes"],
        hardware_file=hardware_file,
    )


def _write_links(request: _Request, result: dict[str, Any], checks: list[Check]) -> str | None:
    """The file that the measured links are in; a disk that does not take it is a check that fails."""
    when = f"{date.today().isoformat()}, plan {request.plan.fingerprint}"
    source = f"measured by preflight, {result['backend']}, {when}"
    try:
        write_links(request.hardware, request.plan.strategy, measured_links(request.plan, result, source))
    except OSError as error:
        checks.append(
            Check(
                name="hardware file",
                host=None,
                verdict="fails",
                found=f"{request.hardware} cannot be written: {(error.strerror or str(error)).lower()}",
                expected="a place for the links as measured",
                fix="name another with --hardware FILE",
            )
        )
        return None
    return str(request.hardware)


async def _ask(
    request: _Request, roles: Sequence[Role], shared: Shared, progress: Progress
) -> dict[str, Answer | Failure]:
    plan, place = request.plan, request.place
    answered: list[str] = []

    def told(host: str, failure: Failure | None) -> None:
        answered.append(host)
        what = "" if failure is None else f"; {host}: {failure.kind}"
        progress.show(f"{len(answered)} of {len(roles)} hosts asked{what}")

    progress.show(f"asking {len(roles)} host{'s' if len(roles) > 1 else ''}")
    return await ask_hosts(
        Ssh(ssh_config=place.ssh_config, is_local=is_local(plan)),
        Program(project=place.project, python=place.python, module=INSPECT),
        [role.name for role in roles],
        place.run.parent,
        shared,
        wants_gpus=not plan.strategy.cluster.gpu.is_cpu,
        told=told,
    )


def _here(plan: Plan) -> tuple[Check, ...]:
    """What the launch needs on this machine."""
    if is_local(plan):
        return ()
    if shutil.which("pdsh") is not None:
        return (Check(name="pdsh", host=None, verdict="passes", found="installed here"),)
    return (
        Check(
            name="pdsh",
            host=None,
            verdict="fails",
            found="not installed on this machine",
            expected="pdsh, with which DeepSpeed starts other hosts",
            fix="install it (apt-get install pdsh)",
        ),
    )


def _why_no_job(request: _Request, roles: Sequence[Role], checks: Sequence[Check]) -> str:
    """Why no ranks are started; "" if they are. A spare that is not ready does not keep the others."""
    if request.is_hosts_only:
        return "no ranks were started: --hosts-only"
    spares = {role.name for role in roles if role.is_spare}
    failing = [check for check in checks if check.verdict == "fails" and check.host not in spares]
    blocking = [check for check in failing if check.name not in _HARMLESS]
    if not blocking:
        return ""
    first = blocking[0]
    return (
        "no ranks were started, since they could not run as the strategy says: "
        f"{first.host or 'this machine'}: {first.name}"
        + (f", and {len(blocking) - 1} more" if len(blocking) > 1 else "")
    )


def _job_failed(failed: JobFailed) -> Check:
    return Check(
        name="exchanges",
        host=None,
        verdict="fails",
        found=failed.found,
        expected="all ranks start, meet, and exchange what the plan exchanges",
        fix="look at what the ranks said; NCCL_DEBUG=INFO under launch.environment makes NCCL say more",
    )


def _made_up_hosts(plan: Plan) -> Problem:
    return Problem(
        path="cluster.hosts",
        line=None,
        found=f"the host names ({plan.hosts[0].name} …) are made up, as cluster.hosts is a number",
        expected="the names of real hosts, to be asked",
        fix="list them: [node1, node2, …], or {hostfile: FILE}",
    )


def _no_ssh_config(path: Path) -> Problem:
    return Problem(
        path="launch.ssh_config",
        line=None,
        found=f"{path} cannot be read",
        expected="an OpenSSH configuration file, or null",
        fix="correct the path; a relative one is looked up from the project's folder",
    )


def _cannot_write(path: Path, error: OSError) -> Problem:
    return Problem(
        path="output.folder",
        line=None,
        found=f"{path} cannot be written: {(error.strerror or str(error)).lower()}",
        expected="a folder on a disk with room, that you may write to",
        fix="set output.folder to another place",
    )
