"""In which order a stage takes the micro-batches of a step, forward and backward: the schedule is data.

Every rank of a stage follows the same list. Hand-overs follow from it: a forward needs the activations of
its micro-batch from the stage before, a backward the gradients from the stage after. Sends are asynchronous;
what the next action needs is asked for before the present one begins, so that it travels meanwhile, if it
can come without it. test_pipeline_schedule.py proves for many stages and micro-batches that all of it can be
done in this order.
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
    """1F1B (PipeDream-Flush; Narayanan et al. 2021, section 2.2): stage i of n goes n - 1 - i micro-batches
    ahead, then one forward and one backward in turn. It holds n - i of them at most, and backward follows
    the order of forward, so that gradients are summed in the same order as without a pipeline."""
    ahead = min(num_stages - 1 - place, num_micro_batches)
    actions = [Action("forward", i) for i in range(ahead)]
    for i in range(num_micro_batches - ahead):
        actions += [Action("forward", ahead + i), Action("backward", i)]
    actions += [Action("backward", i) for i in range(num_micro_batches - ahead, num_micro_batches)]
    return tuple(actions)


def forward_only(place: int, num_stages: int, num_micro_batches: int) -> tuple[Action, ...]:
    """Validation."""
    return tuple(Action("forward", i) for i in range(num_micro_batches))


def receives_to_post(actions: Sequence[Action], index: int, place: int, num_stages: int) -> Sequence[Action]:
    """The actions whose inputs are asked for before action `index` begins: it, and the next one unless that
    waits for what it does itself.

    A backward waits for a forward of this stage when the next stage, which goes one micro-batch less ahead,
    needs it first. That is so where a step has hardly more micro-batches than stages. Asked for all the
    same, over NCCL a kernel would sit on the device waiting for work that is launched behind it, and whatever
    synchronises the device meanwhile (an allocation that frees memory, a kernel loaded for the first time, a
    first connection between two ranks) would hang.
    """
    now, soon = actions[index], actions[index + 1 : index + 2]
    if soon and now.kind == "forward" and soon[0].kind == "backward":
        following = num_stages - 1 - place
        if now.micro_batch < soon[0].micro_batch + following:
            return (now,)
    return (now, *soon)
