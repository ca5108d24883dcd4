"""Drills at random: faults of ranks at moments drawn from a seed, in one long supervised run."""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.drill.drills import RUN_TIMEOUT_S
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
CHECKPOINT_EVERY = 20
STOP_TIMEOUT_S = 180.0
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class RandomReport:
    """
    faults: names, in their order. recovered: those after which the run got beyond their step. false_stops:
    restarts without a fault. goodput: seconds of the steps that count over all seconds. wrong: what else was
    wrong, among it each difference from the unbroken run.
    """

    seconds: float
    steps: int
    faults: tuple[str, ...]
    recovered: tuple[str, ...]
    false_stops: tuple[str, ...]
    goodput: float
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
    """A run of so many seconds with a fault every `mtbf_s` on average, then the same steps without any.

    Args:
        strategy: fitted.
        kinds: of them, those that ranks do to themselves when a step begins.

    Raises:
        DrillFailed: if a run ends by itself, or does not end.
    """
    run = DrillRun(_long(strategy, site, "random", ENDLESS), ())
    try:
        began = time.time()
        run.start()
        faults = _inject(run, _of_steps(kinds), seconds, mtbf_s, random.Random(seed), tell)
        run.ask_to_stop()
        code = run.finish(STOP_TIMEOUT_S)
        lasted_s = time.time() - began
        wrong = [] if code == ExitCode.STOPPED else [f"the run ended with {code}"]
        wrong += leftovers(run)
        wrong += broken_files(run.folder)
    finally:
        run.stop()
    last = max(line["step"] for line in run.lines())
    tell(f"{last} steps without a fault")
    unbroken = DrillRun(_long(strategy, site, "unbroken", last), ())
    try:
        unbroken.start()
        if (code := unbroken.finish(max(RUN_TIMEOUT_S, 2 * lasted_s))) != 0:
            raise DrillFailed(f"the unbroken run ended with {code}: {unbroken.said()[-2000:]}")
    finally:
        unbroken.stop()
    curve = {step: values for step, values in run.curve().items() if step < last}
    # After its last step the unbroken run validates; the other one was only stopped there.
    wrong += curve_differences(curve, {s: v for s, v in unbroken.curve().items() if s < last})
    if final_bits(run.folder, last) != final_bits(unbroken.folder, last):
        wrong.append(f"the checkpoint of step {last} has other bits than that of the unbroken run")
    useful_s = sum({line["step"]: line["step_s"] for line in run.lines()}.values())
    return RandomReport(
        seconds=lasted_s,
        steps=last,
        faults=tuple(fault.name for fault in faults),
        recovered=tuple(fault.name for fault in faults if is_recovered(run, fault)),
        false_stops=tuple(find_false_stops(run, faults)),
        goodput=useful_s / lasted_s,
        wrong=tuple(wrong),
    )


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


def _long(strategy: Strategy, site: DrillSite, name: str, steps: int) -> Strategy:
    placed = at_site(strategy, site, name, checkpoint_every=CHECKPOINT_EVERY)
    horizon = {"training.steps": steps, "training.schedule_steps": HORIZON}
    return change_keys(placed, {**horizon, "output.validate_every": CHECKPOINT_EVERY})


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
    """One fault after another, each once the run is beyond the one before it."""
    end = time.monotonic() + seconds
    due = time.monotonic() + source.expovariate(1 / mtbf_s)
    faults: list[Fault] = []
    while time.monotonic() < end:
        time.sleep(_POLL_S)
        run.must_live()
        is_free = not faults or is_recovered(run, faults[-1])
        newest = max((line["step"] for line in run.lines()), default=0)
        if time.monotonic() < due or not is_free or newest < CHECKPOINT_EVERY:
            continue
        kind, rank = source.choice(kinds), source.randrange(run.plan.world_size)
        fault = Fault(name=f"{len(faults) + 1:03d}-{kind.name}", kind=kind.name, rank=rank, step=newest + 3)
        run.add(fault)
        faults.append(fault)
        tell(f"  {fault.name} on rank {rank}, at step {fault.step}")
        due += source.expovariate(1 / mtbf_s)
    return [fault for fault in faults if run.has_fired(fault.name)]


def is_recovered(run: DrillRun, fault: Fault) -> bool:
    """Whether a later attempt got to the fault's step again."""
    if not run.has_fired(fault.name):
        return False
    return run.time_beyond(fault.name, fault.step, by_new_attempt=True) is not None


def find_false_stops(run: DrillRun, faults: Sequence[Fault]) -> list[str]:
    """Restarts beyond the first after each fault."""
    times = [run.time_of(fault.name) for fault in faults]
    explained: set[float] = set()
    found = []
    for entry in run.entries():
        if entry.event != "restart":
            continue
        cause = max((time_ for time_ in times if time_ < entry.time), default=None)
        if cause is None or cause in explained:
            found.append(entry.text)
        else:
            explained.add(cause)
    return found
