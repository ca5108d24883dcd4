"""Equality of trajectories: ‖a−b‖/‖b‖ per global tensor within 1e-5 in fp32, and equal route counts."""

from torch import Tensor

from tests.support.reference import Trajectory

TOLERANCE = 1e-5
CLEAR = 1e-4  # in probability: rounding flips no routing decision that is clearer


def distance(a: Tensor, b: Tensor) -> float:
    """‖a−b‖/‖b‖ in fp64; an all-zero b asks for an all-zero a."""
    difference = (a.double() - b.double()).norm().item()
    return difference / max(b.double().norm().item(), 1e-30) if difference else 0.0


def differences(
    found: Trajectory, expected: Trajectory, noise: tuple[str, ...] = ()
) -> dict[str, tuple[float, str]]:
    """The worst distance of each kind of quantity over all steps and tensors, and where it is.

    "clipped gradient" is what the optimizer was given, "gradient" the same without its own clipping. Of
    parameters whose names end with one of `noise` nothing is compared: their gradients are but rounding.
    """
    worst: dict[str, tuple[float, str]] = {}

    def note(kind: str, value: float, where: str) -> None:
        if kind not in worst or not value <= worst[kind][0]:
            worst[kind] = (value, where)

    for kind, name in (
        ("loss", "losses"),
        ("aux loss", "aux_losses"),
        ("z-loss", "z_losses"),
        ("norm", "norms"),
    ):
        for step, (a, b) in enumerate(zip(getattr(found, name), getattr(expected, name), strict=True)):
            note(kind, _of_numbers(a, b), f"step {step}")
    for step, (a, b) in enumerate(zip(found.expert_tokens, expected.expert_tokens, strict=True)):
        note("routes", float((a - b).abs().sum()), f"step {step}")
    for step in range(len(expected.gradients)):
        mine, theirs = found.gradients[step], expected.gradients[step]
        assert mine.keys() == theirs.keys()
        my_factor = clip_factor(found.norms[step], found.clipping)
        their_factor = clip_factor(expected.norms[step], expected.clipping)
        for name in (n for n in theirs if not n.endswith(noise)):
            where = f"{name}, step {step}"
            note(f"clipped gradient of {family(name)}", distance(mine[name], theirs[name]), where)
            unclipped = distance(mine[name] / my_factor, theirs[name] / their_factor)
            note(f"gradient of {family(name)}", unclipped, where)
    assert found.final.keys() == expected.final.keys()
    for (name, kind), value in expected.final.items():
        if name.endswith(noise):
            continue
        note(f"{kind} of {family(name)}", distance(found.final[name, kind], value), name)
    return worst


def assert_equal(
    found: Trajectory, expected: Trajectory, tolerance: float = TOLERANCE, noise: tuple[str, ...] = ()
) -> dict[str, float]:
    """The worst distance of each kind of quantity, all within `tolerance`.

    Raises:
        AssertionError: naming every kind of quantity that is further away, and where.
    """
    assert expected.smallest_gap > CLEAR, f"a route hangs on {expected.smallest_gap:.1e}: choose another seed"
    worst = differences(found, expected, noise)
    far = [
        f"{kind} by {value:.1e} ({where})" for kind, (value, where) in worst.items() if not value <= tolerance
    ]
    assert not far, f"differs from one process by more than {tolerance}: {'; '.join(far)}"
    return {kind: value for kind, (value, _) in worst.items()}


def clip_factor(norm: float, limit: float) -> float:
    """What clipping multiplies a gradient with; written out once more, not the product's."""
    return limit / (norm + 1e-6) if 0.0 < limit < norm + 1e-6 else 1.0


def family(name: str) -> str:
    return "expert" if ".experts." in name else "router" if ".router." in name else "dense"


def _of_numbers(a: float, b: float) -> float:
    return abs(a - b) / max(abs(b), 1e-30) if a != b else 0.0
