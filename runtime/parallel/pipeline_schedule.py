"""Pipeline schedules (1F1B, forward only) as data: the order of a stage's forward and backward passes.

Every rank of a stage follows the same list. Transfers follow from it: a forward needs the activations of its
micro-batch from the stage before, a backward the gradients from the stage after. Sends are asynchronous; the
receive of the next action is posted before the current one begins, so that transfer and computation overlap,
unless it depends on the current one. test_pipeline_schedule.py simulates many stages and micro-batches and
finds no deadlock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Action:
    """One pass of one micro-batch through a stage."""

    kind: Literal["forward", "backward"]
    micro_batch: int


# (place of the stage from 0, number of stages, number of micro-batches) -> its actions
Schedule = Callable[[int, int, int], tuple[Action, ...]]


def one_forward_one_backward(place: int, num_stages: int, num_micro_batches: int) -> tuple[Action, ...]:
    """1F1B (PipeDream-Flush; Narayanan et al. 2021, section 2.2).

    Stage i of n starts with n - 1 - i forwards, then alternates one forward and one backward. At most n - i
    micro-batches are in flight, and backwards are in the order of forwards, so that gradients are summed in
    the same order as without a pipeline.
    """
    ahead = min(num_stages - 1 - place, num_micro_batches)
    actions = [Action("forward", i) for i in range(ahead)]
    for i in range(num_micro_batches - ahead):
        actions += [Action("forward", ahead + i), Action("backward", i)]
    actions += [Action("backward", i) for i in range(num_micro_batches - ahead, num_micro_batches)]
    return tuple(actions)


def forward_only(place: int, num_stages: int, num_micro_batches: int) -> tuple[Action, ...]:
    """The schedule of validation."""
    return tuple(Action("forward", i) for i in range(num_micro_batches))


def receives_to_post(actions: Sequence[Action], index: int, place: int, num_stages: int) -> Sequence[Action]:
    """The actions whose receives are posted before action `index` begins: it, and the next one unless that
    depends on it.

    A backward depends on a forward of this stage when the next stage, which runs one micro-batch less ahead,
    needs that forward first: in steps with hardly more micro-batches than stages. If its receive were posted,
    over NCCL a kernel would block the device, waiting for work that is launched behind it, and whatever
    synchronizes the device meanwhile (an allocation that frees memory, a kernel loaded for the first time, a
    first connection between two ranks) would hang.
    """
    now, soon = actions[index], actions[index + 1 : index + 2]
    if soon and now.kind == "forward" and soon[0].kind == "backward":
        following = num_stages - 1 - place
        if now.micro_batch < soon[0].micro_batch + following:
            return (now,)
    return (now, *soon)
