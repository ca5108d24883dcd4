"""What belongs together and what may differ, as the specification lists it."""

import re

import pytest

from planner.plan.fingerprint import model_fingerprint, plan_fingerprint, recipe_fingerprint
from tests.support.examples import strategy

CAPACITY = ("model.dispatch=capacity", "model.capacity_factor=2")


@pytest.mark.parametrize(
    "overrides",
    [
        CAPACITY,
        ("model.initializer_range=0.03",),
        ("model.embedding_std=0.1",),
        ("model.init_from=runs/x",),
        ("model.norm_topk_prob=false",),  # null stands for it at k = 1
        ("training.learning_rate=1e-3",),
        ("parallel.ep=4",),
        ("cluster.hosts=3",),
    ],
)
def test_model_fingerprint_stays(overrides: tuple[str, ...]) -> None:
    assert model_fingerprint(strategy(*overrides), "t") == model_fingerprint(strategy(), "t")


@pytest.mark.parametrize(
    "override",
    ["model.hidden_size=512", "model.num_experts_per_tok=2", "model.rope_theta=500000", "model.qk_norm=head"],
)
def test_model_fingerprint_changes(override: str) -> None:
    assert model_fingerprint(strategy(override), "t") != model_fingerprint(strategy(), "t")


def test_model_fingerprint_holds_the_tokenizer() -> None:
    assert model_fingerprint(strategy(), "a") != model_fingerprint(strategy(), "b")


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.steps=7",),
        ("training.micro_batch=2",),
        ("parallel.ep=4", "parallel.zero_stage=2"),
        ("parallel.pp=2", "parallel.layers_per_stage=[13, 3]"),
        ("name=other",),
        ("output.folder=elsewhere",),
        ("cluster.hosts=3",),
        ("data.path=/data",),  # its content counts, not its place
        ("model.hidden_size=512",),  # of the model fingerprint
    ],
)
def test_recipe_fingerprint_stays(overrides: tuple[str, ...]) -> None:
    assert recipe_fingerprint(strategy(*overrides), "d") == recipe_fingerprint(strategy(), "d")


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.seed=2",),
        ("training.global_batch=64",),
        ("training.schedule_steps=100",),
        ("training.precision=fp32",),
        ("training.optimizer.eps=1e-7",),
        CAPACITY,
        ("model.embedding_std=0.1",),
        ("model.init_from=runs/x",),
        ("runtime.force_routing={kind: balanced}",),
    ],
)
def test_recipe_fingerprint_changes(overrides: tuple[str, ...]) -> None:
    assert recipe_fingerprint(strategy(*overrides), "d") != recipe_fingerprint(strategy(), "d")


def test_recipe_fingerprint_holds_the_data() -> None:
    assert recipe_fingerprint(strategy(), "a") != recipe_fingerprint(strategy(), "b")


@pytest.mark.parametrize(
    "override",
    [
        "limits.balance_min=0.5",
        "operate.tensorboard=false",
        "claims=[{quantity: gpus_used, value: 1, where: x}]",
    ],
)
def test_plan_fingerprint_leaves_out_what_no_rank_reads(override: str) -> None:
    assert plan_fingerprint(strategy(override)) == plan_fingerprint(strategy())


@pytest.mark.parametrize(
    "override", ["parallel.ep=2", "cluster.hosts=3", "name=x", "training.steps=7", "training.seed=2"]
)
def test_plan_fingerprint_holds_what_ranks_agree_on(override: str) -> None:
    assert plan_fingerprint(strategy(override)) != plan_fingerprint(strategy())


def test_plan_fingerprint_holds_the_cut_of_the_layers() -> None:
    even, uneven = (
        strategy("parallel.pp=2", f"parallel.layers_per_stage={cut}") for cut in ("null", "[13, 3]")
    )
    assert plan_fingerprint(even) != plan_fingerprint(uneven)


def test_written_defaults_do_not_change_a_fingerprint() -> None:
    assert plan_fingerprint(strategy("model.head_dim=64", "parallel.dp=1")) == plan_fingerprint(strategy())
    assert plan_fingerprint(strategy("model.rope_theta=1e4")) == plan_fingerprint(strategy())


def test_fingerprint_is_16_hexadecimal_digits() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", plan_fingerprint(strategy()))


def test_the_recipe_of_older_checkpoints_is_still_the_same() -> None:
    """A checkpoint keeps this value: when it changes, no older run resumes."""
    assert recipe_fingerprint(strategy(), "d") == "57770af5bd360ce4"


def test_price_and_failures_change_no_fingerprint() -> None:
    priced = strategy("cluster.cost=2.5 $/GPU-hour", "cluster.mtbf=50000 h")
    assert plan_fingerprint(priced) == plan_fingerprint(strategy())


def test_tokens_are_the_steps_that_follow_from_them() -> None:
    # 128 sequences of 1,024 tokens are 131,072 a step: 100 steps hold 13,107,200.
    by_tokens = strategy("training.steps=null", "training.tokens=13107200")
    assert by_tokens.training.steps == 100
    assert strategy("training.steps=null", "training.tokens=13107201").training.steps == 101
    assert plan_fingerprint(by_tokens) == plan_fingerprint(strategy())
    assert recipe_fingerprint(by_tokens, "d") == recipe_fingerprint(strategy("training.steps=7"), "d")


def test_recipe_fingerprint_holds_the_ranks_that_a_forced_routing_names() -> None:
    """Written or of the layout; of a kind that names none, the layout is no part of the recipe."""

    def recipe(routing: str, ep: int) -> str:
        return recipe_fingerprint(strategy(f"runtime.force_routing={routing}", f"parallel.ep={ep}"), "d")

    hot, written = "{kind: hot_rank, share: 0.5}", "{kind: hot_rank, share: 0.5, ep: 4}"
    assert recipe(hot, 4) == recipe(written, 4) == recipe(written, 2)
    assert recipe(hot, 4) != recipe(hot, 2)
    assert recipe("{kind: ragged}", 4) == recipe("{kind: ragged}", 2)
