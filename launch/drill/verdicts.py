"""What a run must be after a drill: the unbroken curve, nothing left running, no file half written."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from launch.drill.run import DrillRun
from planner.paths import PROJECT

Curve = Mapping[int, tuple[float, float | None, float]]
# Another layout sums in another order; equality is asked for the first steps after the change.
TOLERANCE, EQUAL_STEPS = 1e-5, 5
END_WAIT_S = 100.0
VERIFY_TIMEOUT_S = 120.0
_DRILLS_OWN = ("drill",)


def curve_differences(curve: Curve, unbroken: Curve, *, changed_after: int | None = None) -> Iterator[str]:
    """How a run's steps differ from those of the unbroken one.

    Args:
        changed_after: the step after which it trained in another layout; None: it never did.
    """
    for step, expected in unbroken.items():
        found = curve.get(step)
        if found is None:
            yield f"step {step} is missing"
        elif changed_after is None or step <= changed_after:
            if found != expected:
                yield f"step {step} is {found}, not {expected}"
        elif step <= changed_after + EQUAL_STEPS:
            pairs = [(a, b) for a, b in zip(found, expected, strict=True) if a is not None and b is not None]
            if any(abs(a - b) > TOLERANCE * abs(b) for a, b in pairs):
                yield f"step {step} is {found}, not {expected} within {TOLERANCE:g}"


def leftovers(run: DrillRun, wait_s: float = END_WAIT_S) -> Iterator[str]:
    """Processes of the run that do not end."""
    deadline = time.monotonic() + wait_s
    while (left := run.processes()) and time.monotonic() < deadline:
        time.sleep(0.5)
    for process in left:
        yield f"still running: pid {process.pid}"


def broken_files(folder: Path) -> Iterator[str]:
    """Files of the run that are half written, or not what they should be."""
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if place.parts[0] in _DRILLS_OWN or not path.is_file():
            continue
        if any(part.startswith(".") for part in place.parts) or path.suffix == ".tmp":
            yield f"{place} is left over"
        elif path.suffix == ".json":
            yield from _broken_json(path, place)
    yield from _broken_lines(folder / "telemetry.jsonl")
    yield from _broken_lines(folder / "journal.jsonl")
    command = [sys.executable, "-m", "runtime.checkpoint", "verify", str(folder)]
    verified = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=VERIFY_TIMEOUT_S, check=False
    )
    if verified.returncode != 0:
        yield f"checkpoints: {(verified.stdout + verified.stderr).strip()[-300:]}"


def _broken_json(path: Path, place: Path) -> Iterator[str]:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        yield f"{place} is no JSON"
    except OSError as error:
        yield f"{place} cannot be read: {error.strerror}"


def _broken_lines(path: Path) -> Iterator[str]:
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        yield f"{path.name} ends within a line"
