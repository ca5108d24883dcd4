"""When a stated figure holds: a derivation of it beside the value, judged to the digits that were stated."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from planner.plan.plan import Plan
from planner.prediction.predict import Prediction
from planner.strategy.claims import Claim
from planner.strategy.schema import Strategy
from planner.topology.placement import Stage
from planner.units import (
    UNITS,
    Dimension,
    format_bytes,
    format_count,
    format_flops,
    format_quantity,
    format_seconds,
)

Verdict = Literal["holds", "does not hold", "cannot be met on this cluster"]
# What a stated value says of the derived one. `below` is strict: 8 % is not below 8 %.
Relation = Literal["equals", "at most", "at least", "below"]

HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
IMPOSSIBLE: Verdict = "cannot be met on this cluster"
_ORDER = (HOLDS, FAILS, IMPOSSIBLE)
_SIZES = ("kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """One way to derive a figure, in base units; value None: this layout has no such thing.

    of: what it is a figure of, where there are several. decides: whether the claim falls with it; others
    stand beside it to show what was meant, or what else is true. bound: the best that the cluster's GPUs,
    memory, links or peak allow, where that can be proven, with `why`. exceeds: what is derived is itself
    more than the cluster has, so that even a right figure cannot be met.
    """

    value: float | None
    arithmetic: str
    of: str = ""
    relation: Relation = "equals"
    decides: bool = True
    bound: float | None = None
    exceeds: bool = False
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class AuditContext:
    """What derivations start from: a plan, and all claims about it."""

    plan: Plan
    prediction: Prediction
    claims: tuple[Claim, ...]

    @property
    def strategy(self) -> Strategy:
        return self.plan.strategy

    def stated(self, quantity: str) -> float | None:
        """What the first claim about a quantity says, to hold a document against itself."""
        return next((float(claim.value) for claim in self.claims if claim.quantity == quantity), None)

    @property
    def available(self) -> int:
        """Slots of the cluster, spare hosts included."""
        return sum(self.strategy.cluster.slots)

    @property
    def embedding(self) -> Stage:
        return next(stage for stage in self.plan.stages if stage.contents.embedding)

    @property
    def output(self) -> Stage:
        return next(stage for stage in self.plan.stages if stage.contents.output)

    @property
    def experts(self) -> Stage:
        """The first of the stages that hold layers; it has the most of them."""
        return next(stage for stage in self.plan.stages if stage.layers)


def judge(stated: float, derivation: Derivation, dimension: Dimension) -> Verdict:
    """Whether a stated value holds against one derivation."""
    if derivation.value is not None and _agrees(stated, derivation.value, derivation.relation, dimension):
        return IMPOSSIBLE if derivation.exceeds else HOLDS
    if derivation.exceeds and derivation.relation != "equals":
        return IMPOSSIBLE
    if derivation.bound is not None:
        # Of a value that is to be equal, the bound is a limit from above.
        relation: Relation = "at most" if derivation.relation == "equals" else derivation.relation
        least, most = (
            (stated, derivation.bound) if derivation.relation == "equals" else (derivation.bound, stated)
        )
        if not _agrees(most, least, relation, dimension):
            return IMPOSSIBLE
    return FAILS


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a claim from those of the derivations that decide it."""
    return max(verdicts, key=_ORDER.index)


def _agrees(stated: float, derived: float, relation: Relation, dimension: Dimension) -> bool:
    slack = 1e-9 * abs(stated)  # the rounding of floats, no more
    match relation:
        case "at most":
            return derived <= stated + slack
        case "at least":
            return derived >= stated - slack
        case "below":
            return derived < stated - slack
    return any(abs(derived - value) <= rounding + slack for value, rounding in _meant(stated, dimension))


def _meant(stated: float, dimension: Dimension) -> list[tuple[float, float]]:
    """The values that a text may mean, each with half a unit of its last digit.

    53 % is right of 53.125 %, and 16 MB of 16 MiB, as people write it; a count is exact.
    """
    if dimension == "count":
        return [(stated, 0.0)]
    text = format_quantity(stated, dimension).replace(" ", "")
    number = text.rstrip("".join(UNITS[dimension]))  # 16MB, 7B
    unit = text.removeprefix(number)
    exponent = Decimal(number).as_tuple().exponent
    assert isinstance(exponent, int), stated
    half = Decimal(5).scaleb(exponent - 1)
    scale = float(UNITS[dimension][unit])
    meant = [(stated, float(half) * scale)]
    if dimension == "bytes" and unit in _SIZES:
        binary = 1024.0 ** (_SIZES.index(unit) + 1)
        meant.append((float(number) * binary, float(half) * binary))
    return meant


def show(value: float | None, dimension: Dimension) -> str:
    """A derived value for people: three or four digits."""
    if value is None:
        return "none"
    match dimension:
        case "bytes":
            return show_bytes(value)
        case "bytes/s":
            return f"{value / 1e9:.4g} GB/s"
        case "FLOP/s":
            return f"{value / 1e12:.4g} TFLOPS"
        case "seconds":
            return show_seconds(value)
        case "FLOP":
            return format_flops(value, "FLOP")
        case "parameters":
            return format_count(value)
        case "share":
            return f"{100 * value:.4g} %"
        case "tokens/s" | "batches/s":
            return f"{value:,.0f} {dimension}" if value >= 1000 else f"{value:.4g} {dimension}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def show_stated(value: float, dimension: Dimension) -> str:
    """A stated value with its unit; rates of bytes in GB/s, as derived ones."""
    return show(value, dimension) if dimension in ("bytes/s", "count") else format_quantity(value, dimension)


def show_seconds(value: float) -> str:
    """A duration in an arithmetic: four digits."""
    return format_seconds(value, digits=4)


def show_bytes(value: float) -> str:
    """Bytes: in binary units where they are few and whole, as sizes of weights are."""
    mebi = value / 2**20
    if 0 < mebi < 1024 and (2 * mebi).is_integer():
        return f"{mebi:g} MiB"
    return format_bytes(value)
