"""The phases of a step are disjoint and their sum is the step."""

import json
import random
import timeit

import pytest

from planner.prediction.breakdown import PHASES
from runtime.profiling.phase_clock import PhaseClock, communication_share, step_s, utilization
from runtime.profiling.timestamps import HostTimestamps


class Time:
    """A clock that only moves when it is told to, in whole seconds."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def passes(self, seconds: int) -> None:
        self.now_ns += seconds * 1_000_000_000


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def clock(time) -> PhaseClock:
    return PhaseClock(HostTimestamps(time))


def spent(clock: PhaseClock) -> dict[str, float]:
    return {name: seconds for name, seconds in clock.reset().items() if seconds}


def test_an_inner_phase_is_taken_out_of_the_outer(clock, time):
    with clock.phase("compute"):
        time.passes(2)
        with clock.phase("all_to_all"):
            time.passes(3)
        time.passes(4)
    assert spent(clock) == {"compute": 6, "all_to_all": 3}


def test_what_no_phase_claims_is_other(clock, time):
    time.passes(1)
    with clock.phase("data"):
        time.passes(2)
    time.passes(4)
    assert spent(clock) == {"data": 2, "other": 5}


def test_a_phase_inside_itself_counts_once(clock, time):
    with clock.phase("compute"), clock.phase("compute"):
        time.passes(2)
    assert spent(clock) == {"compute": 2}


def test_a_phase_ends_with_an_error(clock, time):
    def fail() -> None:
        with clock.phase("compute"), clock.phase("all_to_all"):
            time.passes(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    time.passes(2)
    assert spent(clock) == {"all_to_all": 1, "other": 2}


def test_reset_begins_anew_and_names_every_phase(clock, time):
    time.passes(9)
    clock.reset()
    assert clock.reset() == dict.fromkeys(PHASES, 0.0)


def test_reset_inside_a_phase_is_a_mistake(clock):
    with pytest.raises(AssertionError, match="compute"), clock.phase("compute"):
        clock.reset()


def test_an_unknown_phase_is_a_mistake(clock):
    with pytest.raises(KeyError):
        clock.phase("thinking")


def test_any_nesting_adds_up_to_the_step(clock, time):
    chance = random.Random(1)

    def nest(depth: int) -> int:
        passed = chance.randrange(3)
        time.passes(passed)
        if depth:
            for _ in range(chance.randrange(4)):
                with clock.phase(chance.choice(PHASES)):
                    passed += nest(depth - 1)
        return passed

    assert nest(6) == step_s(clock.reset())


class Device:
    """Work that is issued at once and done later: a moment is when all that was issued before it is done."""

    def __init__(self) -> None:
        self.done_ns = 0
        self.asked = 0

    def take(self) -> int:
        return self.done_ns

    def times_ns(self, taken):
        self.asked += 1
        return list(taken)


def test_on_a_device_time_is_that_of_its_work():
    device = Device()
    clock = PhaseClock(device)
    for _ in range(3):
        with clock.phase("compute"):
            device.done_ns += 2_000_000_000
            with clock.phase("all_to_all"):
                device.done_ns += 1_000_000_000
    assert device.asked == 0  # nobody waits for a device in the middle of a step
    assert spent(clock) == {"compute": 6, "all_to_all": 3}
    assert device.asked == 1


def test_shares_are_those_of_the_interface():
    phases_s = dict.fromkeys(PHASES, 1.0) | {"compute": 3.0}
    assert step_s(phases_s) == 10
    assert communication_share(phases_s) == 0.4
    assert utilization(phases_s) == 0.4
    assert communication_share(dict.fromkeys(PHASES, 0.0)) == 0.0


def test_a_phase_costs_microseconds():
    clock = PhaseClock()

    def enter() -> None:
        with clock.phase("compute"):
            pass

    assert min(timeit.repeat(enter, number=1000, repeat=5)) / 1000 < 20e-6  # 1.1e-6 on a quiet core


def test_phases_are_plain_json(clock):
    assert list(json.loads(json.dumps(clock.reset()))) == list(PHASES)
