"""Weights & Biases log of a run (`operate.wandb`): the scalars of TensorBoard, under the run's name.

The package is optional (`pip install wandb`). Its own variables hold: WANDB_MODE=offline keeps the run in
RUN/wandb for a later `wandb sync`, WANDB_API_KEY and WANDB_BASE_URL say who and where.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from planner import Plan, Problem
from planner.run_holder import CLAIMS_NAME
from planner.strategy.field_types import AS_TEXT
from planner.strategy.schema import Strategy

logger = logging.getLogger(__name__)

_OFFLINE = ("offline", "dryrun", "disabled")


class WandbError(RuntimeError):
    """The log that the strategy asks for cannot be opened."""

    def __init__(self, error: Exception) -> None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        super().__init__(
            f"SW907 operate.wandb: the log could not be opened ({reason}); WANDB_MODE=offline needs no "
            "network, and operate.wandb=null opens none"
        )


def find_wandb_problems(strategy: Strategy, environment: Mapping[str, str] = os.environ) -> list[Problem]:
    """What keeps rank 0 from opening the log, as far as can be told before the data are read."""
    project = strategy.operate.wandb
    if project is None:
        return []
    if importlib.util.find_spec("wandb") is None:
        return [
            Problem(
                code="SW906",
                path="operate.wandb",
                found=f"{project}, and the package wandb is not installed",
                expected="the package wandb on the host of rank 0, or null",
                fix="pip install --constraint constraints.txt wandb; or set operate.wandb to null",
            )
        ]
    if (
        not _is_offline(environment)
        and not environment.get("WANDB_API_KEY")
        and not _is_logged_in(environment)
    ):
        return [
            Problem(
                code="SW907",
                path="operate.wandb",
                found=f"{project}, and nobody is logged in to Weights & Biases on the host of rank 0",
                expected="a login, or WANDB_MODE=offline",
                fix="run `wandb login` there, or set the environment variable WANDB_MODE=offline: the log is "
                "then kept in the run's folder",
            )
        ]
    return []


def _is_offline(environment: Mapping[str, str]) -> bool:
    return environment.get("WANDB_MODE", "online") in _OFFLINE


def _is_logged_in(environment: Mapping[str, str]) -> bool:
    """Whether there is a login for the server, where `wandb login` puts it."""
    server = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = environment.get("NETRC") or str(Path.home() / ".netrc")
    try:
        return netrc.netrc(path).authenticators(server) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class WandbLog:
    """Open from its constructor to `close`; on rank 0.

    A resumed run continues the same log: its id follows from the run's folder. A step that is trained again
    is logged again, and W&B shows its last value.

    Raises:
        WandbError: if it cannot be opened.
    """

    def __init__(self, plan: Plan, run_folder: Path, *, attempt: int) -> None:
        import wandb

        strategy = plan.strategy
        try:
            self._run: Any = wandb.init(
                project=strategy.operate.wandb,
                name=strategy.name,
                id=run_id(run_folder),
                resume=None if _is_offline(os.environ) else "allow",  # offline, `wandb sync` joins them by id
                dir=str(run_folder),
                config=logged_config(plan),
                settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
            )
            # W&B's own step may not go back, and a run that resumes from a checkpoint does.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            raise WandbError(error) from error
        self._attempt = attempt

    def log(self, scalars: Mapping[str, Any], step: int) -> None:
        """One step. What W&B does not take is a warning: training does not depend on it."""
        if self._run is None:
            return
        try:
            self._run.log({**scalars, "attempt": self._attempt, "step": step})
        except Exception as error:
            logger.warning("SW967 the log of Weights & Biases ends: %s: %s", type(error).__name__, error)
            self._run = None

    def close(self, *, exit_code: int = 0) -> None:
        """Waits until it is written; exit_code: 0 if the run has ended well."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:
            logger.warning("SW967 the log of Weights & Biases ends: %s: %s", type(error).__name__, error)


def logged_config(plan: Plan) -> dict[str, Any]:
    """The strategy without what belongs to the site: launch.environment may contain keys of services."""
    strategy = plan.strategy.model_dump(context=AS_TEXT, exclude={"launch", "operate", "output"})
    return {**strategy, "plan": plan.fingerprint}


def run_id(run_folder: Path) -> str:
    """The same for all attempts of a run, another one for a run that was set aside and begun again."""
    first = min((run_folder / CLAIMS_NAME).glob("*.json"), default=None)
    text = f"{run_folder.resolve()} {'' if first is None else first.read_text()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
