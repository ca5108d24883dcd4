"""Every mistake at once, with its line; what is legal; what to change."""

import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import Problem, Strategy, StrategyError, build_plan, load, loads, locate_problems
from planner.rules.not_implemented import find_unimplemented
from planner.strategy.field_types import AS_TEXT
from tests.support.examples import TEXT, strategy

# Line 5: a size without a unit. 9: a misspelt key. 14: a rule. 18: text for a number. 19: below zero.
GPU = "gpu: {memory: 64 GB, memory_bandwidth: 2 TB/s, peak: {bf16: 400 TFLOPS}}"
FIVE = """\
name: five
cluster:
  hosts: 2
  gpus_per_host: 8
  gpu: {memory: 64, memory_bandwidth: 2 TB/s, peak: {bf16: 400 TFLOPS}}
  links: {intra_host: 100 Gbps, inter_host: 100 Gbps}
model:
  num_hidden_layers: 16
  num_expert: 64
  hidden_size: 1024
  moe_intermediate_size: 2048
  num_attention_heads: 16
  vocab_size: 4096
parallel: {ep: 8, zero_stage: 3}
training:
  seq_length: 1024
  global_batch: 128
  steps: no
  learning_rate: -3e-4
"""


def problems_of(text: str, *overrides: str, file: str | None = "f.yaml") -> tuple[Problem, ...]:
    with pytest.raises(StrategyError) as error:
        loads(text, overrides, file=file)
    return error.value.problems


def only(text: str, *overrides: str) -> Problem:
    problems = problems_of(text, *overrides)
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


def replaced(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


def test_five_mistakes_are_five_problems_with_their_lines() -> None:
    assert [(problem.line, problem.path) for problem in problems_of(FIVE)] == [
        (5, "cluster.gpu.memory"),
        (9, "model.num_expert"),
        (14, "parallel.zero_stage"),
        (18, "training.steps"),
        (19, "training.learning_rate"),
    ]


def test_problem_prints_place_found_legal_and_fix() -> None:
    text = replaced("training:", "parallel: {ep: 6}\ntraining:").replace("128", "96")
    assert str(only(text)) == (
        "f.yaml:14: SW201 parallel.ep: 6 does not divide model.num_experts (64)\n"
        "  expected: a divisor of 64: 1, 2, 4, 8, 16, 32, 64\n"
        "  fix:      set parallel.ep to 8"
    )


def test_a_faulty_key_is_left_out_and_its_section_still_judged() -> None:
    text = replaced("vocab_size: 4096", "vocab_size: many\n  num_experts_per_tok: 65\n  head_dim: 63")
    assert [(p.line, p.path) for p in problems_of(text)] == [
        (13, "model.vocab_size"),
        (14, "model.num_experts_per_tok"),
        (15, "model.head_dim"),
    ]


def test_a_rule_stays_silent_when_its_own_input_is_faulty() -> None:
    text = replaced("num_experts: 64", "num_experts: many\n  num_experts_per_tok: 65")
    assert only(text).path == "model.num_experts"


def test_a_misspelt_key_leaves_the_key_that_is_written_to_its_rules() -> None:
    """num_experts stands in the file as 64, whatever was meant by the override."""
    experts, ep = problems_of(TEXT, "parallel.ep=3", "model.num_expert=4")
    assert (ep.path, ep.override) == ("parallel.ep", "parallel.ep=3")
    assert ep.code == "SW201"
    assert "model.num_experts (64)" in ep.found
    assert (experts.code, experts.path) == ("SW111", "model.num_expert")
    assert "num_experts" in experts.found


def test_a_misspelt_key_leaves_the_degrees_of_a_short_name_to_their_rules() -> None:
    text = replaced("steps: 100", "steps: 100\nparallel: EP3_TP1\nep: 4")
    assert [p.path for p in problems_of(text)] == ["parallel.ep", "ep"]


def test_a_misspelt_key_silences_rules_on_the_default_that_was_not_meant() -> None:
    """ZeRO 0 is legal in fp32, which is what was meant, and not in bf16, the default."""
    assert only(TEXT, "training.presicion=fp32", "parallel.zero_stage=0").path == "training.presicion"


def test_what_follows_from_a_wrong_degree_is_not_blamed() -> None:
    assert only(TEXT, "parallel.ep=6").path == "parallel.ep"


@pytest.mark.parametrize(
    ("old", "new", "path", "guess"),
    [
        ("num_experts:", "num_expert:", "model.num_expert", "num_experts"),
        (
            "steps: 100",
            "steps: 100\n  learning_rte: 1e-3",
            "training.learning_rte",
            "learning_rate",
        ),
        ("steps: 100", "steps: 100\nep: 4", "ep", "parallel.ep"),
        ("steps: 100", "steps: 100\n  lr: 1e-3", "training.lr", "learning_rate"),
        ("num_experts: 64", "num_local_experts: 64", "model.num_local_experts", "num_experts"),
        (
            "steps: 100",
            "steps: 100\nparallel: {decoder_last_pipeline_num_layers: 2}",
            "parallel.decoder_last_pipeline_num_layers",
            "layers_per_stage",
        ),
        ("steps: 100", "steps: 100\n  zzz: 1", "training.zzz", ""),
    ],
)
def test_unknown_key_is_one_problem_with_a_guess(old: str, new: str, path: str, guess: str) -> None:
    problem = only(replaced(old, new))
    assert (problem.code, problem.path) == ("SW111", path)
    assert guess in problem.found
    assert guess in problem.fix


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("training.dropout=0.1", "SW291"),
        ("model.router_jitter_noise=0.1", "SW291"),
        ("parallel.sequence_parallel=2", "SW292"),
        ("parallel.cp=2", "SW292"),
        ("parallel.expert_tensor_parallel=2", "SW292"),
        ("model.kv_lora_rank=512", "SW293"),
        ("model.sliding_window=512", "SW293"),
        ("training.loss_scale=2", "SW294"),
        ("training.gradient_accumulation_steps=4", "SW295"),
    ],
)
def test_what_is_refused_on_purpose_has_a_code_of_its_own(override: str, code: str) -> None:
    problem = only(TEXT, override)
    assert (problem.code, problem.path) == (code, override.partition("=")[0])


@pytest.mark.parametrize(
    ("old", "new", "path", "code", "fact"),
    [
        ("64 GB", "64", "cluster.gpu.memory", "SW116", ""),
        ("64 GB", "64 Gbps", "cluster.gpu.memory", "SW116", "bytes/s"),
        ("64 GB", "-64 GB", "cluster.gpu.memory", "SW114", ""),
        ("64 GB", "0 GB", "cluster.gpu.memory", "SW114", ""),
        ("intra_host: 100 Gbps", "intra_host: 100 GB", "cluster.links.intra_host", "SW116", "bytes/s"),
        ("hosts: 16", "hosts: true", "cluster.hosts", "SW131", ""),
        ("hosts: 16", "hosts: 0", "cluster.hosts", "SW133", "0"),
        ("hosts: 16", "hosts: []", "cluster.hosts", "SW133", "0"),
        ("hosts: 16", "hosts: [a, A]", "cluster.hosts", "SW132", ""),
        ("hosts: 16", "hosts: [a, root@a]", "cluster.hosts", "SW132", ""),
        ("hosts: 16", "hosts: [a, 1]", "cluster.hosts", "SW131", "1"),
        ("hosts: 16", "hosts: [a;rm]", "cluster.hosts", "SW131", ""),
        ("hosts: 16", "hosts: ['höst']", "cluster.hosts", "SW131", ""),
        ("hosts: 16", "hosts: ['a:22']", "cluster.hosts", "SW131", ""),
        (GPU, "gpu: h1000", "cluster.gpu", "SW136", "'h1000'"),
        (
            GPU,
            "gpu: 3",
            "cluster.gpu",
            "SW136",
            "",
        ),
        ("name: small", "name: ../up", "name", "SW117", "'../up'"),
        ("name: small", "name: a b", "name", "SW117", "'a b'"),
        ("name: small", "name: .hidden", "name", "SW117", "'.hidden'"),
        ("name: small", "name: 7", "name", "SW113", "7"),
        ("steps: 100", "steps: true", "training.steps", "SW113", ""),
        ("steps: 100", "steps: 1.5", "training.steps", "SW113", ""),
        ("steps: 100", "steps: 0", "training.steps", "SW114", ""),
        ("steps: 100", "steps: 99999999999999999999", "training.steps", "SW114", ""),
        ("steps: 100", "steps: '100'", "training.steps", "SW113", "'100'"),
        ("steps: 100", "steps: .inf", "training.steps", "SW113", ""),
        ("steps: 100", "steps: 100\n  z_loss: .nan", "training.z_loss", "SW113", ""),
        ("steps: 100", "steps: 100\n  z_loss: -1", "training.z_loss", "SW114", ""),
        ("steps: 100", "steps: 100\n  learning_rate: 1e999", "training.learning_rate", "SW113", ""),
        ("steps: 100", "steps: 100\n  precision: fp16", "training.precision", "SW115", ""),
        ("steps: 100", "steps: 100\n  optimizer: {betas: [0.9]}", "training.optimizer.betas", "SW113", "1"),
        (
            "steps: 100",
            "steps: 100\n  optimizer: {betas: [0.9, 1]}",
            "training.optimizer.betas[1]",
            "SW114",
            "",
        ),
        ("steps: 100", "steps: 100\nruntime: {deterministic: no}", "runtime.deterministic", "SW113", "'no'"),
        ("steps: 100", "steps: 100\nruntime: 3", "runtime", "SW113", ""),
        ("steps: 100", "steps: 100\ndata: {path: ['']}", "data.path", "SW117", "empty"),
        ("steps: 100", "steps: 100\ndata: {path: [a, 1]}", "data.path", "SW113", "1 (a number)"),
        ("steps: 100", "steps: 100\ndata: {mix: 3}", "data.mix", "SW113", "3 (a number)"),
        ("steps: 100", "steps: 100\ndata: {mix: [a]}", "data.mix[0]", "SW113", "'a'"),
        ("steps: 100", "steps: 100\ndata: {mix: [{path: a}]}", "data.mix[0].weight", "SW110", ""),
        (
            "steps: 100",
            "steps: 100\ndata: {mix: [{path: '', weight: 1}]}",
            "data.mix[0].path",
            "SW117",
            "empty",
        ),
        ("steps: 100", "steps: 100\ndata: {text_field: ''}", "data.text_field", "SW113", ""),
        ("steps: 100", "steps: 100\noutput: {keep_last: 0}", "output.keep_last", "SW114", ""),
        ("steps: 100", "steps: 100\nlaunch: {environment: {A-B: x}}", "launch.environment.A-B", "SW117", ""),
        ("steps: 100", "steps: 100\nlaunch: {environment: {A: [x]}}", "launch.environment.A", "SW113", ""),
        ("steps: 100", "steps: 100\nparallel: EP4_XP2", "parallel", "SW137", "'EP4_XP2'"),
        ("steps: 100", "steps: 100\nparallel: EP4_EP2", "parallel", "SW137", "'EP4_EP2'"),
        ("steps: 100", "steps: 100\nclaims: 3", "claims", "SW113", ""),
        (
            "steps: 100",
            "steps: 100\nclaims: [{quantity: forward_latency, value: 3, where: x}]",
            "claims[0].value",
            "SW116",
            "3",
        ),
        (
            "steps: 100",
            "steps: 100\nclaims: [{quantity: forward_latncy, value: 3 ms, where: x}]",
            "claims[0].quantity",
            "SW115",
            "forward_latency",
        ),
    ],
)
def test_wrong_value_is_one_problem(old: str, new: str, path: str, code: str, fact: str) -> None:
    problem = only(replaced(old, new))
    assert (problem.code, problem.path) == (code, path)
    assert fact in problem.found
    assert problem.line == TEXT[: TEXT.index(old)].count("\n") + 1 + new.count("\n") or "\n" not in new
    assert problem.expected
    assert problem.fix


def test_switch_written_as_no_says_how_to_write_it() -> None:
    problem = only(TEXT, "runtime.deterministic=no")
    assert problem.fix == "write runtime.deterministic=false: YAML 1.2 reads no as text"


@pytest.mark.parametrize(
    ("written", "path", "code"),
    [
        ("13", "parallel.layers_per_stage", "SW113"),
        ("[13, 3.5]", "parallel.layers_per_stage[1]", "SW113"),
        ("[13, null]", "parallel.layers_per_stage[1]", "SW113"),
        ("[16, 0]", "parallel.layers_per_stage[1]", "SW114"),
    ],
)
def test_a_wrong_cut_of_the_layers_says_what_a_list_holds(written: str, path: str, code: str) -> None:
    problem = only(TEXT, "parallel.pp=2", f"parallel.layers_per_stage={written}")
    assert (problem.path, problem.code) == (path, code)
    assert problem.expected == "a list (each an integer, at least 1), or null"
    assert "remove 1" not in problem.fix
    if written in ("[13, null]", "[16, 0]"):  # null is the default of the list, not legal as an item of it
        assert problem.fix.startswith("write parallel.layers_per_stage: null")


def test_missing_section_and_key_are_named() -> None:
    without = TEXT[: TEXT.index("training:")].replace("  vocab_size: 4096\n", "")
    assert [(p.path, p.code) for p in problems_of(without)] == [
        ("training", "SW110"),
        ("model.vocab_size", "SW110"),
    ]


def test_defaults_are_those_of_the_documentation() -> None:
    loaded = strategy()
    assert loaded.parallel.short_name == "EP1_TP1_PP1_DP1"
    assert loaded.parallel.placement == "colocated"
    assert loaded.training.precision == "bf16"
    assert (loaded.model.num_key_value_heads, loaded.model.head_dim) == (16, 64)
    assert loaded.model.aggregation == "none"
    assert (loaded.training.warmup_steps, loaded.training.z_loss) == (50, 0.001)
    assert loaded.launch.timeout == 600.0
    assert set(loaded.limits.model_dump().values()) == {None}
    assert loaded.claims == ()


def test_null_heads_follow_like_absent_ones() -> None:
    assert strategy("model.head_dim=null", "model.num_key_value_heads=null") == strategy()


def test_name_defaults_to_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.removeprefix("name: small\n"))
    assert load(path).name == "mine"


# Files that are no strategy


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "SW102"),
        (b"# nothing\n", "SW102"),
        (b"\xff\xfe\x00", "SW101"),
        (b"just text", "SW103"),
        (b"[1, 2]", "SW103"),
        (b"a: [", "SW102"),
        (b"x" * (2**20 + 1), "SW101"),
    ],
)
def test_other_file_is_one_problem(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(StrategyError) as error:
        load(path)
    (problem,) = error.value.problems
    assert (problem.code, problem.file) == (code, str(path))


@pytest.mark.parametrize(
    ("name", "words"), [("none.yaml", "no such file"), ("", "a directory"), ("a\0b", "")]
)
def test_unreadable_path_is_one_problem(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(StrategyError) as error:
        load(f"{tmp_path}/{name}")
    (problem,) = error.value.problems
    assert problem.code == "SW101"
    assert words in problem.found


def test_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert load(path) == strategy()


def test_later_problems_get_the_line_or_override_of_their_key(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(TEXT + "  optimizer: {moments: bf16}\n")
    loaded = load(path, ["runtime.overlap_all_to_all=true"])
    placed = locate_problems(find_unimplemented(loaded), loaded)
    assert [(p.path, p.line, p.override) for p in placed] == [
        ("runtime.overlap_all_to_all", None, "runtime.overlap_all_to_all=true"),
        ("training.optimizer.moments", 18, None),
    ]


def test_where_a_strategy_was_written_is_not_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(f"# a comment moves every line\n{TEXT}")
    loaded = load(path)
    assert (loaded.sources.file, loads(TEXT).sources.file) == (str(path), None)
    assert loaded == loads(TEXT)
    assert hash(loaded.training) == hash(loads(TEXT).training)
    assert loaded.model_dump() == loads(TEXT).model_dump()
    assert build_plan(loaded).fingerprint == build_plan(loads(TEXT)).fingerprint


def test_a_copy_still_knows_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(TEXT)
    copy = pickle.loads(pickle.dumps(load(path).model_copy(update={"name": "copy"})))
    (placed,) = locate_problems(
        [Problem(code="SW201", path="training.steps", found="", expected="", fix="")], copy
    )
    assert (placed.file, placed.line) == (str(path), TEXT[: TEXT.index("  steps:")].count("\n") + 1)


def test_a_strategy_made_in_code_has_no_lines() -> None:
    text = loads(TEXT).model_dump(context=AS_TEXT)
    made = Strategy.model_validate({**text, "claims": ()}, context=AS_TEXT)
    problem = Problem(code="SW201", path="training.steps", found="", expected="", fix="")
    assert locate_problems([problem], made) == (problem,)


def test_the_model_of_another_folder_is_the_place_of_its_keys(tmp_path: Path) -> None:
    config = {"model_type": "mixtral", "num_local_experts": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = loads(TEXT, model_from=str(tmp_path))
    (placed,) = locate_problems(
        [Problem(code="SW201", path="model.num_experts", found="", expected="", fix="")], loaded
    )
    assert (placed.file, placed.path) == (str(tmp_path / "config.json"), "num_local_experts")


# Overrides


def test_overrides_are_read_like_the_file() -> None:
    loaded = strategy("parallel.ep=2", "training.steps=4", "name=try1", "training.learning_rate=3e-4")
    assert (loaded.parallel.ep, loaded.training.steps, loaded.name) == (2, 4, "try1")
    assert strategy("training.optimizer.betas=[0.8, 0.9]").training.optimizer.betas == (0.8, 0.9)
    assert strategy("cluster.gpu.memory=1 GB").cluster.gpu.memory == 10**9
    assert strategy("limits.memory_max=80 GB").limits.memory_max == 80 * 10**9
    assert strategy("data.path=a=b").data.path == "a=b"


def test_override_of_a_degree_opens_the_short_name() -> None:
    parallel = strategy("parallel=EP64_TP2_DP2", "parallel.zero_stage=2").parallel
    assert (parallel.short_name, parallel.zero_stage) == ("EP64_TP2_PP1_DP2", 2)


def test_override_repairs_what_the_file_has_wrong() -> None:
    assert loads(replaced("steps: 100", "steps: wrong"), ["training.steps=7"]).training.steps == 7


def test_override_reaches_only_its_own_place() -> None:
    text = replaced(
        "  links: {intra_host: 100 Gbps, inter_host: 100 Gbps}",
        "  links: &l {intra_host: 1 Gbps, inter_host: 1 Gbps}",
    )
    loaded = loads(text, ["cluster.links.inter_host=2 Gbps"])
    assert (loaded.cluster.links.intra_host, loaded.cluster.links.inter_host) == (1.25e8, 2.5e8)


def test_problem_of_an_override_points_at_its_text() -> None:
    problem = only(TEXT, "parallel.ep=7")
    assert (problem.override, problem.line, problem.file) == ("parallel.ep=7", None, None)
    assert str(problem).startswith("command line: parallel.ep=7: SW201 7 does not divide")


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("parallel.ep", "SW121"),
        ("=3", "SW121"),
        ("a..b=3", "SW121"),
        ("parallel.zero_stag=1", "SW111"),
        ("training.steps.x=3", "SW124"),
        ("claims[0].value=3 ms", "SW122"),
        ("claims.0.value=3 ms", "SW122"),
        ("parallel.ep=[", "SW102"),
        ("training.steps=", "SW117"),
        ("model.num_key_value_heads=", "SW117"),
        ("limits.memory_max= ", "SW117"),
        ("data.mix=", "SW117"),
        ("data.path=", "SW117"),
        ('data.path=""', "SW117"),
        ("data.tokenizer=", "SW117"),
        ("nothing.at.all=3", "SW111"),
    ],
)
def test_wrong_override_is_one_problem(override: str, code: str) -> None:
    problem = only(TEXT, override)
    assert (problem.code, problem.override) == (code, override)


@pytest.mark.parametrize(
    ("written", "override", "fix"),
    [
        (TEXT, "cluster.hosts.hostfile=my hosts", "write 'cluster.hosts={hostfile: my hosts}'"),
        (
            re.sub("gpu: {.*}", "gpu: H100", TEXT),
            "cluster.gpu.memory=90 GB",
            "write 'cluster.gpu={name: H100, memory: 90 GB}'",
        ),
        (
            TEXT.replace("name: small", "name: small\nruntime: {recompute: layer}"),
            "runtime.recompute.layers=2",
            "write 'runtime.recompute={layers: 2}'",
        ),
    ],
)
def test_a_key_inside_one_value_is_told_as_the_mapping_it_needs(
    written: str, override: str, fix: str
) -> None:
    problem = only(written, override)
    assert (problem.code, problem.fix) == ("SW124", fix)


def test_key_overridden_twice_is_a_problem() -> None:
    assert only(TEXT, "parallel.ep=2", "parallel.ep=4").code == "SW123"


def test_fault_in_a_merged_mapping_points_at_its_line() -> None:
    text = "base: &b {seq_length: 0}\n" + TEXT.replace("  seq_length: 1024\n", "  <<: *b\n")
    assert {(p.path, p.line) for p in problems_of(text)} == {("base", 1), ("training.seq_length", 1)}


# Whatever is written: a Strategy or Problems

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["EP4_TP2", "64 GB", "auto"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_value_at_any_key_is_a_strategy_or_problems(data: st.DataObject) -> None:
    from planner.loading.json_schema import list_paths

    path = data.draw(st.sampled_from(list_paths()))
    value = data.draw(_values)
    try:
        loads(TEXT, [f"{path}={json.dumps(value)}"])
    except StrategyError as error:
        printed = str(error)
        assert printed.count("expected:") == len(error.problems)  # noqa: PT017


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab:-{}[]&*!|>'\"#%@`,?\n\t 01.e~<=")), max_size=60))
def test_any_text_is_a_strategy_or_problems(text: str) -> None:
    with pytest.raises(StrategyError):
        loads(text)


def test_too_large_a_value_names_the_bound_that_it_broke() -> None:
    assert "at most 1,000,000,000" in only(TEXT, "training.steps=1000000007").expected
    assert "at most" not in only(TEXT, "training.steps=0").expected
