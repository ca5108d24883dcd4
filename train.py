"""Training of one rank: `deepspeed train.py --strategy FILE [key=value …]`.

Top to bottom: read the strategy and derive the plan; agree with all ranks before any process group exists;
make the groups, this rank's part of the model and its engine; resume from a checkpoint, if any; train.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from runtime.process.gpu_presence import has_gpu
from runtime.process.handover import hand_over
from runtime.process.launchers import is_other_rank_here
from runtime.process.missing_module import end_without_module
from runtime.process.rank_0_wait import leave_to_rank_0

if TYPE_CHECKING:
    from planner.exit_codes import ExitCode
    from runtime.startup.consensus import StartDecision
    from runtime.startup.context import RunContext
    from runtime.startup.exit_reporter import ExitReporter
    from runtime.startup.training_run import TrainingRun
    from runtime.training.trainer import Trainer

DOCUMENT_STRATEGY = "ds_configs/ep64_tp2_staged.yaml"
# The strategy document's flags, and the keys they set.
DOCUMENT_FLAGS = {
    "ep_degree": "parallel.ep",
    "tp_degree": "parallel.tp",
    "pp_degree": "parallel.pp",
    "batch_size": "training.global_batch",
    "seq_length": "training.seq_length",
}
WRONG_INPUT, FAILED = 2, 3  # planner.exit_codes; nothing of the planner is loaded before the first check
HOW = "start it with deepspeed, torchrun, srun or mpirun, or with plain python for a plan of one rank"


def main(argv: Sequence[str]) -> None:
    """Ends the process: 0 done, 2 wrong input, 3 an error, 130 stopped on request."""
    if (code := hand_over("train", argv)) is not None:  # a warm parent of this launch has forked the rank
        sys.exit(code)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C before signals are taken: no traceback
    path, overrides, takes_over, rank_logs = parse_arguments(argv)
    if needs_gpus(path, overrides) and is_other_rank_here() and not has_gpu():
        leave_to_rank_0(WRONG_INPUT)  # 68 of them, on a laptop: only one of them reads the strategy

    try:
        from planner.rules.not_implemented import find_unimplemented
        from runtime.process.start import start_rank
        from runtime.startup.early_refusal import refuse_early
        from runtime.startup.run_rank import run_rank
    except Exception as error:  # a broken package may raise anything
        end_without_module(error, FAILED)

    start = start_rank(path, overrides, how=HOW, check=find_unimplemented, rank_logs=rank_logs)
    refuse_early(start, start.run_folder, (path, *overrides))
    run_rank(start, start.run_folder, decide, train, takes_over=takes_over)


def decide(context: "RunContext") -> "StartDecision":
    """On rank 0: prepares the data, claims the run and chooses the checkpoint that all ranks resume from."""
    from runtime.startup.open_run import open_run

    return open_run(context)


def train(context: "RunContext", decision: "StartDecision", exit_reporter: "ExitReporter") -> "ExitCode":
    """World, groups, model, engine, checkpoint, steps."""
    from runtime.data import open_data
    from runtime.parallel.groups import make_groups
    from runtime.profiling.phase_clock import PhaseClock
    from runtime.profiling.timestamps import make_timestamps
    from runtime.startup.training_run import TrainingRun
    from runtime.training.engine import make_engine
    from runtime.training.trainer import Trainer
    from runtime.training.training_model import build_model

    run, plan = TrainingRun(context, decision, exit_reporter), context.plan
    device = run.join_world()
    data = open_data(plan.strategy, entry=run.data_entry)
    clock = PhaseClock(make_timestamps(device), on_change=run.pulse.beat)
    run.pulse.waits_for_stage = lambda: clock.current == "stage_wait"
    groups = make_groups(plan, run.rank, clock)
    engine = run.agree_on_groups(lambda: make_engine(build_model(plan, groups, device), plan, groups, clock))
    first_step = run.restore(engine, groups, data)
    trainer = Trainer(
        plan=plan,
        engine=engine,
        groups=groups,
        data=data,
        clock=clock,
        horizon=run.horizon,
        traced_step=run.traced_step,
        recent_losses=decision.recent_losses,
        pulse=run.pulse,
        folder=run.folder,
    )
    with run:
        train_steps(run, trainer, first_step)
    return run.finish()


def train_steps(run: "TrainingRun", trainer: "Trainer", first_step: int) -> None:
    """Every step to the strategy's last, or to the one at which any rank was asked to stop."""
    for step in range(first_step, run.last_step + 1):
        report = trainer.train_step(step)  # batch, forward and backward, update, validation
        run.observe(report)  # telemetry, progress line, timeline
        trainer.check(report)  # raises if training has diverged
        should_stop = run.should_stop()
        if (run.is_due(step) or should_stop) and trainer.is_sound:
            trainer.check_before_save()  # raises where ranks no longer hold the same
            run.save(step)
        if should_stop:
            break
    run.finish_saving()


class RankParser(argparse.ArgumentParser):
    """Of the ranks that were started beside each other with one wrong command line, rank 0 alone says so."""

    def error(self, message: str) -> NoReturn:
        if is_other_rank_here():
            leave_to_rank_0(WRONG_INPUT)
        from planner.terminal_text import escape_controls

        super().error(escape_controls(message))


def needs_gpus(path: str, overrides: Sequence[str]) -> bool:
    """Whether the strategy is known to, unread: it is the document's own, on its own cluster."""
    return path in _document_paths() and not any(text.startswith("cluster") for text in overrides)


def _document_paths() -> tuple[str, str]:
    """Of the document's strategy: from the project folder, and from any other."""
    return DOCUMENT_STRATEGY, str(Path(__file__).resolve().parent / DOCUMENT_STRATEGY)


def parse_arguments(argv: Sequence[str]) -> tuple[str, list[str], bool, str | None]:
    """The strategy's path, its overrides, whether a run is taken over, how the names of logs begin.

    Exits with code 2 on a wrong command line.
    """
    parser = RankParser(prog="train.py", description="Train a strategy.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--strategy", metavar="FILE", help="the strategy to train")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the strategy")
    parser.add_argument(
        "--take-over", action="store_true", help="take the run from a process that still trains it"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--rank-logs", metavar="PREFIX", help=argparse.SUPPRESS
    )  # launch.sh, on several hosts
    for flag, key in DOCUMENT_FLAGS.items():
        parser.add_argument(f"--{flag}", metavar="N", help=f"the same as {key}=N")
    if {"-h", "--help", "--version"} & set(argv):
        _show(parser, argv)
    arguments = parser.parse_intermixed_args(argv)
    given = {key: getattr(arguments, flag) for flag, key in DOCUMENT_FLAGS.items()}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    if arguments.strategy is None and not overrides:
        parser.error(f"--strategy FILE is required, for example --strategy {DOCUMENT_STRATEGY}")
    path = arguments.strategy or next(
        (path for path in _document_paths() if Path(path).exists()), DOCUMENT_STRATEGY
    )
    return path, overrides + arguments.overrides, arguments.take_over, arguments.rank_logs


def _show(parser: RankParser, argv: Sequence[str]) -> None:
    """Prints the help or the version, and ends with 0. Without the packages it returns: help needs none."""
    try:
        from planner.standard_streams import run_program
        from planner.version import VERSION
    except Exception as error:
        if "--version" in argv:
            end_without_module(error, FAILED)
        return

    def show() -> None:
        parser.parse_intermixed_args(argv)
        print(f"switchyard {VERSION}")

    run_program(show)


if __name__ == "__main__":
    main(sys.argv[1:])
