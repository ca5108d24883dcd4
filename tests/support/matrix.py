"""The matrix of layouts and settings: its axes, the legal cases, and a small set that covers all pairs."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from zlib import crc32

from planner import Strategy
from planner.rules.registry import find_broken_rules
from tests.support.reference import tiny


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout of `world` ranks: one colocated stage, or stages of the layers that `cut` counts."""

    ep: int
    tp: int
    dp: int
    cut: tuple[int, ...] = ()
    placement: str = "colocated"

    @property
    def parallel(self) -> dict[str, object]:
        """What a strategy has under `parallel`, but for the ZeRO stage."""
        degrees = {"placement": self.placement, "ep": self.ep, "tp": self.tp, "dp": self.dp}
        return degrees | ({"pp": len(self.cut), "layers_per_stage": self.cut} if self.cut else {})

    @property
    def world(self) -> int:
        if self.placement == "staged":
            return self.dp * (2 * self.tp + len(self.cut) * self.ep)
        return self.dp * max(self.ep, self.tp) * max(1, len(self.cut))

    @property
    def data(self) -> int:
        """How many ranks of the widest stage have sequences of their own: TP partners count once."""
        if self.placement == "staged":
            return self.dp * self.ep
        return self.dp * max(self.ep, self.tp) // self.tp

    def __str__(self) -> str:
        stages = "".join(f"-{part}" for part in ("+".join(map(str, self.cut)),) if part)
        staged = "staged-" if self.placement == "staged" else ""
        return f"{staged}ep{self.ep}-tp{self.tp}-dp{self.dp}{stages}"


def _layouts() -> Iterator[Layout]:
    for dp, tp, ep in itertools.product((1, 2), (1, 2, 4), (1, 2, 4, 8)):
        layout = Layout(ep=ep, tp=tp, dp=dp)
        if layout.world in (2, 4, 8) and (tp % ep == 0 or ep % tp == 0):
            yield layout


LAYOUTS = tuple(sorted(_layouts(), key=lambda layout: layout.world))
# Four layers in stages of unequal length.
CUTS = (
    Layout(ep=2, tp=1, dp=1, cut=(3, 1)),
    Layout(ep=2, tp=2, dp=1, cut=(1, 3)),
    Layout(ep=1, tp=2, dp=1, cut=(1, 2, 1)),
    Layout(ep=2, tp=2, dp=1, cut=(1, 3), placement="staged"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting of every axis. The defaults are what any layout and any other setting goes with."""

    layout: Layout
    zero_stage: int = 1
    accumulation: int = 1
    top_k: int = 1
    expert: str = "mlp"
    shared_experts: int = 0
    dispatch: str = "dropless"
    tokens: str = "even"  # of a micro-batch; odd: no tp divides them
    is_padded: bool = False
    vocabulary: str = "even"
    qk_norm: str = "none"
    dense_layers: int = 0
    balance_loss: float = 0.0
    z_loss: float = 0.0
    clipping: float = 0.5
    precision: str = "fp32"
    recompute: str = "none"  # or how many first layers of each stage

    @property
    def strategy(self) -> Strategy:
        is_odd = self.tokens == "odd"
        width = self.layout.data * self.accumulation
        micro_batch = 16 // width
        if is_odd and micro_batch % 2 == 0:
            micro_batch -= 1
        global_batch = micro_batch * width
        return tiny(
            model__num_hidden_layers=sum(self.layout.cut) or 2,
            model__num_experts_per_tok=self.top_k,
            model__expert=self.expert,
            model__num_shared_experts=self.shared_experts,
            model__dispatch=self.dispatch,
            model__capacity_factor=1.0 if self.dispatch == "capacity" else None,
            model__vocab_size=49 if self.vocabulary == "odd" else 48,
            model__qk_norm=self.qk_norm,
            model__first_dense_layers=self.dense_layers,
            model__intermediate_size=32 if self.dense_layers else None,
            parallel=self.layout.parallel | {"zero_stage": self.zero_stage},
            training__seq_length=5 if is_odd else 4,
            training__micro_batch=micro_batch,
            training__global_batch=global_batch,
            training__balance_loss=self.balance_loss,
            training__z_loss=self.z_loss,
            training__gradient_clipping=self.clipping,
            training__precision=self.precision,
            data__validation_sequences=global_batch,
            runtime__recompute={"layers": int(self.recompute)}
            if self.recompute.isdigit()
            else self.recompute,
        )

    @property
    def reference(self) -> Strategy:
        """What one process runs, which recomputes nothing: stock dispatch drops nothing, so our dropless
        layer is its reference."""
        dispatch = "dropless" if self.dispatch == "deepspeed" else self.dispatch
        return replace(self, dispatch=dispatch, recompute="none").strategy

    @property
    def is_legal(self) -> bool:
        return _is_legal(self)

    def __str__(self) -> str:
        """ep4-tp2-dp1-z1-acc2-k2-swiglu: what is at its default after k is left out."""
        plain = Case(layout=self.layout)
        parts = [str(self.layout), f"z{self.zero_stage}", f"acc{self.accumulation}", f"k{self.top_k}"]
        for name, short in _SHORT.items():
            value = getattr(self, name)
            if value != getattr(plain, name):
                parts.append(short.format(value))
        return "-".join(parts)


_SHORT = {
    "expert": "{}",
    "shared_experts": "shared",
    "dispatch": "{}",
    "tokens": "oddtokens",
    "is_padded": "padding",
    "vocabulary": "oddvocabulary",
    "qk_norm": "qk{}",
    "dense_layers": "densefirst",
    "balance_loss": "B",
    "z_loss": "Z",
    "clipping": "noclip",
    "precision": "{}",
    "recompute": "recompute{}",
}

# Those of which the whole product is `everything`, then those that are paired with them.
PRODUCT_AXES: dict[str, tuple] = {
    "layout": LAYOUTS,
    "zero_stage": (0, 1, 2),
    "accumulation": (1, 2),
    "top_k": (1, 2, 3),
    "expert": ("mlp", "swiglu"),
    "shared_experts": (0, 1),
    "dispatch": ("dropless", "capacity", "deepspeed"),
}
AXES = PRODUCT_AXES | {
    "tokens": ("even", "odd"),
    "is_padded": (False, True),
    "vocabulary": ("even", "odd"),
    "qk_norm": ("none", "head", "projection"),
    "dense_layers": (0, 1),
    "balance_loss": (0.0, 0.5),
    "z_loss": (0.0, 0.05),
    "clipping": (0.5, 0.0),
}
assert set(AXES) | {"precision", "recompute"} == {field.name for field in fields(Case)}

Setting = tuple[str, object]
Pair = tuple[Setting, Setting]


@cache
def _is_legal(case: Case) -> bool:
    # The planner has no rule on padding: only a run's data could bring it, and they have none.
    return not (case.dispatch == "deepspeed" and case.is_padded) and not any(find_broken_rules(case.strategy))


def everything() -> tuple[Case, ...]:
    """Every legal case of the product axes, with both losses on where the dispatch has them."""
    cases = []
    for values in itertools.product(*PRODUCT_AXES.values()):
        settings = dict(zip(PRODUCT_AXES, values, strict=True))
        losses = {} if settings["dispatch"] == "deepspeed" else {"balance_loss": 0.5, "z_loss": 0.05}
        case = Case(**settings, **losses)
        if case.is_legal:
            cases.append(case)
    return tuple(cases)


def pairs(case: Case) -> set[Pair]:
    """The two settings of every two axes of `case`."""
    return set(itertools.combinations(((name, getattr(case, name)) for name in AXES), 2))


def in_bf16() -> tuple[Case, ...]:
    """Every layout with every way of summing gradients that bf16 has."""
    return tuple(
        Case(
            layout=layout,
            zero_stage=zero_stage,
            accumulation=accumulation,
            top_k=2,
            balance_loss=0.5,
            z_loss=0.05,
            precision="bf16",
        )
        for layout, zero_stage, accumulation in itertools.product(LAYOUTS, (1, 2), (1, 2))
    )


def in_cuts() -> tuple[Case, ...]:
    """Every cut of the layers with every ZeRO stage and number of micro-batches."""
    return tuple(
        Case(
            layout=layout,
            zero_stage=zero_stage,
            accumulation=accumulation,
            top_k=2,
            balance_loss=0.5,
            z_loss=0.05,
        )
        for layout, zero_stage, accumulation in itertools.product(CUTS, (0, 1, 2), (1, 2, 4))
    )


def recomputed() -> tuple[Case, ...]:
    """Every kind of recomputation, each in another layout, with what it has to replay or leave alone."""
    losses = {"top_k": 2, "balance_loss": 0.5, "z_loss": 0.05}
    ep4, ep4_tp2 = Layout(ep=4, tp=1, dp=1), Layout(ep=4, tp=2, dp=1)
    layer = {"recompute": "layer", **losses}
    return (
        Case(layout=ep4_tp2, dispatch="capacity", is_padded=True, accumulation=2, zero_stage=2, **layer),
        Case(layout=ep4, expert="swiglu", shared_experts=1, tokens="odd", precision="bf16", **layer),
        Case(layout=CUTS[3], accumulation=4, qk_norm="head", **layer | {"recompute": "1"}),
        Case(layout=CUTS[1], dense_layers=1, qk_norm="projection", **losses, recompute="attention"),
        Case(layout=ep4_tp2, expert="swiglu", accumulation=2, **losses, recompute="experts"),
        Case(layout=ep4_tp2, dispatch="deepspeed", recompute="experts"),
        Case(layout=ep4, dispatch="deepspeed", recompute="attention"),
    )


@cache
def covering() -> tuple[Case, ...]:
    """Legal cases that hold every legal pair.

    Greedy: each case starts from the first pair that is missing and takes, axis by axis, the legal value
    that adds most missing pairs; of equals one by lot, the same in every run.
    """
    missing = dict.fromkeys(pair for pair in _pairs_of_axes() if _plainest(dict(pair)) is not None)
    cases = []
    while missing:
        settings = dict(next(iter(missing)))
        for name, values in AXES.items():
            if name in settings:
                continue
            legal = [value for value in values if _plainest(settings | {name: value}) is not None]
            lots = {value: crc32(f"{len(cases)} {name} {value}".encode()) for value in legal}
            gain = {value: (_gain(settings, (name, value), missing), lots[value]) for value in legal}
            settings[name] = max(gain, key=gain.__getitem__)
        case = Case(**settings)
        assert case.is_legal
        for pair in pairs(case):
            missing.pop(pair, None)
        cases.append(case)
    return tuple(sorted(cases, key=str))


def _pairs_of_axes() -> Iterator[Pair]:
    for one, other in itertools.combinations(AXES, 2):
        yield from itertools.product(
            *([(name, value) for value in AXES[name]] for name in (one, other)),
        )


def _plainest(settings: dict[str, object]) -> Case | None:
    """The case with these settings and defaults elsewhere; None if it is illegal, because then all are."""
    case = Case(**({"layout": LAYOUTS[0]} | settings))
    return case if case.is_legal else None


def _gain(settings: dict[str, object], new: Setting, missing: dict[Pair, None]) -> int:
    """How many missing pairs `new` makes with the settings."""
    found = [tuple(sorted((new, old), key=lambda setting: _ORDER[setting[0]])) for old in settings.items()]
    return sum(pair in missing for pair in found)


_ORDER = {name: place for place, name in enumerate(AXES)}
