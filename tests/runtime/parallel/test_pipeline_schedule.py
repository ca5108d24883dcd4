"""Pipeline schedules simulated without ranks: no deadlock, receives posted as early as possible."""

from collections.abc import Sequence
from itertools import product

import pytest

from planner.topology.stage_boundary import SENDS_IN_FLIGHT
from runtime.parallel.pipeline_schedule import (
    Action,
    Schedule,
    forward_only,
    one_forward_one_backward,
    receives_to_post,
)

STAGES, MICRO_BATCHES = range(2, 9), range(1, 33)


class Deadlock(AssertionError):
    """Every stage waits for another."""


def play(
    schedule: Schedule, num_stages: int, num_micro_batches: int, *, strangers: bool = False
) -> list[list[Action]]:
    """Plays a step of a pipeline in which a message travels once its receiver has asked for it.

    A stage that sends waits until all but the newest messages of that direction have travelled, as
    `runtime.parallel.pipeline_p2p.P2PChannel.send` does. Returns what each stage did.

    Args:
        strangers: who asks for the first message of a direction waits until it is sent, as NCCL does where
            two ranks were never connected.

    Raises:
        Deadlock: if every stage that is not done waits.
    """
    actions = [schedule(place, num_stages, num_micro_batches) for place in range(num_stages)]
    done = [0] * num_stages
    asked: set[tuple[str, int, int]] = set()  # (message, receiving stage, micro-batch)
    sent: dict[tuple[str, int], list[int]] = {}  # by (message, receiving stage), in order

    def source(stage: int, action: Action) -> tuple[str, int] | None:
        if action.kind == "forward":
            return ("activations", stage) if stage > 0 else None
        return ("gradients", stage) if stage < num_stages - 1 else None

    def target(stage: int, action: Action) -> tuple[str, int] | None:
        if action.kind == "forward":
            return ("activations", stage + 1) if stage < num_stages - 1 else None
        return ("gradients", stage - 1) if stage > 0 else None

    def can_do(stage: int, action: Action) -> bool:
        before, after = source(stage, action), target(stage, action)
        if before is not None and action.micro_batch not in sent.get(before, []):
            return False
        if after is None:
            return True
        bound = [m for m in sent.get(after, []) if m <= action.micro_batch - SENDS_IN_FLIGHT]
        return all((*after, micro_batch) in asked for micro_batch in bound)

    while any(done[s] < len(actions[s]) for s in range(num_stages)):
        moved = False
        for stage in range(num_stages):
            if done[stage] == len(actions[stage]):
                continue
            is_held = False
            for action in receives_to_post(actions[stage], done[stage], stage, num_stages):
                if (before := source(stage, action)) is not None and not is_held:
                    asked.add((*before, action.micro_batch))
                    is_held = strangers and not sent.get(before)
            action = actions[stage][done[stage]]
            if can_do(stage, action) and not is_held:
                if (after := target(stage, action)) is not None:
                    sent.setdefault(after, []).append(action.micro_batch)
                done[stage] += 1
                moved = True
        if not moved:
            raise Deadlock(f"each stage is at {done} of {list(map(len, actions))}")
    for (message, stage), order in sent.items():
        kind = "forward" if message == "activations" else "backward"
        wanted = [action.micro_batch for action in actions[stage] if action.kind == kind]
        assert order == wanted, f"{message} for stage {stage} are sent as {order}, taken as {wanted}"
    every = {(message, stage, m) for (message, stage), order in sent.items() for m in order}
    assert asked == every, "something was asked for that nobody sends, or sent and not asked for"
    return [list(stage) for stage in actions]


@pytest.mark.parametrize("strangers", [False, True])
@pytest.mark.parametrize("schedule", [one_forward_one_backward, forward_only])
def test_no_schedule_deadlocks(schedule: Schedule, strangers: bool) -> None:
    for num_stages, num_micro_batches in product(STAGES, MICRO_BATCHES):
        play(schedule, num_stages, num_micro_batches, strangers=strangers)


def test_no_receive_is_posted_that_depends_on_the_current_action() -> None:
    """Each stage in turn stops before an action: what it has asked for by then, the others can send."""
    for num_stages, num_micro_batches in product(range(2, 6), range(1, 8)):
        for place in range(num_stages):
            whole = one_forward_one_backward(place, num_stages, num_micro_batches)
            for index in range(len(whole)):

                def cut(
                    at: int, stages: int, micro_batches: int, place: int = place, end: int = index
                ) -> tuple[Action, ...]:
                    actions = one_forward_one_backward(at, stages, micro_batches)
                    return actions[:end] if at == place else actions

                sent = messages(cut, num_stages, num_micro_batches)
                for action in receives_to_post(whole, index, place, num_stages):
                    source = place - 1 if action.kind == "forward" else place + 1
                    if 0 <= source < num_stages:
                        assert (source, action) in sent, (num_stages, num_micro_batches, place, whole[index])


def messages(schedule: Schedule, num_stages: int, num_micro_batches: int) -> set[tuple[int, Action]]:
    """What each stage gets done, (stage, action), if it only waits for its inputs."""
    actions = [schedule(place, num_stages, num_micro_batches) for place in range(num_stages)]
    done: set[tuple[int, Action]] = set()
    left = [list(stage) for stage in actions]
    moved = True
    while moved:
        moved = False
        for stage, todo in enumerate(left):
            while todo:
                source = stage - 1 if todo[0].kind == "forward" else stage + 1
                if 0 <= source < num_stages and (source, todo[0]) not in done:
                    break
                done.add((stage, todo.pop(0)))
                moved = True
    return done


def test_receives_that_can_overlap_are_posted_early() -> None:
    """Only the last forward before the first backward of a short step has nothing to ask for."""
    for num_stages, num_micro_batches in product(STAGES, MICRO_BATCHES):
        for place in range(num_stages):
            actions = one_forward_one_backward(place, num_stages, num_micro_batches)
            alone = [
                i
                for i in range(len(actions) - 1)
                if len(receives_to_post(actions, i, place, num_stages)) == 1
            ]
            is_short = num_micro_batches <= num_stages - 1 - place
            assert alone == ([num_micro_batches - 1] if is_short else [])


def test_each_micro_batch_goes_forward_then_backward_once() -> None:
    for num_stages, num_micro_batches in product(STAGES, MICRO_BATCHES):
        for actions in play(one_forward_one_backward, num_stages, num_micro_batches):
            for kind in ("forward", "backward"):
                order = [action.micro_batch for action in actions if action.kind == kind]
                assert order == list(range(num_micro_batches))
            for micro_batch in range(num_micro_batches):
                first = actions.index(Action("forward", micro_batch))
                assert first < actions.index(Action("backward", micro_batch))


def test_stage_depth_bounds_micro_batches_in_flight() -> None:
    """Stage i of n holds n − i micro-batches at most, however many a step has."""
    for num_stages, num_micro_batches in product(STAGES, MICRO_BATCHES):
        for place in range(num_stages):
            held, most = 0, 0
            for action in one_forward_one_backward(place, num_stages, num_micro_batches):
                held += 1 if action.kind == "forward" else -1
                most = max(most, held)
            assert most == min(num_stages - place, num_micro_batches)


def step_of(passes: Sequence[int], num_micro_batches: int) -> int:
    """Seconds of a step whose stages take so long forward and twice as long backward; transfers take none."""
    num_stages = len(passes)
    actions = [one_forward_one_backward(place, num_stages, num_micro_batches) for place in range(num_stages)]
    ends: dict[tuple[int, Action], int] = {}
    free, done = [0] * num_stages, [0] * num_stages
    while any(done[s] < len(actions[s]) for s in range(num_stages)):
        for stage, todo in enumerate(actions):
            while done[stage] < len(todo):
                action = todo[done[stage]]
                source = stage - 1 if action.kind == "forward" else stage + 1
                ready = ends.get((source, action)) if 0 <= source < num_stages else 0
                if ready is None:
                    break
                seconds = passes[stage] * (1 if action.kind == "forward" else 2)
                free[stage] = ends[stage, action] = max(free[stage], ready) + seconds
                done[stage] += 1
    return max(free)


@pytest.mark.parametrize("num_micro_batches", [1, 4, 16, 32])
@pytest.mark.parametrize(
    "passes",
    [(12, 12, 12, 12), (12, 12, 12, 17), (13, 13, 13, 14), (1, 3), (1, 2, 4), (13, 13, 13, 9), (3, 1)],
)
def test_the_slowest_stage_sets_the_pace(passes: tuple[int, ...], num_micro_batches: int) -> None:
    """The planner's time of 1F1B, exact where the last stage is the slowest, else an upper bound."""
    planned = 3 * sum(passes) + (num_micro_batches - 1) * 3 * max(passes)
    found = step_of(passes, num_micro_batches)
    if max(passes) == passes[-1]:
        assert found == planned
    else:
        assert 0.9 * planned < found <= planned


def test_order_by_hand() -> None:
    """Three stages, four micro-batches: the picture of the 1F1B papers."""

    def order(place: int) -> str:
        return " ".join(f"{a.kind[0]}{a.micro_batch}" for a in one_forward_one_backward(place, 3, 4))

    assert order(0) == "f0 f1 f2 b0 f3 b1 b2 b3"
    assert order(1) == "f0 f1 b0 f2 b1 f3 b2 b3"
    assert order(2) == "f0 b0 f1 b1 f2 b2 f3 b3"


def test_the_simulation_finds_a_deadlock() -> None:
    def greedy(place: int, num_stages: int, num_micro_batches: int) -> tuple[Action, ...]:
        """The last stage wants the second micro-batch before it gives the first one's gradient back."""
        if place < num_stages - 1:
            return one_forward_one_backward(0, 1, num_micro_batches)
        return (*forward_only(place, num_stages, num_micro_batches), Action("backward", 0))

    with pytest.raises(Deadlock):
        play(greedy, 2, 2)


def test_the_simulation_finds_another_order() -> None:
    def last_first(place: int, num_stages: int, num_micro_batches: int) -> tuple[Action, ...]:
        order = range(num_micro_batches)
        kept = order if place else order[::-1]
        return tuple(Action("forward", i) for i in kept)

    with pytest.raises(AssertionError):
        play(last_first, 2, 2)
