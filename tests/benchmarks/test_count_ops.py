"""The table of memory-bound operations against the decoder, recounted on shapes that it was not fitted on."""

import pytest

from benchmarks.count_ops import count
from benchmarks.op_counts import Count
from benchmarks.op_shapes import Shape
from planner.timing.op_overhead import ModuleTraffic, part_traffic

TOLERANCE = 0.03  # of a pass's bytes, and of those of a module that has a twentieth of them
SHAPES = (
    Shape(
        (
            "hidden_size=160",
            "qk_norm=head",
            "num_attention_heads=8",
            "num_key_value_heads=2",
            "head_dim=24",
            "num_experts=24",
            "num_experts_per_tok=3",
            "moe_intermediate_size=112",
            "expert=swiglu",
            "num_shared_experts=1",
            "vocab_size=70000",
            "training.seq_length=384",
        )
    ),
    Shape(
        (
            "hidden_size=224",
            "num_attention_heads=4",
            "head_dim=48",
            "num_experts=12",
            "vocab_size=3000",
            "moe_intermediate_size=272",
            "first_dense_layers=1",
            "intermediate_size=416",
            "training.seq_length=320",
        ),
        ep=4,
    ),
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_table_says_what_the_decoder_does(shape: Shape, precision: str) -> None:
    one = count(shape, precision)
    dense = one.strategy.model.first_dense_layers
    moe = one.strategy.model.num_hidden_layers - dense
    parts = {"dense": dense, "moe": moe, "embedding": 1, "norm": 1, "output": 1}
    for is_backward, counted in ((False, one.passes.forward), (True, one.passes.backward)):
        said: dict[str, Count] = {}
        for part, times in parts.items():
            for found in part_traffic(one.workload, part, is_backward=is_backward) if times else ():
                _add(said.setdefault(found.module, Count()), found, times)
        whole = sum(own.num_bytes for own in counted.values())
        assert sum(own.num_bytes for own in said.values()) == pytest.approx(whole, rel=TOLERANCE)
        issued = sum(own.operations for own in counted.values())
        assert sum(own.operations for own in said.values()) == pytest.approx(issued, rel=TOLERANCE)
        for module, own in counted.items():
            if own.num_bytes > whole / 20:
                assert said[module].num_bytes == pytest.approx(own.num_bytes, rel=TOLERANCE), module


def _add(own: Count, found: ModuleTraffic, times: int) -> None:
    own.operations += times * found.operations
    own.num_bytes += times * found.num_bytes
