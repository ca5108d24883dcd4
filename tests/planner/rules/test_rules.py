"""Each rule on its own: one broken strategy, one Problem at the right key, what is legal in numbers."""

import time

import pytest

from planner import Problem, StrategyError, loads
from planner.errors.catalog import error_catalog
from planner.rules.layout import world_fits_hosts
from planner.rules.partial import PartialStrategy
from planner.rules.registry import RULES, find_broken_rules
from tests.support.examples import TEXT, strategy

STOCK = ("model.dispatch=deepspeed", "training.balance_loss=0", "training.z_loss=0")
STAGED = "parallel.placement=staged"

# overrides of the small strategy, the code, the key that is blamed, facts of what is found, what is expected
BROKEN: list[tuple[tuple[str, ...], str, str, tuple[str, ...], str]] = [
    (
        (
            "parallel=EP8_TP3",
            "model.num_attention_heads=12",
            "model.head_dim=64",
        ),
        "SW202",
        "parallel.tp",
        (),
        "1, 2, 4, 8, 16, 32",
    ),
    (
        ("cluster.links=null", "parallel=EP8"),
        "SW215",
        "cluster.links",
        ("8 ranks",),
        "intra_host, inter_host",
    ),
    (
        ("cluster.gpu=cpu", "training.precision=fp32", "runtime.reduce=every_micro_batch"),
        "SW247",
        "runtime.reduce",
        ("ZeRO 1",),
        "null or once",
    ),
    (
        ("cluster.gpu=cpu", "training.precision=fp8", "runtime.fp8_without_gpu=refuse"),
        "SW265",
        "runtime.fp8_without_gpu",
        ("cpu has no FP8 units",),
        "emulate",
    ),
    (
        (
            "model.dispatch=deepspeed",
            "training.balance_loss=0",
            "training.z_loss=0",
            "runtime.fp8_payload=true",
        ),
        "SW266",
        "runtime.fp8_payload",
        ("DeepSpeed's own",),
        "false",
    ),
    (
        ("runtime.replay_every=10",),
        "SW267",
        "runtime.replay_every",
        ("10", "runtime.deterministic false"),
        "deterministic true",
    ),
    (
        ("runtime.force_routing={kind: hot_expert}",),
        "SW261",
        "runtime.force_routing.share",
        ("hot_expert",),
        "above 0",
    ),
    (
        ("runtime.force_routing={kind: ragged, share: 0.5}",),
        "SW261",
        "runtime.force_routing.share",
        ("0.5",),
        "null",
    ),
    (
        ("runtime.force_routing={kind: balanced, ep: 2}",),
        "SW262",
        "runtime.force_routing.ep",
        ("2", "balanced"),
        "null",
    ),
    (
        ("runtime.force_routing={kind: hot_rank, share: 0.5}",),
        "SW262",
        "runtime.force_routing.kind",
        ("parallel.ep is 1",),
        "2, 4, 8, 16, 32, 64",
    ),
    (
        ("runtime.force_routing={kind: empty_rank, ep: 3}",),
        "SW262",
        "runtime.force_routing.ep",
        ("3", "64"),
        "2, 4, 8, 16, 32, 64",
    ),
    (
        (
            "runtime.force_routing={kind: hot_expert, share: 0.5}",
            "model.num_experts=2",
            "model.num_experts_per_tok=2",
        ),
        "SW263",
        "runtime.force_routing.kind",
        ("1 of 2", "2 each"),
        "more than 2 experts",
    ),
    (
        (*STOCK, "runtime.force_routing={kind: balanced}"),
        "SW264",
        "runtime.force_routing",
        ("DeepSpeed",),
        "none",
    ),
    (
        (
            "model.first_dense_layers=16",
            "model.intermediate_size=64",
            "runtime.force_routing={kind: balanced}",
        ),
        "SW264",
        "runtime.force_routing",
        ("dense",),
        "none",
    ),
    (("training.steps=null",), "SW245", "training.steps", (), "training.tokens"),
    (("training.tokens=13107201",), "SW245", "training.steps", ("13.107201M", "100"), "exactly one"),
    (
        ("training.steps=null", "training.tokens=1000T"),
        "SW246",
        "training.tokens",
        ("1000T", "7,629,394,532 steps"),
        "131,072,000,000,000 tokens",
    ),
    (
        ("data.path=a", "data.mix=[{path: b, weight: 1}]"),
        "SW251",
        "data.mix",
        ("data.path", "data.mix"),
        "one of the two",
    ),
    (("data.mix=[]",), "SW252", "data.mix", ("empty",), "at least one"),
    (
        ("data.mix=[{path: a, weight: 9999.5}, {path: b, weight: 0.5}]",),
        "SW253",
        "data.mix[1].weight",
        ("0.5", "5e-05", "10000"),
        "0.0001",
    ),
    (("parallel.ep=6",), "SW201", "parallel.ep", ("6", "model.num_experts", "64"), "1, 2, 4, 8, 16, 32, 64"),
    (
        (
            "model.num_experts=128",
            "parallel.ep=3",
        ),
        "SW201",
        "parallel.ep",
        (),
        "1, 2, 4, 8, 16, 32, 64, 128",
    ),
    (
        (
            "model.first_dense_layers=16",
            "model.intermediate_size=64",
            "parallel.ep=2",
        ),
        "SW203",
        "parallel.ep",
        (),
        "",
    ),
    (
        (
            "parallel=EP4_TP4",
            "model.first_dense_layers=1",
            "model.intermediate_size=2730",
        ),
        "SW208",
        "parallel.tp",
        ("4", "model.intermediate_size", "2730"),
        "1, 2, 3, 5, 6, 7, 10",
    ),
    (
        (
            "parallel=EP4_TP4",
            "model.num_shared_experts=2",
            "model.moe_intermediate_size=9",
        ),
        "SW208",
        "parallel.tp",
        ("4", "model.num_shared_experts", "18"),
        "1, 2, 3, 6, 9, 18",
    ),
    (
        ("model.norm_topk_prob=true",),
        "SW228",
        "model.norm_topk_prob",
        ("num_experts_per_tok 1",),
        "false or null",
    ),
    (
        (
            STAGED,
            "parallel.ep=8",
            "parallel.tp=8",
            "model.vocab_size=7",
        ),
        "SW207",
        "parallel.tp",
        ("8", "model.vocab_size", "7"),
        "at most 7",
    ),
    (
        (
            "parallel=EP4_TP4_PP2",
            "model.hidden_size=3",
            "model.head_dim=64",
        ),
        "SW207",
        "parallel.tp",
        ("4", "model.hidden_size", "3"),
        "at most 3",
    ),
    (
        (
            "parallel.pp=17",
            "cluster.hosts=32",
        ),
        "SW204",
        "parallel.pp",
        ("17", "16"),
        "at most 16",
    ),
    (
        (
            "parallel.tp=8",
            "parallel.ep=8",
            "model.num_key_value_heads=4",
        ),
        "SW205",
        "parallel.tp",
        ("8", "model.num_key_value_heads", "4"),
        "16 heads and 4 key/value heads: 1, 2, 4",
    ),
    (
        (
            "parallel=EP8_TP8",
            "model.num_attention_heads=12",
            "model.head_dim=64",
        ),
        "SW205",
        "parallel.tp",
        ("8", "model.num_attention_heads", "12"),
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
        "SW206",
        "parallel.tp",
        ("2", "model.hidden_size", "1023"),
        "1, 3, 11, 31, 33, 93, 341, 1023",
    ),
    (("parallel.zero_stage=3",), "SW209", "parallel.zero_stage", ("3",), "0, 1 or 2"),
    (("parallel.zero_stage=4",), "SW209", "parallel.zero_stage", ("4",), "0, 1 or 2"),
    (("parallel.zero_stage=0",), "SW210", "parallel.zero_stage", ("0", "training.precision", "16"), "1 or 2"),
    (
        (
            "parallel.zero_stage=0",
            "training.precision=fp8",
        ),
        "SW210",
        "parallel.zero_stage",
        ("0", "training.precision", "8"),
        "1 or 2",
    ),
    (("parallel.rank_order=compact",), "SW211", "parallel.rank_order", (), ""),
    (
        ("parallel=EP8_PP3", "parallel.layers_per_stage=[8, 8]"),
        "SW216",
        "parallel.layers_per_stage",
        ("2 numbers", "3 stages"),
        "3, one for each stage",
    ),
    (
        ("parallel.pp=2", "parallel.layers_per_stage=[12, 3]"),
        "SW217",
        "parallel.layers_per_stage",
        ("[12, 3]", "15 layers", "16"),
        "add up to 16",
    ),
    (
        ("parallel.pp=2", "runtime.recompute={layers: 9}"),
        "SW219",
        "runtime.recompute",
        ("9 layers", "at most 8"),
        "layer, which is all of them",
    ),
    (
        ("cluster.gpus_per_host=6", "parallel.ep=8", "runtime.all_to_all=hierarchical"),
        "SW220",
        "runtime.all_to_all",
        ("ranks 0 to 7", "6 of them"),
        "or flat",
    ),
    (
        ("parallel.tp=16",),
        "SW218",
        "parallel.tp",
        ("16", "ranks 0 to 15", "8 ranks"),
        "on one host",
    ),
    (
        ("runtime.all_to_all=hierarchical", STAGED, "parallel.ep=8", "parallel.tp=2"),
        "SW220",
        "runtime.all_to_all",
        ("ranks 2 to 9", "6 of them", "2 on another"),
        "on each of its hosts",
    ),
    (("cluster.spare_hosts=16",), "SW212", "cluster.spare_hosts", ("16",), "0 to 15"),
    (("cluster.hosts=[a slots=9, b]",), "SW213", "cluster.hosts", ("9",), "at most 8 slots"),
    (
        (
            "cluster.spare_hosts=8",
            STAGED,
            "parallel.ep=64",
            "parallel.tp=2",
        ),
        "SW214",
        "parallel",
        ("68", "8", "16", "64"),
        "at most 64 ranks",
    ),
    (
        (
            STAGED,
            "parallel.ep=64",
            "parallel.tp=2",
            "parallel.pp=2",
        ),
        "SW214",
        "parallel",
        ("64", "2", "1", "132", "16", "128"),
        "at most 128 ranks",
    ),
    (
        (
            "cluster.gpu=cpu",
            "parallel.dp=200000",
            "training.global_batch=200000",
        ),
        "SW214",
        "parallel",
        ("200,000",),
        "131,072",
    ),
    (("model.num_experts_per_tok=65",), "SW221", "model.num_experts_per_tok", ("65",), "1 to 64"),
    (("model.num_key_value_heads=3",), "SW222", "model.num_key_value_heads", ("3",), "1, 2, 4, 8, 16"),
    (("model.num_attention_heads=15",), "SW223", "model.head_dim", (), ""),
    (("model.head_dim=63",), "SW224", "model.head_dim", ("63",), ""),
    (
        (
            "model.first_dense_layers=17",
            "model.intermediate_size=8",
        ),
        "SW225",
        "model.first_dense_layers",
        ("17",),
        "0 to 16",
    ),
    (("model.first_dense_layers=1",), "SW226", "model.intermediate_size", (), ""),
    (("model.dispatch=capacity",), "SW227", "model.capacity_factor", (), "a number above 0"),
    (("model.capacity_factor=1.25",), "SW227", "model.capacity_factor", ("1.25",), ""),
    (
        (
            "model.dispatch=deepspeed",
            "training.z_loss=0",
        ),
        "SW231",
        "training.balance_loss",
        ("0.01",),
        "0",
    ),
    (
        (
            "model.dispatch=deepspeed",
            "training.balance_loss=0",
        ),
        "SW231",
        "training.z_loss",
        ("0.001",),
        "0",
    ),
    (
        (
            *STOCK,
            "training.balance=bias",
        ),
        "SW231",
        "training.balance",
        (),
        "",
    ),
    (
        (
            *STOCK,
            "model.norm_topk_prob=true",
        ),
        "SW231",
        "model.norm_topk_prob",
        (),
        "",
    ),
    (
        (
            *STOCK,
            "parallel=EP2_TP2",
            "training.seq_length=7",
        ),
        "SW232",
        "parallel.tp",
        ("2", "7"),
        "1, 7",
    ),
    (
        (
            *STOCK,
            "parallel.ep=4",
            "data.validation_sequences=6",
        ),
        "SW233",
        "data.validation_sequences",
        ("6",),
        "a multiple of micro_batch × data-parallel size: 4",
    ),
    (
        ("data.format=chat", "data.path=talk.jsonl"),
        "SW254",
        "data.tokenizer",
        ("null", "chat"),
        "the folder of a tokenizer with a chat template",
    ),
    (
        ("data.format=chat", "data.tokenizer=tok"),
        "SW255",
        "data.path",
        ("null", "chat"),
        "files of records",
    ),
    (
        ("data.format=prompt", "data.tokenizer=tok", "data.path=talk.jsonl", "data.text_field=body"),
        "SW256",
        "data.text_field",
        ("body",),
        "text with data.format prompt",
    ),
    ((*STOCK, "data.packing=documents"), "SW234", "data.packing", ("documents",), "stream"),
    (
        (
            "training.global_batch=127",
            "parallel.ep=2",
        ),
        "SW241",
        "training.global_batch",
        ("127",),
        "a multiple of 2",
    ),
    (("training.micro_batch=3",), "SW241", "training.global_batch", ("3", "1"), "a multiple of 3"),
    (("training.min_learning_rate=1",), "SW242", "training.min_learning_rate", ("1",), "0 to 0.0003"),
    (("training.schedule_steps=40",), "SW243", "training.warmup_steps", ("50",), "0 to 40"),
    (("output.branch=true",), "SW244", "output.resume", (), ""),
]


@pytest.mark.parametrize(("overrides", "code", "path", "facts", "expected"), BROKEN)
def test_broken_rule_is_one_problem(
    overrides: tuple[str, ...], code: str, path: str, facts: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(StrategyError) as error:
        loads(TEXT, overrides)
    (problem,) = error.value.problems
    assert (problem.code, problem.path) == (code, path)
    assert [fact for fact in facts if fact not in problem.found] == []
    assert expected in problem.expected
    assert problem.fix


def test_every_rule_has_a_broken_example() -> None:
    """No two rules share both the code and the key."""
    assert len({(code, path) for _, code, path, *_ in BROKEN}) == len(RULES)


@pytest.mark.parametrize("code", sorted({code for _, code, *_ in BROKEN}))
def test_the_example_in_the_catalog_is_a_printed_message(code: str) -> None:
    printed = []
    for overrides, broken, *_ in BROKEN:
        if broken == code:
            with pytest.raises(StrategyError) as error:
                loads(TEXT, overrides, file="big.yaml")
            printed.append(str(error.value))
    assert error_catalog()[code].example in printed


@pytest.mark.parametrize(
    "overrides",
    [
        ("parallel=EP64_TP2",),
        ("parallel=EP2_TP4",),
        ("parallel=EP64_TP2_PP2",),
        ("parallel=EP64_TP2_PP2", "parallel.layers_per_stage=[13, 3]"),
        (STAGED, "parallel.ep=8", "parallel.pp=3", "parallel.layers_per_stage=[1, 14, 1]"),
        ("parallel.layers_per_stage=[16]",),
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
    assert list(find_broken_rules(strategy(*overrides))) == []


@pytest.mark.parametrize(
    ("overrides", "codes", "fix"),
    [
        (("parallel.pp=4", "parallel.layers_per_stage=[8, 9]"), ["SW216", "SW217"], "[4, 4, 4, 4]"),
        (("parallel.pp=3", "parallel.layers_per_stage=[]"), ["SW216", "SW217"], "[6, 5, 5]"),
        (("parallel.pp=17", "parallel.layers_per_stage=[16]"), ["SW204", "SW216"], "null"),
        (("parallel.layers_per_stage=[0, 16]", "parallel.pp=2"), ["SW114"], ""),
        (("parallel.layers_per_stage=16",), ["SW113"], ""),
    ],
)
def test_all_that_is_wrong_with_a_cut_is_said_at_once(
    overrides: tuple[str, ...], codes: list[str], fix: str
) -> None:
    with pytest.raises(StrategyError) as error:
        loads(TEXT, overrides)
    assert [problem.code for problem in error.value.problems] == codes
    assert fix in error.value.problems[-1].fix


@pytest.mark.parametrize(
    ("hosts", "degrees", "ranks"),
    [
        ("cluster.hosts=[a slots=7, b slots=7]", {"ep": 8, "tp": 2}, "6 to 7"),
        ("cluster.hosts=[a slots=6, b slots=8]", {"ep": 2, "tp": 4, "dp": 3}, None),  # 8 ranks on b, 4 on a
        ("cluster.gpus_per_host=6", {"ep": 2, "tp": 4, "dp": 4}, "4 to 7"),
        ("cluster.gpus_per_host=6", {"ep": 2, "tp": 4}, None),
        ("cluster.hosts=20", {"placement": "staged", "ep": 64, "tp": 16}, "0 to 15"),
        # 0-1, 2-4, 5-6 on 0-5, 6-11
        ("cluster.gpus_per_host=6", {"placement": "staged", "tp": 2, "pp": 3}, "5 to 6"),
        ("cluster.gpus_per_host=7", {"placement": "staged", "tp": 2, "pp": 3}, None),
        # experts 0-1, then 2-3 and 4-5 on 0-2, 3-5
        (
            "cluster.gpus_per_host=3",
            {"placement": "staged", "tp": 2, "pp": 2, "rank_order": "compact"},
            "2 to 3",
        ),
        ("cluster={hosts: [a, b], gpu: cpu}", {"tp": 16}, "0 to 15"),
        ("cluster={hosts: 1, gpu: cpu}", {"tp": 16}, None),
    ],
)
def test_tp_groups_are_on_one_host(hosts: str, degrees: dict[str, object], ranks: str | None) -> None:
    """Hosts get consecutive ranks, the fullest host first."""
    cluster = (
        [hosts]
        if "cpu" not in hosts
        else [
            "training.precision=fp32",
            hosts.replace("}", ", gpus_per_host: 8, links: {intra_host: NVLink4, inter_host: NDR}}"),
        ]
    )
    cluster.append("training.global_batch=192")
    written = [f"parallel.{key}={value}" for key, value in degrees.items()]
    if ranks is None:
        loads(TEXT, [*cluster, *written])
        return
    with pytest.raises(StrategyError) as error:
        loads(TEXT, [*cluster, *written])
    (problem,) = error.value.problems
    assert problem.code == "SW218"
    assert f"ranks {ranks} would be on several hosts" in problem.found
    # what it says to write is legal
    tp = problem.fix.removeprefix("set parallel.tp to ")
    others = [part for part in written if not part.startswith("parallel.tp")]
    assert loads(TEXT, [*cluster, *others, f"parallel.tp={tp}"]).parallel.tp < degrees["tp"]


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
    view = PartialStrategy(crowded, frozenset({("cluster", "hosts")})).as_strategy()
    assert "cluster.hosts" not in {p.path for p in find_broken_rules(view)}
    assert "parallel" not in {p.path for p in find_broken_rules(view)}


@pytest.mark.parametrize(("hidden", "head_dim"), [(1, 2), (1023, 64)])
def test_an_odd_width_needs_a_head_dim_of_its_own(hidden: int, head_dim: int) -> None:
    """No number of heads that divides it leaves pairs of dimensions."""
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, [f"model.hidden_size={hidden}"])
    (problem,) = caught.value.problems
    assert (problem.code, problem.fix) == ("SW223", f"set model.head_dim to {head_dim}")
    assert loads(TEXT, [f"model.hidden_size={hidden}", f"model.head_dim={head_dim}"])


def test_the_fix_for_path_and_mix_keeps_both() -> None:
    with pytest.raises(StrategyError) as caught:
        loads(TEXT, ("data.path=[c, d]", "data.mix=[{path: a, weight: 3}, {path: b, weight: 1}]"))
    (problem,) = caught.value.problems
    mix = "data.mix=[{path: a, weight: 3}, {path: b, weight: 1}, {path: [c, d], weight: 2}]"
    assert f"'{mix}'" in problem.fix
    assert loads(TEXT, ("data.path=null", mix)).data.mix is not None
