"""The schedule is data: played through without any rank, everything that is waited for comes."""

from itertools import product

import pytest

from runtime.schedule import SENDS_IN_FLIGHT, Action, Schedule, due, forward_only, one_forward_one_backward

STAGES, MICRO_BATCHES = range(2, 9), range(1, 33)


class Deadlock(AssertionError):
    """No stage can go on."""


def play(schedule: Schedule, num_stages: int, num_micro_batches: int) -> list[list[Action]]:
    """Plays a step of a pipeline in which a message travels once its receiver has asked for it.

    A stage that sends waits until all but the newest messages of that direction have travelled, as
    `runtime.boundary.Port.give` does. Returns what each stage did.

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
            for action in due(actions[stage], done[stage]):
                if (before := source(stage, action)) is not None:
                    asked.add((*before, action.micro_batch))
            action = actions[stage][done[stage]]
            if can_do(stage, action):
                if (after := target(stage, action)) is not None:
                    sent.setdefault(after, []).append(action.micro_batch)
                done[stage] += 1
                moved = True
        if not moved:
            raise Deadlock(f"each stage stands at {done} of {list(map(len, actions))}")
    for (message, stage), order in sent.items():
        kind = "forward" if message == "activations" else "backward"
        wanted = [action.micro_batch for action in actions[stage] if action.kind == kind]
        assert order == wanted, f"{message} for stage {stage} are sent as {order}, taken as {wanted}"
    every = {(message, stage, m) for (message, stage), order in sent.items() for m in order}
    assert asked == every, "something was asked for that nobody sends, or sent and not asked for"
    return [list(stage) for stage in actions]


@pytest.mark.parametrize("schedule", [one_forward_one_backward, forward_only])
def test_every_schedule_ends(schedule: Schedule) -> None:
    for num_stages, num_micro_batches in product(STAGES, MICRO_BATCHES):
        play(schedule, num_stages, num_micro_batches)


def test_each_micro_batch_goes_forward_then_backward_once() -> None:
    for num_stages, num_micro_batches in product(STAGES, MICRO_BATCHES):
        for actions in play(one_forward_one_backward, num_stages, num_micro_batches):
            for kind in ("forward", "backward"):
                order = [action.micro_batch for action in actions if action.kind == kind]
                assert order == list(range(num_micro_batches))
            for micro_batch in range(num_micro_batches):
                first = actions.index(Action("forward", micro_batch))
                assert first < actions.index(Action("backward", micro_batch))


def test_depth_limits_what_is_in_flight() -> None:
    """Stage i of n holds n − i micro-batches at most, however many a step has."""
    for num_stages, num_micro_batches in product(STAGES, MICRO_BATCHES):
        for place in range(num_stages):
            held, most = 0, 0
            for action in one_forward_one_backward(place, num_stages, num_micro_batches):
                held += 1 if action.kind == "forward" else -1
                most = max(most, held)
            assert most == min(num_stages - place, num_micro_batches)


def test_order_by_hand() -> None:
    """Three stages, four micro-batches: the picture of the 1F1B papers."""

    def told(place: int) -> str:
        return " ".join(f"{a.kind[0]}{a.micro_batch}" for a in one_forward_one_backward(place, 3, 4))

    assert told(0) == "f0 f1 f2 b0 f3 b1 b2 b3"
    assert told(1) == "f0 f1 b0 f2 b1 f3 b2 b3"
    assert told(2) == "f0 b0 f1 b1 f2 b2 f3 b3"


def test_the_play_finds_a_deadlock() -> None:
    def greedy(place: int, num_stages: int, num_micro_batches: int) -> tuple[Action, ...]:
        """The last stage wants the second micro-batch before it gives the first one's gradient back."""
        if place < num_stages - 1:
            return one_forward_one_backward(0, 1, num_micro_batches)
        return (*forward_only(place, num_stages, num_micro_batches), Action("backward", 0))

    with pytest.raises(Deadlock):
        play(greedy, 2, 2)


def test_the_play_finds_another_order() -> None:
    def last_first(place: int, num_stages: int, num_micro_batches: int) -> tuple[Action, ...]:
        order = range(num_micro_batches)
        kept = order if place else order[::-1]
        return tuple(Action("forward", i) for i in kept)

    with pytest.raises(AssertionError):
        play(last_first, 2, 2)
