"""What *equal* means: ‖a−b‖/‖b‖ per global tensor, 1e-5 in fp32; routes are counted and must be the same."""

from torch import Tensor

from tests.distributed.reference import Course

TOLERANCE = 1e-5
CLEAR = 1e-4  # in probability: rounding flips no routing decision that is clearer


def distance(a: Tensor, b: Tensor) -> float:
    """‖a−b‖/‖b‖ in fp64; an all-zero b asks for an all-zero a."""
    difference = (a.double() - b.double()).norm().item()
    return difference / max(b.double().norm().item(), 1e-30) if difference else 0.0


def differences(found: Course, expected: Course) -> dict[str, float]:
    """The worst distance of each kind of quantity over all steps and tensors.

    "clipped gradient" is what the optimizer was given, "gradient" the same without its own clipping.
    """
    worst: dict[str, float] = {}

    def note(kind: str, value: float) -> None:
        worst[kind] = value if value != value else max(worst.get(kind, 0.0), value)

    for kind in ("losses", "balances", "zs", "norms"):
        for a, b in zip(getattr(found, kind), getattr(expected, kind), strict=True):
            note(kind.removesuffix("es" if kind == "losses" else "s"), _of_numbers(a, b))
    for a, b in zip(found.expert_tokens, expected.expert_tokens, strict=True):
        note("routes", float((a - b).abs().sum()))
    steps = zip(found.gradients, expected.gradients, found.norms, expected.norms, strict=True)
    for mine, theirs, my_norm, their_norm in steps:
        assert mine.keys() == theirs.keys()
        mine_unclipped, theirs_unclipped = (
            1.0 / clip_factor(my_norm, found.clipping),
            1.0 / clip_factor(their_norm, expected.clipping),
        )
        for name in theirs:
            kind = family(name)
            note(f"clipped gradient of {kind}", distance(mine[name], theirs[name]))
            note(
                f"gradient of {kind}",
                distance(mine[name] * mine_unclipped, theirs[name] * theirs_unclipped),
            )
    assert found.final.keys() == expected.final.keys()
    for (name, kind), value in expected.final.items():
        note(f"{kind} of {family(name)}", distance(found.final[name, kind], value))
    return worst


def assert_equal(found: Course, expected: Course, tolerance: float = TOLERANCE) -> dict[str, float]:
    """The distances, which are all within `tolerance`.

    Raises:
        AssertionError: naming every kind of quantity that is further away.
    """
    assert expected.smallest_gap > CLEAR, f"a route hangs on {expected.smallest_gap:.1e}: choose another seed"
    found_distances = differences(found, expected)
    far = {kind: value for kind, value in found_distances.items() if not value <= tolerance}
    assert not far, f"differs from one process by more than {tolerance}: {far}"
    return found_distances


def clip_factor(norm: float, limit: float) -> float:
    """What clipping multiplies a gradient with; written out once more, not the product's."""
    return limit / (norm + 1e-6) if 0.0 < limit < norm + 1e-6 else 1.0


def family(name: str) -> str:
    return "expert" if ".experts." in name else "router" if ".router." in name else "dense"


def _of_numbers(a: float, b: float) -> float:
    return abs(a - b) / max(abs(b), 1e-30) if a != b else 0.0
