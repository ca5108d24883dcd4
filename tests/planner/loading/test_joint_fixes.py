"""All fixes of one answer followed at once: what is left was hidden before, and comes to an end."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner import loads
from tests.support.examples import TEXT
from tests.support.fixes import NotMechanicalError, Written, apply_all

MISTAKES: tuple[tuple[str, Any], ...] = (
    # the batch and what follows from it
    *(("training.global_batch", value) for value in ("128 sequences", 127, 0, "0.5M tokens")),
    *(("training.steps", value) for value in ("1,000", "2k")),
    *(("training.tokens", value) for value in ("1e9 tokens", "4B")),
    *(("training.seq_length", value) for value in ("4k", "1024 tokens")),
    *(("training.micro_batch", value) for value in (3, "2")),
    ("training.gradient_accumulation_steps", 4),
    ("gradient_accumulation_steps", 3),
    ("training.train_batch_size", 64),
    ("train_micro_batch_size_per_gpu", 2),
    # shares of another key
    *(("training.warmup_steps", value) for value in ("10%", 0.1, 60)),
    ("training.warmup_ratio", 0.03),
    *(("training.min_learning_rate", value) for value in ("10%", 1)),
    ("training.min_lr_ratio", 0.1),
    *(("training.learning_rate", value) for value in ("3e-4", 3e4)),
    ("training.lr", 1e-4),
    ("optimizer", {"params": {"lr": 1e-4}}),
    ("output.save_steps", 0.1),
    *(("output.checkpoint_every", value) for value in ("10%", "30 min")),
    ("training.schedule_steps", 20),
    ("training.lr_decay_iters", 90),
    ("limits.memory_max", "90%"),
    # degrees
    *(("parallel.ep", value) for value in (3, "8 ways")),
    *(("parallel.tp", value) for value in (3, 32)),
    ("parallel.pp", 5),
    ("parallel.dp", 7),
    ("parallel.tensor_model_parallel_size", 2),
    ("parallel.data_parallel_size", 4),
    ("parallel.zero_stage", 3),
    ("zero_optimization", {"stage": 3}),
    ("parallel", "ep4_tp2"),
    ("parralel", {"ep": 4}),
    # the model
    *(("model.num_experts", value) for value in ("64 experts", 63)),
    ("model.num_experts_per_tok", 65),
    ("model.hidden_size", 1000),
    ("model.num_attention_heads", 15),
    ("model.num_key_value_heads", 3),
    ("model.num_layers", 8),
    ("model.num_hidden_layers", "16 layers"),
    ("model.moe_intermediate_size", "2k"),
    ("model.moe_shared_expert_intermediate_size", 4096),
    ("model.moe_expert_capacity_factor", 1.25),
    ("model.dispatch", "capacity"),
    # the machine, precision, data
    ("cluster.hosts", "16 nodes"),
    ("cluster.hosts", 1),
    ("cluster.nnodes", 4),
    ("cluster.gpu", "H100-SXM5-80GB"),
    ("cluster.links.intra_host", "NVLink"),
    ("bf16", {"enabled": True}),
    ("fp16", {"enabled": True}),
    ("training.precision", "float16"),
    ("data.mix", {"a": 0.7, "b": 0.3}),
    ("data.path", "texts"),
    ("datasets", [{"path": "x.jsonl"}]),
    ("num_epochs", 3),
    ("adam_beta1", 0.8),
    ("adam_beta2", 0.98),
)
_MISTAKES = st.lists(
    st.sampled_from(MISTAKES), min_size=2, max_size=4, unique_by=lambda mistake: mistake[0].partition(".")[2]
)
MAX_ROUNDS = 5


def written_with(mistakes: list[tuple[str, Any]], *, in_file: bool) -> Written | None:
    """The strategy with the mistakes; None where one is inside another."""
    if not in_file:
        return Written.of(TEXT, *(f"{key}={json.dumps(value)}" for key, value in mistakes))
    written = Written.of(TEXT)
    for key, value in mistakes:
        place: Any = written.data
        *before, last = key.split(".")
        for name in before:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                return None
        place[last] = value
    return written


def check_together(mistakes: list[tuple[str, Any]], *, in_file: bool) -> None:
    """Round after round every fix is followed; none of them makes another one wrong."""
    written = written_with(mistakes, in_file=in_file)
    if written is None:
        return
    problems = written.problems()
    for _ in range(MAX_ROUNDS):
        if not problems:
            return
        try:
            written, keys = apply_all(written, problems)
        except (NotMechanicalError, KeyError, StopIteration):
            return  # one of them asks its reader, or two are of the same key
        after = written.problems()
        places = keys | {problem.path for problem in problems}
        codes = {problem.code for problem in problems}
        # A rule that could not be judged before is new; the same one again is a fix that did not hold.
        same = [a for a in after if a.path in places and (a.code in codes or a.code[2] == "1")]
        assert not same, "\n".join([*map(str, problems), "then", str(same[0])])
        problems = after
    raise AssertionError(f"{MAX_ROUNDS} rounds were not enough: {problems[0]}")


QUICK = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=4000, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(_MISTAKES, st.booleans())
def test_any_mistakes_and_their_fixes_at_once(mistakes: list[tuple[str, Any]], in_file: bool) -> None:
    check_together(mistakes, in_file=in_file)


@pytest.mark.slow
@LONG
@given(_MISTAKES, st.booleans())
def test_thousands_of_mistakes_and_their_fixes_at_once(
    mistakes: list[tuple[str, Any]], in_file: bool
) -> None:
    check_together(mistakes, in_file=in_file)


@pytest.mark.parametrize(
    ("mistakes", "expected"),
    [
        # 10 % of the rate that is meant, not of the one that was written: 3e-5, not 3000
        (
            [("training.min_lr_ratio", 0.1), ("training.learning_rate", 3e4)],
            ["training.learning_rate=3e-4", "training.min_learning_rate=3e-5"],
        ),
        # 10 % of 1,000 steps
        (
            [("training.steps", "1,000"), ("training.warmup_steps", "10%")],
            ["training.steps=1000", "training.warmup_steps=100"],
        ),
        # accumulation 4 of a global batch of 64 on one rank
        (
            [("training.gradient_accumulation_steps", 4), ("training.global_batch", "64 sequences")],
            ["training.global_batch=64", "training.micro_batch=16"],
        ),
        # dp 8 and ep 4 are 32 data-parallel ranks, which 128 sequences fit; with ep 3 it were 24
        ([("parallel.ep", 3), ("parallel.dp", 8)], ["parallel.ep=4", "parallel.dp=8"]),
        # both betas are one key
        ([("adam_beta1", 0.8), ("adam_beta2", 0.98)], ["training.optimizer.betas=[0.8, 0.98]"]),
    ],
)
def test_a_fix_is_made_from_what_the_others_write(
    mistakes: list[tuple[str, Any]], expected: list[str]
) -> None:
    written = written_with(mistakes, in_file=True)
    assert written is not None
    written, _ = apply_all(written, written.problems())
    assert written.load() == loads(TEXT, expected)
