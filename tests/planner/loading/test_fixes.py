"""Every fix, followed word for word: the next answer has nothing at that place, and means the same."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner import Problem, StrategyError, loads
from planner.errors.catalog import error_catalog
from planner.loading.foreign_names import find_foreign, foreign_names
from planner.loading.json_schema import list_paths
from planner.loading.trial import is_legal
from planner.loading.value_examples import example_of
from planner.yaml12 import Document
from tests.support.examples import TEXT
from tests.support.fixes import NotMechanicalError, Written, apply_fix, settle

BASES = {"small": TEXT, **{path.stem: path.read_text() for path in sorted(Path("ds_configs").glob("*.yaml"))}}
LIMIT_S = 10.0  # an answer; usually milliseconds

# Provokes the code, where the catalog's own example needs another base.
PROVOKING = {
    "SW203": ["model.first_dense_layers=16", "model.intermediate_size=64", "parallel.ep=2"],
    "SW206": ["model.aggregation=linear", "model.hidden_size=1022", "model.head_dim=64", "parallel.tp=4"],
    "SW207": ["model.vocab_size=3", "parallel.tp=4"],
    "SW208": ["model.num_shared_experts=1", "model.moe_intermediate_size=2050", "parallel.tp=4"],
    "SW214": ["parallel.placement=staged", "parallel.ep=64", "parallel.dp=4"],
    "SW221": ["model.num_experts_per_tok=65"],
    "SW219": ["runtime.recompute={layers: 17}"],
    "SW223": ["model.num_attention_heads=15"],
    "SW231": ["model.dispatch=deepspeed"],
    "SW241": ["training.global_batch=127", "parallel.dp=2"],
    "SW243": ["training.schedule_steps=40", "training.warmup_steps=50"],
    "SW245": ["training.tokens=1B"],
    "SW246": ["training.tokens=1000T", "training.steps=null"],
}


@pytest.mark.parametrize(
    "code", [code for code in error_catalog() if code[2] in "12" and code not in ("SW254", "SW255", "SW256")]
)
def test_the_fix_of_every_example_leads_to_a_strategy(code: str) -> None:
    """Of the codes whose example in the catalog is an override, or that an override provokes."""
    example = re.match(r"command line: (.+?): SW", error_catalog()[code].example)
    tried = [PROVOKING[code]] if code in PROVOKING else [[example.group(1)]] if example else []
    for text in BASES.values():
        for overrides in tried:
            written = Written.of(text, *overrides)
            if any(problem.code == code for problem in written.problems()):
                assert settle(written)
                return
    assert code not in PROVOKING, "it was not provoked"


@pytest.mark.parametrize("path", list_paths())
def test_every_example_of_a_key_is_legal(path: str) -> None:
    assert is_legal(path.split("."), example_of(path.split(".")))


# Whatever is written: an answer within the limit, and fixes that lead on

_WORDS = (
    *("auto", "true", "4", "64 GB", "-1 GB", "10 GBps", "1k", "bf16", "bfloat16", "EP4_TP2", "full", "H100"),
    *("NDR", "", "a b", "../x", "node[1-2]", "é", "95%", "10 min", "1T", "off", "x" * 200),
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.sampled_from([0.5, -1e-3, 1e9, 1e30, 4096, 95]),
    st.sampled_from(_WORDS),
    st.text(max_size=5),
)
_VALUES = st.one_of(
    _SCALARS,
    st.lists(_SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["a", "enabled", "stage", "lr", "hostfile"]), _SCALARS, max_size=2),
)
_KEYS = st.sampled_from(
    [path for path in list_paths() if not path.startswith("claims")]
    + [f"{section}{name}" for name in foreign_names() for section in ("", "training.", "parallel.")]
    + [f"{path}s" for path in list_paths()]
)
_FAULTS = st.lists(st.tuples(_KEYS, _VALUES), min_size=1, max_size=3, unique_by=lambda pair: pair[0])
_LINE = r"[a-z]{1,3}[0-9]?(:[0-9]{1,4}|\[[0-9]-[0-9]\])?( (slots|gpus|max_slots)=[0-9,-]{1,3})?"
_SHIPPED_LINES = ("n0 slots=4", "n1:4", "node[1-3] slots=2", "n2", "# x", "", "[all]", "n3 slots=0")
_SHIPPED_LINES += ("rank 0=n0 slot=0", "10.0.0.1 n5 n5.local", "n6 4 n7 2", "n8;n9", "n4 slots=x", "n[08-19]")
_LINES = st.lists(
    st.one_of(
        st.sampled_from(_SHIPPED_LINES),
        st.from_regex(_LINE, fullmatch=True),
        st.text(alphabet="ab0:=[]{},-# .*()@/é", max_size=12),
    ),
    max_size=5,
)
_INNER = st.sampled_from(["stage", "params", "type", "enabled", "lr", "x"])
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_INNER, inner, max_size=3),
    max_leaves=6,
)
_CONFIG_KEYS = st.sampled_from(
    (
        *("model_type", "hidden_size", "num_local_experts", "rope_parameters", "rope_scaling", "head_dim"),
        *("train_batch_size", "zero_optimization", "optimizer", "scheduler", "bf16", "fp16", "vocab_size"),
        *("gradient_accumulation_steps", "num_hidden_layers", "layer_types", "sliding_window", "x"),
        *("steps_per_print", "mlp_only_layers"),
    )
)
_CONFIGS = st.dictionaries(_CONFIG_KEYS, _JSON, max_size=8)


def answer(written: Written) -> tuple[Problem, ...]:
    """The Problems, complete, within the limit."""
    start = time.monotonic()
    problems = written.problems()
    assert time.monotonic() - start < LIMIT_S
    assert all(problem.found and problem.expected and problem.fix for problem in problems)
    assert all("\n" not in problem.fix for problem in problems)
    return problems


def check_strategy(faults: list[tuple[str, Any]], *, in_file: bool) -> None:
    """Each fix of the answer, fed back alone, leaves nothing at its place."""
    written = Written.of(TEXT)
    overrides = []
    for key, value in faults:
        if not in_file:
            overrides.append(f"{key}={json.dumps(value)}")
            continue
        place: Any = written.data
        *before, last = key.split(".")
        for name in before:
            place = place.setdefault(name, {}) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                return
        place[last] = value
    written = Written(written.data, tuple(overrides))
    for problem in answer(written)[:3]:
        try:
            mended, keys = apply_fix(written, problem)
        except NotMechanicalError:
            continue
        check_meaning(problem, faults, mended, keys)
        after = answer(mended)
        # A value of the right form that a rule then refuses was a second mistake, with a fix of its own.
        places = {problem.path, *keys}
        # One override below another that is wrong (SW12x) waits for that one's fix.
        same = [
            a
            for a in after
            if a.path in places and a.code[:3] == problem.code[:3] and not a.code.startswith("SW12")
        ]
        assert not same, f"{problem}\nthen\n{same[0]}"


def check_meaning(
    problem: Problem, faults: list[tuple[str, Any]], mended: Written, keys: tuple[str, ...]
) -> None:
    """A key of another name keeps its value; a number stays on its scale, unless an example is offered."""
    if problem.code[2] != "1":
        return  # a rule relates several keys: its fix changes a number on purpose
    foreign = find_foreign((problem.path or "").split("."))
    if foreign is not None and foreign.note:
        return  # a conversion, which test_foreign_names.py holds to the programs' own definitions
    values = [value for key, value in faults if key == problem.path]
    if not values or isinstance(values[0], bool) or not isinstance(values[0], (int, float)) or len(keys) != 1:
        return
    (value,) = values
    found: Any = mended.data
    for name in keys[0].split("."):
        found = found.get(name) if isinstance(found, dict) else None
    for override in mended.overrides:
        name, _, text = override.partition("=")
        if name == keys[0]:
            root = Document(text, None).root
            found = None if root is None else root.plain()
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return
    offers = r"another|default|the largest|is meant|%|nearest|×|supported|fp32 only|keep_every|follows|of "
    if not re.search(offers, problem.fix) and not (found == 0 and abs(value) < 1):
        assert found in (value, -value, round(value)), f"{value} became {found}\n{problem}"


def check_hostfile(folder: Path, lines: list[str]) -> None:
    """Every fix of a line leaves nothing at that line, whatever the others are."""
    hostfile = folder / "hostfile"
    hostfile.write_text("\n".join(lines), encoding="utf-8")
    written = Written.of(TEXT, f"cluster.hosts={{hostfile: {hostfile}}}", hostfile=hostfile)
    for _ in range(len(lines)):
        wrong = [problem for problem in answer(written) if problem.file == str(hostfile)]
        if not wrong:
            return
        try:
            apply_fix(written, wrong[0])
        except NotMechanicalError:  # by hand, as the other half of the fix says
            assert wrong[0].fix.endswith("or remove this line")
            apply_fix(written, replace(wrong[0], fix="remove this line"))
        again = [problem for problem in answer(written) if problem.file == str(hostfile)]
        assert wrong[0].line not in {problem.line for problem in again}, f"{wrong[0]}\nthen\n{again[0]}"
    assert not [problem for problem in answer(written) if problem.file == str(hostfile)]


def check_config(folder: Path, config: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    problems: tuple[Problem, ...] = ()
    start = time.monotonic()
    try:
        loads(TEXT, model_from=str(path))
    except StrategyError as error:
        problems = error.problems
    assert time.monotonic() - start < LIMIT_S
    assert all(problem.fix and problem.expected for problem in problems)


QUICK = settings(max_examples=120, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=3500, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(_FAULTS, st.booleans())
def test_any_strategy_and_its_fixes(faults: list[tuple[str, Any]], in_file: bool) -> None:
    check_strategy(faults, in_file=in_file)


@QUICK
@given(lines=_LINES)
def test_any_hostfile_and_its_fixes(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    check_hostfile(tmp_path_factory.mktemp("hosts"), lines)


@QUICK
@given(config=_CONFIGS)
def test_any_config(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> None:
    check_config(tmp_path_factory.mktemp("config"), config)


@pytest.mark.slow
@LONG
@given(_FAULTS, st.booleans())
def test_thousands_of_strategies_and_their_fixes(faults: list[tuple[str, Any]], in_file: bool) -> None:
    check_strategy(faults, in_file=in_file)


@pytest.mark.slow
@LONG
@given(lines=_LINES)
def test_thousands_of_hostfiles_and_their_fixes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    check_hostfile(tmp_path_factory.mktemp("hosts"), lines)


@pytest.mark.slow
@LONG
@given(config=_CONFIGS)
def test_thousands_of_configs(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> None:
    check_config(tmp_path_factory.mktemp("config"), config)
