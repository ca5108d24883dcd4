"""A preflight: hosts asked, the plan's exchanges run, links measured and written, a report."""

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

from launch.cli.output import CommandOutput
from launch.cli.progress import Progress
from launch.preflight.ask_hosts import INSPECT, HostAnswer, SharedFolder, ask_hosts, shared_folder
from launch.preflight.check import PreflightCheck, Role, failed, passed, roles_of, unused_hosts
from launch.preflight.host_checks import host_checks
from launch.preflight.link_checks import exchange_timings, link_checks, link_timings, measured_links
from launch.preflight.probe_job import ProbeJobFailed, job_files, job_paths, run_job
from launch.preflight.rank_modules import modules_of_ranks
from launch.preflight.report import PreflightReport, print_report, report_dict
from launch.scripts.hostfile import has_placeholder_hosts, is_local
from launch.scripts.launch_files import build_launch_plan, cannot_write, launch_paths
from launch.scripts.template import LaunchPaths
from launch.ssh.client import Program, Ssh
from launch.ssh.failures import HostFailure
from planner import Plan, Problem, StrategyError, load, locate_problems
from planner.exit_codes import ExitCode
from planner.hardware.catalog import CALIBRATION_NAME
from planner.hardware.hardware_file import read_calibration
from planner.prediction.link_calibration import write_links

# Checks whose failure matters to a training, but not to some minutes of exchanges.
_HARMLESS = frozenset({"disk", "clock", "/dev/shm", "GPU memory", "GPU model", "driver"})


def check_cluster(
    output: CommandOutput,
    strategy: str,
    overrides: Sequence[str],
    hardware: str | None,
    *,
    is_hosts_only: bool,
) -> ExitCode:
    """Runs a preflight and prints its report; NEGATIVE if a check fails.

    Args:
        hardware: where measured links are written, and whose devices and links the strategy may name; None:
            hardware.yaml in output.folder.

    Raises:
        StrategyError: with what is wrong with the strategy, or prevents its plan from being launched.
    """
    known = hardware if hardware is not None and Path(hardware).exists() else None
    plan = build_launch_plan(load(strategy, overrides, hardware=known))
    try:
        request = _request(plan, hardware, is_hosts_only=is_hosts_only)
    except StrategyError as error:
        raise StrategyError(locate_problems(error.problems, plan.strategy)) from None
    report = asyncio.run(_until_stopped(request))
    if report is None:
        print("stopped; no process is left on any host", file=sys.stderr)
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
    paths: LaunchPaths
    hardware: Path
    is_hosts_only: bool


def _request(plan: Plan, hardware: str | None, *, is_hosts_only: bool) -> _Request:
    """The request, after everything that can be refused was checked.

    Raises:
        StrategyError: placeholder hosts, anything that prevents the launch, an invalid --hardware.
    """
    paths = launch_paths(plan)
    if has_placeholder_hosts(plan) and not is_local(plan):
        raise StrategyError([_placeholder_hosts(plan)])
    if paths.ssh_config is not None and not os.access(paths.ssh_config, os.R_OK):
        raise StrategyError([_no_ssh_config(paths.ssh_config)])
    job_files(plan, paths, paths.run)
    file = Path(hardware) if hardware is not None else paths.run.parent / CALIBRATION_NAME
    if file.exists():
        read_calibration(file)
    return _Request(plan=plan, paths=paths, hardware=file, is_hosts_only=is_hosts_only)


async def _until_stopped(request: _Request) -> PreflightReport | None:
    """The report; None if stopped by INT, TERM or HUP, after everything it started has ended."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup
            loop.add_signal_handler(number, task.cancel)
    with Progress(sys.stderr) as progress:
        try:
            return await _run(request, progress)
        except asyncio.CancelledError:
            return None


async def _run(request: _Request, progress: Progress) -> PreflightReport:
    plan, paths = request.plan, request.paths
    roles, output = roles_of(plan), paths.run.parent
    result, job, hardware_file = None, "", None
    with contextlib.ExitStack() as stack:
        try:
            shared = stack.enter_context(shared_folder(output))
        except OSError as error:
            raise StrategyError(locate_problems([cannot_write(output, error)], plan.strategy)) from error
        answers = await _ask(request, roles, shared, progress)
        checks = [*_here(plan), *host_checks(plan, roles, answers)]
        job = _why_no_job(request, roles, checks)
        if not job:
            progress.show("starting the ranks")
            folder = shared.folder / "job"
            files = job_files(plan, paths, folder, modules_of_ranks(plan))
            try:
                result = await run_job(files, job_paths(paths, folder), folder, progress.show)
            except ProbeJobFailed as error:
                checks.append(_job_failed(error))
    if result is not None:
        found = link_checks(plan, result)
        checks += found
        if not any(check.name == "values" and check.verdict == "fails" for check in found):
            hardware_file = _write_links(request, result, checks)
    return PreflightReport(
        plan=plan,
        roles=roles,
        unused=unused_hosts(plan),
        answers=answers,
        checks=tuple(checks),
        job=job,
        rows=() if result is None else exchange_timings(plan, result),
        links=() if result is None else link_timings(plan, result),
        pair_bytes=0 if result is None else result["pair_bytes"],
        hardware_file=hardware_file,
    )


def _write_links(request: _Request, result: dict[str, Any], checks: list[PreflightCheck]) -> str | None:
    """The file with the measured links; a failed check if it cannot be written."""
    when = f"{date.today().isoformat()}, plan {request.plan.fingerprint}"
    source = f"measured by preflight, {result['backend']}, {when}"
    try:
        write_links(request.hardware, request.plan.strategy, measured_links(request.plan, result, source))
    except OSError as error:
        checks.append(
            failed(
                "SW538",
                "hardware file",
                f"cannot write {request.hardware}: {(error.strerror or str(error)).lower()}",
                expected="a writable file for the measured links",
                fix="choose another file with --hardware FILE",
            )
        )
        return None
    return str(request.hardware)


async def _ask(
    request: _Request, roles: Sequence[Role], shared: SharedFolder, progress: Progress
) -> dict[str, HostAnswer | HostFailure]:
    plan, paths = request.plan, request.paths
    answered: list[str] = []

    def show(host: str, failure: HostFailure | None) -> None:
        answered.append(host)
        what = "" if failure is None else f"; {host}: {failure.kind}"
        progress.show(f"{len(answered)} of {len(roles)} hosts asked{what}")

    progress.show(f"asking {len(roles)} host{'s' if len(roles) > 1 else ''}")
    return await ask_hosts(
        Ssh(ssh_config=paths.ssh_config, is_local=is_local(plan)),
        Program(project=paths.project, python=paths.python, module=INSPECT),
        [role.name for role in roles],
        paths.run.parent,
        shared,
        wants_gpus=not plan.strategy.cluster.gpu.is_cpu,
        modules=modules_of_ranks(plan),
        on_answer=show,
    )


def _here(plan: Plan) -> tuple[PreflightCheck, ...]:
    """Requirements on this machine."""
    if is_local(plan):
        return ()
    if shutil.which("pdsh") is not None:
        return (passed("pdsh", "installed"),)
    return (
        failed(
            "SW428",
            "pdsh",
            "not installed",
            expected="pdsh on this machine; DeepSpeed starts ranks on other hosts with it",
            fix="install it (apt-get install pdsh)",
        ),
    )


def _why_no_job(request: _Request, roles: Sequence[Role], checks: Sequence[PreflightCheck]) -> str:
    """Why no ranks are started; empty if they are. A spare that is not ready does not prevent it."""
    if request.is_hosts_only:
        return "no ranks were started: --hosts-only"
    spares = {role.name for role in roles if role.is_spare}
    failing = [check for check in checks if check.verdict == "fails" and check.host not in spares]
    blocking = [check for check in failing if check.name not in _HARMLESS]
    if not blocking:
        return ""
    first = blocking[0]
    return f"no ranks were started, because a check failed: {first.host or 'this machine'}: {first.name}" + (
        f", and {len(blocking) - 1} more" if len(blocking) > 1 else ""
    )


def _job_failed(job: ProbeJobFailed) -> PreflightCheck:
    return failed(
        "SW531",
        "exchanges",
        job.found,
        expected="all ranks start, join their groups and run the plan's exchanges",
        fix=job.fix or "correct what they said; NCCL_DEBUG=INFO under launch.environment makes NCCL say more",
    )


def _placeholder_hosts(plan: Plan) -> Problem:
    return Problem(
        code="SW408",
        path="cluster.hosts",
        found=f"placeholder host names ({plan.hosts[0].name} …), as cluster.hosts is a number",
        expected="the names of real hosts",
        fix="list them: [node1, node2, …], or {hostfile: FILE}",
    )


def _no_ssh_config(path: Path) -> Problem:
    return Problem(
        code="SW429",
        path="launch.ssh_config",
        found=f"cannot read the ssh configuration {path}",
        expected="an OpenSSH configuration file, or null",
        fix=f"correct the path; relative paths start at {Path.cwd()}",
    )
