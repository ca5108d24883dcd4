"""Drills at random: faults of ranks at moments drawn from a seed, in one long supervised run.

The same training without a fault goes on beside it, and shows what its curve and its checkpoints must be.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.drill.fit import DrillSite, at_site
from launch.drill.kinds import Kind, Place
from launch.drill.run import DrillFailed, DrillRun, Fault
from launch.drill.verdicts import broken_files, curve_differences, leftovers
from planner.exit_codes import ExitCode
from planner.strategy.changes import change_keys
from planner.strategy.schema import Strategy

# The learning rate of a step must not depend on when the run is stopped.
HORIZON = 1000
ENDLESS = 10**7
# Steps. All checkpoints stay: the run without faults gets far ahead, and its bits are compared with those of
# the other one's newest checkpoint.
CHECKPOINT_EVERY = 20
# A fault is announced to the ranks so many steps before: they train while this program looks.
ANNOUNCED_STEPS = 5
STOP_TIMEOUT_S = 240.0
# The run without faults has the cores that the other one leaves: its ranks may stand still for long.
_PATIENT = {"operate.hang_timeout": 900.0, "launch.timeout": 900.0}
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class RandomReport:
    """
    faults: names, in their order. recovered: those after which the run got beyond their step. recovery_s:
    after how many seconds, for each of those. false_stops: restarts without a fault. goodput: seconds of the
    steps that count over all seconds. compared_step: of the checkpoint whose bits were compared. wrong: what
    else was wrong, among it each difference from the run without faults.
    """

    seconds: float
    steps: int
    faults: tuple[str, ...]
    recovered: tuple[str, ...]
    recovery_s: tuple[float, ...]
    false_stops: tuple[str, ...]
    goodput: float
    compared_step: int
    wrong: tuple[str, ...]


def drill_at_random(
    strategy: Strategy,
    site: DrillSite,
    kinds: Sequence[Kind],
    *,
    seconds: float,
    mtbf_s: float,
    seed: int,
    tell: Callable[[str], object],
) -> RandomReport:
    """A run of so many seconds with a fault every `mtbf_s` on average, and one without any beside it.

    Args:
        strategy: fitted.
        kinds: of them, those that ranks do to themselves when a step begins.

    Raises:
        DrillFailed: if one of the runs does not end, or the one without faults ends by itself.
    """
    run = DrillRun(_long(strategy, site, "random"), ())
    unbroken = DrillRun(change_keys(_long(strategy, site, "unbroken"), _PATIENT), (), in_background=True)
    try:
        began = time.time()
        run.start()
        unbroken.start()
        faults = _inject(run, _of_steps(kinds), seconds, mtbf_s, random.Random(seed), tell)
        _settle(run, faults)
        run.ask_to_stop()
        code = run.finish(STOP_TIMEOUT_S)
        lasted_s = time.time() - began
        wrong = [] if code == ExitCode.STOPPED else [f"the run ended with {code}: {run.said()[-2000:]}"]
        last = run.newest_step()
        tell(f"stopped after step {last}; now the run without faults until there")
        _let_reach(unbroken, last)
        wrong += leftovers(run)
        wrong += broken_files(run.folder)
    finally:
        run.stop()
        unbroken.stop()
    # What was trained after the newest whole step is in neither.
    curve = {step: values for step, values in unbroken.curve().items() if step < last}
    wrong += curve_differences(run.curve(), curve)
    compared = newest_common_checkpoint(run.folder, unbroken.folder)
    if final_bits(run.folder, compared) != final_bits(unbroken.folder, compared):
        wrong.append(f"the checkpoint of step {compared} has other bits than that without faults")
    faults = [fault for fault in faults if run.has_fired(fault.name)]
    times = {fault.name: recovery_s(run, fault) for fault in faults}
    useful_s = sum({line["step"]: line["step_s"] for line in run.lines()}.values())
    return RandomReport(
        seconds=lasted_s,
        steps=last,
        faults=tuple(times),
        recovered=tuple(name for name, time_s in times.items() if time_s is not None),
        recovery_s=tuple(time_s for time_s in times.values() if time_s is not None),
        false_stops=(
            *find_false_stops(run, faults),
            *(f"of the run without faults: {text}" for text in find_false_stops(unbroken, ())),
        ),
        goodput=useful_s / lasted_s,
        compared_step=compared,
        wrong=tuple(wrong),
    )


def newest_common_checkpoint(one: Path, other: Path) -> int:
    """The highest step of which both runs have a checkpoint.

    Raises:
        DrillFailed: if there is none.
    """
    common = set.intersection(
        *({path.name for path in run.glob("checkpoints/step-*")} for run in (one, other))
    )
    if not common:
        raise DrillFailed(f"{one.name} and {other.name} have no checkpoint of the same step")
    return int(max(common).removeprefix("step-"))


def final_bits(run_folder: Path, step: int) -> dict[str, str]:
    """The hashes of a checkpoint's tensors, by file.

    Raises:
        DrillFailed: if there is no checkpoint of that step.
    """
    path = run_folder / f"checkpoints/step-{step:08d}/manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DrillFailed(f"{path} cannot be read: {error}") from None
    return {
        name: record["sha256"] for name, record in manifest["files"].items() if name.endswith(".safetensors")
    }


def _long(strategy: Strategy, site: DrillSite, name: str) -> Strategy:
    placed = at_site(strategy, site, name, checkpoint_every=CHECKPOINT_EVERY)
    return change_keys(
        placed,
        {
            "training.steps": ENDLESS,
            "training.schedule_steps": HORIZON,
            "output.validate_every": CHECKPOINT_EVERY,
            "output.keep_every": CHECKPOINT_EVERY,
        },
    )


def _of_steps(kinds: Sequence[Kind]) -> list[Kind]:
    return [kind for kind in kinds if kind.place is Place.RANK and kind.group == "ranks"]


def _inject(
    run: DrillRun,
    kinds: Sequence[Kind],
    seconds: float,
    mtbf_s: float,
    source: random.Random,
    tell: Callable[[str], object],
) -> list[Fault]:
    """One fault after another, each once the run is beyond the one before it; fewer if the run ends."""
    end = time.monotonic() + seconds
    due = time.monotonic() + source.expovariate(1 / mtbf_s)
    faults: list[Fault] = []
    while time.monotonic() < end and not run.has_ended():
        time.sleep(_POLL_S)
        newest = run.newest_step()
        is_free = not faults or recovery_s(run, faults[-1]) is not None
        if time.monotonic() < due or not is_free or newest < CHECKPOINT_EVERY:
            continue
        kind, rank = source.choice(kinds), source.randrange(run.plan.world_size)
        name = f"{kind.name}-{_letters(len(faults))}"
        fault = Fault(name=name, kind=kind.name, rank=rank, step=newest + ANNOUNCED_STEPS)
        run.add(fault)
        faults.append(fault)
        tell(f"  {fault.name} on rank {rank}, at step {fault.step}")
        due += source.expovariate(1 / mtbf_s)
    return faults


def _letters(number: int) -> str:
    """0 is aaa. The supervisor takes two errors that differ in numbers for the same one, and then ends."""
    return "".join(chr(ord("a") + number // 26**place % 26) for place in (2, 1, 0))


def _settle(run: DrillRun, faults: Sequence[Fault]) -> None:
    """Until the run has recovered from the last fault: a stop while it starts would save nothing."""
    run.drop_pending()
    time.sleep(2 * _POLL_S)  # a rank may just have read of it
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline and not run.has_ended():
        if not faults or not run.has_fired(faults[-1].name) or recovery_s(run, faults[-1]) is not None:
            return
        time.sleep(_POLL_S)


def _let_reach(unbroken: DrillRun, step: int) -> None:
    """The run without faults until it has done the step, and saved once more.

    Raises:
        DrillFailed: if it ends before, or does not get any further.
    """
    newest, deadline = 0, time.monotonic() + STOP_TIMEOUT_S
    while newest < step:
        if (now := unbroken.newest_step()) > newest:
            newest, deadline = now, time.monotonic() + STOP_TIMEOUT_S
        if time.monotonic() > deadline:
            raise DrillFailed(f"the run without faults got no further than step {newest}")
        unbroken.must_live()
        time.sleep(_POLL_S)
    unbroken.ask_to_stop()
    if (code := unbroken.finish(STOP_TIMEOUT_S)) != ExitCode.STOPPED:
        raise DrillFailed(f"the run without faults ended with {code}: {unbroken.said()[-2000:]}")


def recovery_s(run: DrillRun, fault: Fault) -> float | None:
    """Seconds from a fault until a later attempt had done its step; None if none has.

    Also None for a fault that has not happened.
    """
    if not run.has_fired(fault.name):
        return None
    back = run.time_beyond(fault.name, by_new_attempt=True)
    return None if back is None else back - run.mark_of(fault.name).time


def find_false_stops(run: DrillRun, faults: Sequence[Fault]) -> Iterator[str]:
    """Restarts beyond the first after each fault."""
    times = [run.mark_of(fault.name).time for fault in faults]
    explained: set[float] = set()
    for entry in run.entries():
        if entry.event != "restart":
            continue
        cause = max((time_ for time_ in times if time_ < entry.time), default=None)
        if cause is None or cause in explained:
            yield entry.text
        else:
            explained.add(cause)
