"""Each rule on its own: one broken strategy, one Problem at the right key, what is legal in numbers."""

import time

import pytest

from planner import Problem, StrategyError, loads
from planner.rules.layout import world_fits_hosts
from planner.rules.partial import Partial
from planner.rules.registry import RULES, broken_rules
from tests.support.examples import TEXT, strategy

STOCK = ("model.dispatch=deepspeed", "training.balance_loss=0", "training.z_loss=0")
STAGED = "parallel.placement=staged"

# overrides of the small strategy, the key that is blamed, what is found, what is expected
BROKEN = [
    (
        ("parallel=EP8_TP3", "model.num_attention_heads=12", "model.head_dim=64"),
        "parallel.tp",
        "neither divides",
        "1, 2, 4, 8, 16, 32",
    ),
    (("parallel.ep=6",), "parallel.ep", "6 does not divide model.num_experts (64)", "1, 2, 4, 8, 16, 32, 64"),
    (
        ("model.num_experts=128", "parallel.ep=3"),
        "parallel.ep",
        "does not divide",
        "1, 2, 4, 8, 16, 32, 64, 128",
    ),
    (
        ("model.first_dense_layers=16", "model.intermediate_size=64", "parallel.ep=2"),
        "parallel.ep",
        "leaves no layer with experts",
        "1 for a model without experts",
    ),
    (
        ("parallel=EP4_TP4", "model.first_dense_layers=1", "model.intermediate_size=2730"),
        "parallel.tp",
        "4 does not divide model.intermediate_size (2730)",
        "1, 2, 3, 5, 6, 7, 10",
    ),
    (
        ("parallel=EP4_TP4", "model.num_shared_experts=2", "model.moe_intermediate_size=9"),
        "parallel.tp",
        "4 does not divide model.num_shared_experts × moe_intermediate_size (18)",
        "1, 2, 3, 6, 9, 18",
    ),
    (
        (STAGED, "parallel.ep=8", "parallel.tp=8", "model.vocab_size=7"),
        "parallel.tp",
        "8 is more than model.vocab_size (7)",
        "at most 7",
    ),
    (
        ("parallel=EP4_TP4_PP2", "model.hidden_size=3", "model.head_dim=64"),
        "parallel.tp",
        "4 is more than model.hidden_size (3)",
        "at most 3",
    ),
    (("parallel.pp=17", "cluster.hosts=32"), "parallel.pp", "17 stages for 16 layers", "at most 16"),
    (
        ("parallel.tp=8", "parallel.ep=8", "model.num_key_value_heads=4"),
        "parallel.tp",
        "8 does not divide model.num_key_value_heads (4)",
        "16 heads and 4 key/value heads: 1, 2, 4",
    ),
    (
        ("parallel=EP8_TP8", "model.num_attention_heads=12", "model.head_dim=64"),
        "parallel.tp",
        "8 does not divide model.num_attention_heads (12)",
        "1, 2, 3, 4, 6, 12",
    ),
    (
        (
            STAGED,
            "parallel.ep=2",
            "parallel.tp=2",
            "model.hidden_size=1023",
            "model.head_dim=64",
            "model.aggregation=linear",
        ),
        "parallel.tp",
        "2 does not divide model.hidden_size (1023)",
        "1, 3, 11, 31, 33, 93, 341, 1023",
    ),
    (
        ("parallel.zero_stage=3",),
        "parallel.zero_stage",
        "ZeRO 3 is not supported yet with experts",
        "0, 1 or 2",
    ),
    (("parallel.zero_stage=4",), "parallel.zero_stage", "there is no ZeRO 4", "0, 1 or 2"),
    (("parallel.zero_stage=0",), "parallel.zero_stage", "0 with training.precision bf16", "1 or 2"),
    (
        ("parallel.zero_stage=0", "training.precision=fp8"),
        "parallel.zero_stage",
        "0 with training.precision fp8",
        "1 or 2",
    ),
    (("parallel.rank_order=compact",), "parallel.rank_order", "colocated", "document"),
    (("cluster.spare_hosts=16",), "cluster.spare_hosts", "16 of 16 hosts are spare", "0 to 15"),
    (("cluster.hosts=[a slots=9, b]",), "cluster.hosts", "a (9)", "at most 8 slots"),
    (
        ("cluster.spare_hosts=8", STAGED, "parallel.ep=64", "parallel.tp=2"),
        "parallel",
        "needs 68 ranks, but 8 hosts (8 of 16 are spare) carry 64",
        "at most 64 ranks",
    ),
    (
        (STAGED, "parallel.ep=64", "parallel.tp=2", "parallel.pp=2"),
        "parallel",
        "EP64_TP2_PP2_DP1 staged needs 132 ranks, but 16 hosts carry 128",
        "at most 128 ranks",
    ),
    (
        ("cluster.gpu=cpu", "parallel.dp=200000", "training.global_batch=200000"),
        "parallel",
        "200,000 ranks",
        "131,072",
    ),
    (("model.num_experts_per_tok=65",), "model.num_experts_per_tok", "65 experts a token", "1 to 64"),
    (("model.num_key_value_heads=3",), "model.num_key_value_heads", "3 does not divide", "1, 2, 4, 8, 16"),
    (("model.num_attention_heads=15",), "model.head_dim", "cannot follow", "a head_dim"),
    (("model.head_dim=63",), "model.head_dim", "63 is odd", "an even number"),
    (
        ("model.first_dense_layers=17", "model.intermediate_size=8"),
        "model.first_dense_layers",
        "17 dense",
        "0 to 16",
    ),
    (("model.first_dense_layers=1",), "model.intermediate_size", "is missing", "the width"),
    (("model.dispatch=capacity",), "model.capacity_factor", "is missing", "a number above 0"),
    (("model.capacity_factor=1.25",), "model.capacity_factor", "1.25 would have no effect", "null unless"),
    (("model.dispatch=deepspeed", "training.z_loss=0"), "training.balance_loss", "0.01 with", "0"),
    (("model.dispatch=deepspeed", "training.balance_loss=0"), "training.z_loss", "0.001 with", "0"),
    ((*STOCK, "training.balance=bias"), "training.balance", "bias with", "loss"),
    ((*STOCK, "model.norm_topk_prob=true"), "model.norm_topk_prob", "true with", "null"),
    (
        (*STOCK, "parallel=EP2_TP2", "training.seq_length=7"),
        "parallel.tp",
        "2 does not divide the 7 tokens",
        "1, 7",
    ),
    (
        (*STOCK, "parallel.ep=4", "data.validation_sequences=6"),
        "data.validation_sequences",
        "6 would need padding",
        "a multiple of micro_batch × data-parallel size: 4",
    ),
    (
        ("training.global_batch=127", "parallel.ep=2"),
        "training.global_batch",
        "127 is no multiple",
        "a multiple of 2",
    ),
    (("training.micro_batch=3",), "training.global_batch", "(3 × 1)", "a multiple of 3"),
    (("training.min_learning_rate=1",), "training.min_learning_rate", "1 is above", "0 to 0.0003"),
    (("training.schedule_steps=40",), "training.warmup_steps", "50 is more than", "0 to 40"),
    (("output.branch=true",), "output.resume", "auto, but output.branch", "the folder of a run"),
]


@pytest.mark.parametrize(("overrides", "path", "found", "expected"), BROKEN)
def test_broken_rule_is_one_problem(overrides: tuple[str, ...], path: str, found: str, expected: str) -> None:
    with pytest.raises(StrategyError) as error:
        loads(TEXT, overrides)
    (problem,) = error.value.problems
    assert problem.path == path
    assert found in problem.found
    assert expected in problem.expected
    assert problem.fix


def test_every_rule_has_a_broken_example() -> None:
    broken = set()
    for overrides, *_ in BROKEN:
        with pytest.raises(StrategyError) as error:
            loads(TEXT, overrides)
        broken |= {(p.path, p.found) for p in error.value.problems}
    assert len(broken) >= len(RULES)


@pytest.mark.parametrize(
    "overrides",
    [
        ("parallel=EP64_TP2",),
        ("parallel=EP2_TP4",),
        ("parallel=EP64_TP2_PP2",),
        ("parallel=EP64_TP2_DP2",),
        ("parallel.zero_stage=0", "training.precision=fp32"),
        (STAGED, "parallel.rank_order=compact", "parallel.ep=64"),
        # staged expert ranks hold attention whole, so its heads do not bound tp
        (STAGED, "parallel.ep=16", "parallel.tp=8", "model.num_key_value_heads=2"),
        ("model.vocab_size=4097", "parallel=EP2_TP2"),
        ("model.head_dim=128",),
        ("model.num_attention_heads=15", "model.head_dim=64"),
        ("model.dispatch=capacity", "model.capacity_factor=1"),
        STOCK,
        ("training.steps=4",),
        ("model.first_dense_layers=1", "model.intermediate_size=64"),
        ("output.branch=true", "output.resume=runs/other"),
        ("training.seq_length=7", "parallel=EP2_TP2"),
        ("cluster.gpu=cpu", "cluster.hosts=1", "cluster.gpus_per_host=1", "parallel=EP64_TP2"),
    ],
)
def test_legal_strategy_breaks_no_rule(overrides: tuple[str, ...]) -> None:
    assert list(broken_rules(strategy(*overrides))) == []


def test_a_lost_spare_is_counted_in_the_fix() -> None:
    with pytest.raises(StrategyError) as error:
        loads(TEXT, ["cluster.spare_hosts=8", STAGED, "parallel.ep=64", "parallel.tp=2"])
    assert error.value.problems[0].fix.startswith("set cluster.spare_hosts to 7, or")


@pytest.mark.parametrize(
    "overrides",
    [
        ("parallel=EP999999999_TP999999998",),
        ("parallel.dp=1000000000",),
        ("model.num_experts=1000000000", "parallel.ep=999999937"),
        (
            "cluster.hosts=65536",
            "cluster.gpus_per_host=1024",
            "parallel.dp=131072",
            "training.global_batch=131073",
        ),
        ("training.seq_length=1000000000", "training.micro_batch=1000000000", *STOCK, "parallel=EP2_TP2"),
        ("model.num_hidden_layers=1000000000", "parallel.pp=1000000000"),
    ],
)
def test_enormous_numbers_are_judged_at_once(overrides: tuple[str, ...]) -> None:
    start = time.process_time()
    with pytest.raises(StrategyError):
        loads(TEXT, overrides)
    assert time.process_time() - start < 5


def test_a_rule_that_reads_a_faulty_key_yields_nothing() -> None:
    crowded = strategy("parallel=EP64_TP2").model_copy(
        update={"cluster": strategy("cluster.hosts=1").cluster}
    )
    assert [type(p) for p in world_fits_hosts(crowded)] == [Problem]
    view = Partial(crowded, frozenset({("cluster", "hosts")})).as_strategy()
    assert "cluster.hosts" not in {p.path for p in broken_rules(view)}
    assert "parallel" not in {p.path for p in broken_rules(view)}
