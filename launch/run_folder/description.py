"""Description of a run: strategy and plan, attempts, and how it ended, each as far as its folder tells."""

from dataclasses import dataclass
from pathlib import Path

from launch.run_folder.records import number
from launch.supervisor.journal import JOURNAL_NAME
from launch.supervisor.verdict import Outcome, read_outcome
from planner import Plan, Problem, StrategyError, build_plan, load
from planner.exit_codes import ExitCode
from planner.files import read_object
from planner.run_files import RANKS_NAME, STEPS_NAME
from planner.run_holder import CLAIMS_NAME, DONE_NAME, FAILED_NAME
from planner.strategy.schema import Strategy

STRATEGY_NAME = "strategy.yaml"
_OF_A_RUN = (STRATEGY_NAME, STEPS_NAME, CLAIMS_NAME, DONE_NAME, FAILED_NAME, JOURNAL_NAME, RANKS_NAME)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An attempt. started: seconds since 1970, by the clock of its host."""

    attempt: int
    host: str | None
    started: float | None


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """plan: None where strategy.yaml cannot be read; plan_fault then says why."""

    folder: Path
    plan: Plan | None
    plan_fault: str | None
    claims: tuple[Claim, ...]
    outcome: Outcome | None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def strategy(self) -> Strategy | None:
        return None if self.plan is None else self.plan.strategy

    @property
    def is_done(self) -> bool:
        return self.outcome is not None and self.outcome.code == ExitCode.OK


def find_run(run: str) -> Path:
    """The folder of a run that is named by its path, or by its name in runs/.

    Raises:
        StrategyError: if there is none.
    """
    path = Path(run)
    candidates = [path] if "/" in run else [path, Path("runs") / run]
    for candidate in candidates:
        if any((candidate / name).exists() for name in _OF_A_RUN):
            return candidate
    what = "is not the folder of a run" if path.is_dir() else "does not exist"
    if path.exists() and not path.is_dir():
        what = "is a file"
    raise StrategyError(
        [
            Problem(
                code="SW460",
                found=f"{run} {what}",
                expected=f"a folder with one of {', '.join(_OF_A_RUN[:4])}",
                fix="give the run's folder (OUTPUT_FOLDER/NAME, for example runs/tiny_cpu)",
            )
        ]
    )


def describe_run(folder: Path, known: RunDescription | None = None) -> RunDescription:
    """Reads everything but the telemetry; known: an earlier one, whose plan is still that of the folder."""
    plan, fault = _read_plan(folder) if known is None else (known.plan, known.plan_fault)
    return RunDescription(
        folder=folder,
        plan=plan,
        plan_fault=fault,
        claims=tuple(_claims(folder)),
        outcome=read_outcome(folder, after=0),
    )


def _read_plan(folder: Path) -> tuple[Plan | None, str | None]:
    path = folder / STRATEGY_NAME
    if not path.is_file():
        return None, f"{STRATEGY_NAME} is missing: limits, stages and hosts are not known"
    try:
        return build_plan(load(str(path))), None
    except StrategyError as error:
        first = error.problems[0]
        return None, f"{STRATEGY_NAME} cannot be read: {first.code} {first.path or ''} {first.found}"
    except OSError as error:
        return None, f"{STRATEGY_NAME} cannot be read: {error.strerror}"


def _claims(folder: Path) -> list[Claim]:
    found = []
    for path in (folder / CLAIMS_NAME).glob("*.json"):
        if path.stem.isdecimal() and len(path.stem) < 10:
            content = read_object(path)
            host = content.get("host")
            found.append(
                Claim(
                    attempt=int(path.stem),
                    host=host if isinstance(host, str) else None,
                    started=number(content.get("started")),
                )
            )
    return sorted(found, key=lambda claim: claim.attempt)
