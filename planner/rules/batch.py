"""Rules on the batch, the learning-rate schedule and the checkpoint to start from."""

from collections.abc import Iterator

from planner.problems import Problem
from planner.rules.layout import find_widest_size
from planner.strategy.field_types import LARGEST
from planner.strategy.schema import Strategy
from planner.strategy.training import steps_for
from planner.units import format_quantity


def micro_batches_divide_batch(s: Strategy) -> Iterator[Problem]:
    widest, micro_batch = find_widest_size(s), s.training.micro_batch
    global_batch = s.training.global_batch
    sequences = micro_batch * widest
    if global_batch % sequences:
        below = global_batch // sequences * sequences
        above = below + sequences
        is_below = below and global_batch - below < above - global_batch
        near = f"{below}, or to {above}" if is_below else f"{above}, or to {below}" if below else str(above)
        yield Problem(
            code="SW241",
            path="training.global_batch",
            found=f"{global_batch} is not divisible by micro_batch × data-parallel size "
            f"({micro_batch} × {widest})",
            expected=f"a multiple of {sequences}; gradient accumulation is the quotient",
            fix=f"set training.global_batch to {near}, or change training.micro_batch",
        )


def tokens_or_steps(s: Strategy) -> Iterator[Problem]:
    tokens, steps = s.training.tokens, s.training.steps
    is_written = "steps" in s.training.model_fields_set
    if tokens is None and not is_written:
        yield Problem(
            code="SW245",
            path="training.steps",
            found="neither steps nor tokens is written",
            expected="exactly one of training.steps and training.tokens",
            fix="write steps: 1000, or tokens: 1T",
        )
    elif tokens is not None and is_written:
        follows = steps_for(tokens, s.training.global_batch * s.training.seq_length)
        yield Problem(
            code="SW245",
            path="training.steps",
            found=f"both are written: tokens {format_quantity(tokens, 'tokens')} and steps {steps:,}",
            expected="exactly one of training.steps and training.tokens",
            fix=f"set training.steps to null ({follows:,} follow from tokens), or training.tokens to null",
        )


def steps_are_countable(s: Strategy) -> Iterator[Problem]:
    tokens, steps = s.training.tokens, s.training.steps
    if steps > LARGEST:
        most = LARGEST * s.training.global_batch * s.training.seq_length
        yield Problem(
            code="SW246",
            path="training.tokens",
            found=f"{format_quantity(tokens or 0, 'tokens')} is {steps:,} steps",
            expected=f"at most {most:,} tokens, which is {LARGEST:,} steps of this batch",
            fix=f"set training.tokens to {most}, or use a larger training.global_batch",
        )


def learning_rates_are_ordered(s: Strategy) -> Iterator[Problem]:
    low, high = s.training.min_learning_rate, s.training.learning_rate
    if low > high:
        yield Problem(
            code="SW242",
            path="training.min_learning_rate",
            found=f"{low:g} exceeds training.learning_rate ({high:g})",
            expected=f"0 to {high:g}",
            fix=f"set training.min_learning_rate to {high / 10:g}",
        )


def warmup_within_schedule(s: Strategy) -> Iterator[Problem]:
    warmup, horizon = s.training.warmup_steps, s.training.schedule_steps
    if horizon is not None and warmup > horizon:
        yield Problem(
            code="SW243",
            path="training.warmup_steps",
            found=f"{warmup} exceeds training.schedule_steps ({horizon})",
            expected=f"0 to {horizon}",
            fix=f"set training.warmup_steps to {horizon // 10}",
        )


def branch_has_a_source(s: Strategy) -> Iterator[Problem]:
    if s.output.branch and s.output.resume in ("auto", "never", "require"):
        yield Problem(
            code="SW244",
            path="output.resume",
            found=f"{s.output.resume}, but output.branch starts from another run's checkpoint",
            expected="the folder of a run",
            fix="set output.branch to false, or output.resume to that folder",
        )


def frequent_reductions_need_zero_2(s: Strategy) -> Iterator[Problem]:
    """bf16 under ZeRO 1 with several micro-batches is ZeRO 2 in DeepSpeed (plan.ds_config)."""
    zero = s.parallel.zero_stage
    if s.runtime.reduce == "every_micro_batch" and zero < 2 and s.training.precision == "fp32":
        yield Problem(
            code="SW247",
            path="runtime.reduce",
            found=f"every_micro_batch with ZeRO {zero} in fp32, where DeepSpeed reduces once a step",
            expected="null or once; every_micro_batch with parallel.zero_stage 2",
            fix="set runtime.reduce to null, or parallel.zero_stage to 2",
        )


RULES = (
    frequent_reductions_need_zero_2,
    micro_batches_divide_batch,
    tokens_or_steps,
    steps_are_countable,
    learning_rates_are_ordered,
    warmup_within_schedule,
    branch_has_a_source,
)
