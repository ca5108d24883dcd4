"""Stage rules: pipeline stages and the layers that each of them holds."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.rules.legal_values import join_numbers
from planner.strategy.schema import Strategy
from planner.topology.placement import even_cut


def pp_within_layers(s: Strategy) -> Iterator[Problem]:
    pp, layers = s.parallel.pp, s.model.num_hidden_layers
    if pp > layers:
        yield Problem(
            code="SW204",
            path="parallel.pp",
            found=f"{pp} stages for {layers} layers (model.num_hidden_layers)",
            expected=f"at most {layers}: every stage holds a layer",
            fix=f"set parallel.pp to {layers}, or less",
        )


def every_stage_has_a_count(s: Strategy) -> Iterator[Problem]:
    cut, pp = s.parallel.layers_per_stage, s.parallel.pp
    if cut is not None and len(cut) != pp:
        yield Problem(
            code="SW216",
            path="parallel.layers_per_stage",
            found=f"{len(cut)} numbers for {pp} stages (parallel.pp)",
            expected=f"{pp}, one for each stage with layers",
            fix=_write_even_cut(s),
        )


def counts_add_up_to_all_layers(s: Strategy) -> Iterator[Problem]:
    cut, layers = s.parallel.layers_per_stage, s.model.num_hidden_layers
    if cut is not None and sum(cut) != layers:
        yield Problem(
            code="SW217",
            path="parallel.layers_per_stage",
            found=f"[{join_numbers(cut)}] add up to {sum(cut)} layers of {layers} (model.num_hidden_layers)",
            expected=f"numbers that add up to {layers}",
            fix=_write_even_cut(s),
        )


def _write_even_cut(s: Strategy) -> str:
    pp, layers = s.parallel.pp, s.model.num_hidden_layers
    if pp > layers or pp > 64:
        return "remove parallel.layers_per_stage: null cuts the layers as evenly as possible"
    even = ", ".join(str(count) for count in even_cut(layers, pp))
    return f"set parallel.layers_per_stage to [{even}], or to null, which means the same"


def recomputed_layers_exist(s: Strategy) -> Iterator[Problem]:
    recompute = s.runtime.recompute
    if recompute.layers is None or s.parallel.pp > s.model.num_hidden_layers:
        return
    cut = s.parallel.layers_per_stage or even_cut(s.model.num_hidden_layers, s.parallel.pp)
    most = max(cut)
    if recompute.layers > most:
        yield Problem(
            code="SW219",
            path="runtime.recompute",
            found=f"{recompute.layers} layers, but a stage has at most {most}",
            expected=f"layer, which is all of them, or at most {most} layers",
            fix="set runtime.recompute to layer, or name fewer layers",
        )


RULES = (pp_within_layers, every_stage_has_a_count, counts_add_up_to_all_layers, recomputed_layers_exist)
