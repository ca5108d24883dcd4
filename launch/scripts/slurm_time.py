"""Time limit of a Slurm job, and the signal before it: early enough for a step and a checkpoint."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from planner import Plan, Problem, predict
from planner.prediction.run_forecast import WRITE_BYTES_PER_S, checkpoint_bytes
from planner.units import format_bytes

# From the signal to the requeued job, beside the step and the checkpoint: the batch script, the ends of all
# processes. Slurm may send the signal up to 60 s early (sbatch(1), --signal), never late.
_MARGIN_S = 120
# The prediction is of a quiet file system and a step like the average.
_SAFETY = 2
_LONGEST_S = 65_535  # sbatch(1), --signal
_SIGNAL = re.compile(r"B:(?:SIG)?(?:USR1|10)(?:@(\d{1,5}))?")
_SLURM_LEAD_S = 60  # of a signal without a time
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_UNLIMITED = ("INFINITE", "UNLIMITED", "-1")  # in any case; 0 is no limit either (sbatch(1), --time)


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Seconds before the time limit at which the ranks are signalled, and how they follow."""

    seconds: int
    how: str


def signal_lead(plan: Plan) -> Lead:
    """The lead of launch.slurm.signal, or what a step and a checkpoint of this plan need."""
    written = plan.strategy.launch.slurm.get("signal")
    if written is False:
        return Lead(seconds=0, how="never, as launch.slurm.signal is false")
    match = _SIGNAL.fullmatch(str(written)) if written is not None else None
    if match is not None:
        seconds = int(match[1] or _SLURM_LEAD_S)
        return Lead(seconds=seconds, how=f"{seconds} s before it, as launch.slurm.signal says")
    step_s, num_bytes = predict(plan).step_s, checkpoint_bytes(plan)
    rate = WRITE_BYTES_PER_S * len(plan.hosts)
    needed_s = _MARGIN_S + _SAFETY * (step_s + num_bytes / rate)
    seconds = min(_LONGEST_S, math.ceil(needed_s / 60) * 60)
    return Lead(
        seconds=seconds,
        how=f"{seconds} s before it = {_MARGIN_S} s + {_SAFETY} × (a step of {step_s:.3g} s + "
        f"{num_bytes / rate:.3g} s for {format_bytes(num_bytes)} at {rate / 1e9:g} GB/s), in full minutes",
    )


def time_problems(plan: Plan) -> Iterator[Problem]:
    """A signal that the script does not hear, a limit that cannot be read or leaves no time to train."""
    slurm = plan.strategy.launch.slurm
    signal, limit = slurm.get("signal"), slurm.get("time")
    lead = signal_lead(plan)
    if signal is False:
        return
    if signal is not None and not _SIGNAL.fullmatch(str(signal)):
        yield Problem(
            code="SW420",
            path="launch.slurm.signal",
            found=f"launch.sbatch does not save a checkpoint on the signal {signal}",
            expected="B:USR1@SECONDS, or no signal: then SECONDS follow from the plan",
            fix=f"write signal: B:USR1@{lead.seconds}",
        )
        return
    if limit is None or isinstance(limit, bool) or str(limit).strip().upper() in _UNLIMITED:
        return
    seconds = _seconds(str(limit))
    if seconds == 0:
        return
    longer = lead.seconds + max(600, lead.seconds)
    hours, minutes = divmod(math.ceil(longer / 60), 60)
    fix = f"write time: '{hours:02}:{minutes:02}:00', or more"
    if seconds is None:
        yield Problem(
            code="SW419",
            path="launch.slurm.time",
            found=f"{limit!r} is not a time limit",
            expected="minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED",
            fix=fix,
        )
    elif seconds <= lead.seconds:
        yield Problem(
            code="SW419",
            path="launch.slurm.time",
            found=f"the job ends after {seconds} s, and is signalled to save {lead.how}: at once",
            expected=f"more than {lead.seconds} s",
            fix=fix,
        )


def _seconds(text: str) -> int | None:
    """Of Slurm's `minutes`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS` (sbatch(1), --time)."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    days, *numbers = (None if group is None else int(group) for group in match.groups())
    given = [number for number in numbers if number is not None]
    if days is not None:
        hours, minutes, seconds = (*given, 0, 0)[:3]
    elif len(given) == 3:
        hours, minutes, seconds = given
    else:
        hours, (minutes, seconds) = 0, (*given, 0)[:2]
    return (((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
