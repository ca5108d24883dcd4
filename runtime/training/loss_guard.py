"""Loss guard: ends a run that has diverged, and keeps its weights from replacing the last good checkpoint."""

import math
from collections import deque
from collections.abc import Sequence

# The loss of a step is high above HIGH_FACTOR times the mean of the last WINDOW steps that were not high.
# MAX_HIGH of them in a row are no accident of the data.
WINDOW = 100
HIGH_FACTOR = 3.0
MAX_HIGH = 5
# A step whose gradient is not finite is skipped; this many in a row are no accident.
MAX_SKIPPED = 10


class Diverged(RuntimeError):
    """The run trains nothing any more; starting it again would repeat it.

    Attributes:
        code: of the Problem that is reported.
        found, expected: its texts.
        first_step: the first step that went wrong; a checkpoint from before it is sound.
        sequences: the training sequences of that step, as the data count them.
    """

    def __init__(self, code: str, *, first_step: int, found: str, expected: str) -> None:
        super().__init__(f"{code} {found}")
        self.code, self.first_step, self.found, self.expected = code, first_step, found, expected
        self.sequences: Sequence[int] = ()


class LossGuard:
    """Watches loss and skipped updates of one attempt, step by step. Equal on all ranks, as its inputs are.

    Args:
        last_step: of the run; its weights are the result.
        recent_losses: of the steps before the first, oldest first: those of earlier attempts.
    """

    def __init__(self, last_step: int, recent_losses: Sequence[float] = ()) -> None:
        self._last_step = last_step
        self._losses = deque(filter(math.isfinite, recent_losses), maxlen=WINDOW)
        self._num_high = self._num_skipped = 0

    @property
    def is_sound(self) -> bool:
        """Whether the weights may replace those of an earlier checkpoint."""
        return self._num_skipped == 0 and self._num_high == 0

    def observe(self, step: int, loss: float, *, skipped: bool) -> None:
        """
        Args:
            loss: mean over the targets of the global batch.
            skipped: whether the gradient was not finite, so that no rank made an update.

        Raises:
            Diverged: if the loss is not finite, or was high or the update skipped for too many steps in a
                row, or if the last step was skipped.
        """
        self._num_skipped = self._num_skipped + 1 if skipped else 0
        if not math.isfinite(loss):
            raise Diverged(
                "SW955",
                first_step=step,
                found=f"the loss of step {step} is not finite ({loss})",
                expected="a finite loss",
            )
        self._observe_height(step, loss)
        first_skipped = step - self._num_skipped + 1
        if self._num_skipped == MAX_SKIPPED:
            raise Diverged(
                "SW952",
                first_step=first_skipped,
                found=f"the gradient of {MAX_SKIPPED} steps in a row, {first_skipped} to {step}, "
                "is not finite",
                expected="finite gradients",
            )
        if self._num_skipped and step == self._last_step:
            raise Diverged(
                "SW957",
                first_step=first_skipped,
                found=f"the gradient of the last step ({step}) is not finite, so its update was skipped",
                expected="a last step with an update",
            )

    def _observe_height(self, step: int, loss: float) -> None:
        if loss == 0:  # of a batch without targets
            return
        mean = sum(self._losses) / len(self._losses) if self._losses else math.inf
        if loss <= HIGH_FACTOR * mean:
            self._num_high = 0
            self._losses.append(loss)
            return
        self._num_high += 1
        first = step - self._num_high + 1
        if self._num_high == MAX_HIGH:
            raise Diverged(
                "SW956",
                first_step=first,
                found=f"the loss is above {HIGH_FACTOR:g} times its mean for {MAX_HIGH} steps in a row, "
                f"{first} to {step}: {loss:.4g} at step {step}, {mean:.4g} on average before",
                expected=f"at most {HIGH_FACTOR * mean:.4g}",
            )
