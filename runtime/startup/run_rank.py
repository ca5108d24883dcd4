"""Run of a rank: agreement with all ranks, the work, the exit. Requests to stop are heard from the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from planner.exit_codes import ExitCode
from runtime.process.service_thread import start_service
from runtime.process.start import Start
from runtime.process.stop_signals import block_signals
from runtime.startup.claims import keep_alive
from runtime.startup.context import RunContext
from runtime.startup.exit_reporter import ExitReporter

if TYPE_CHECKING:
    from runtime.startup.consensus import StartDecision


def run_rank(
    start: Start,
    folder: Path | None,
    decide: Callable[[RunContext], StartDecision],
    work: Callable[[RunContext, StartDecision, ExitReporter], ExitCode],
    *,
    takes_over: bool = False,
) -> NoReturn:
    """Ends the process: 0 done, 2 wrong input, 3 an error, 130 stopped on request.

    Args:
        folder: of the run; None where there is no plan.
        decide: on rank 0, once no rank has a Problem: claims the run and decides what all ranks do.
        work: on every rank, if the decision is to run; returns the exit code.
        takes_over: whether the run is taken from a process that still trains it.
    """
    block_signals()
    context = RunContext(start=start, folder=folder, takes_over=takes_over)
    reporter = ExitReporter(context=context)
    context.stop.listen(reporter.stop_now, reporter.fail_now)
    try:
        from runtime.startup.consensus import agree_on_start  # and torch with it, which takes seconds

        decision = agree_on_start(context, reporter, decide)
        if decision.exit_code is None:
            context.attempt = decision.attempt
            if context.rank == 0 and folder is not None:
                start_service("claim", lambda: keep_alive(folder, decision.attempt), reporter.fail_now)
            code = work(context, decision, reporter)
        else:
            code = decision.exit_code
    except Exception as error:
        code = reporter.failed(error)
    if context.pulse is not None:
        context.pulse.close()
    reporter.exit(code)
