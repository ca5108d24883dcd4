"""Real runs with compiled regions (runtime.kernels: fused), resumed in the middle."""

from pathlib import Path

import pytest

from tests.support.launching import Launch

pytestmark = pytest.mark.slow  # launches, and a compiler

FUSED = "runtime.kernels=fused"


def test_resumed_in_the_middle_it_has_the_bits_of_the_unbroken_run(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    unbroken, launch = Launch(tmp_path_factory.mktemp("unbroken")), Launch(tmp_path)
    unbroken.start(FUSED)
    code, output = unbroken.finish(300)
    assert code == 0, output
    launch.start(FUSED)
    launch.wait_for_step(5, timeout=240)
    launch.terminate()
    code, output = launch.finish(120)
    assert code != 0, output
    stopped = launch.lines()[-1]["step"]
    assert 5 <= stopped < 12
    launch.start(FUSED)
    code, output = launch.finish(300)
    assert code == 0, output
    assert launch.losses() == unbroken.losses()
    assert [line["attempt"] for line in launch.lines()] == [1] * stopped + [2] * (12 - stopped)
