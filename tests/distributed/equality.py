"""What *equal* means: ‖a−b‖/‖b‖ per global tensor, 1e-5 in fp32."""

from torch import Tensor

from tests.distributed.reference import Course

TOLERANCE = 1e-5


def distance(a: Tensor, b: Tensor) -> float:
    """‖a−b‖/‖b‖ in fp64; an all-zero b asks for an all-zero a."""
    difference = (a.double() - b.double()).norm().item()
    return difference / max(b.double().norm().item(), 1e-30) if difference else 0.0


def differences(found: Course, expected: Course) -> dict[str, float]:
    """The worst distance of each kind of quantity over all steps and tensors, with the tensor's name."""
    worst: dict[str, float] = {}

    def note(kind: str, value: float) -> None:
        worst[kind] = max(worst.get(kind, 0.0), value)

    for a, b in zip(found.losses, expected.losses, strict=True):
        note("loss", abs(a - b) / abs(b))
    for a, b in zip(found.norms, expected.norms, strict=True):
        note("norm", abs(a - b) / abs(b))
    for mine, theirs in zip(found.gradients, expected.gradients, strict=True):
        assert mine.keys() == theirs.keys()
        for name in theirs:
            note(f"gradient {_family(name)}", distance(mine[name], theirs[name]))
    assert found.final.keys() == expected.final.keys()
    for (name, kind), value in expected.final.items():
        note(f"{kind} {_family(name)}", distance(found.final[name, kind], value))
    return worst


def assert_equal(found: Course, expected: Course, tolerance: float = TOLERANCE) -> None:
    assert expected.smallest_gap > 1e-4, f"a route hangs on {expected.smallest_gap:.1e}: choose another seed"
    far = {kind: value for kind, value in differences(found, expected).items() if not value <= tolerance}
    assert not far, f"differs from one process by more than {tolerance}: {far}"


def _family(name: str) -> str:
    return "expert" if ".experts." in name else "router" if ".gate." in name else "dense"
