"""Rules on the data: one way to name them, shares that a mixture can hold, what conversations need."""

import shlex
from collections.abc import Iterator
from fractions import Fraction

from planner.problems import Problem
from planner.strategy.schema import TEXT_FIELD, Strategy
from planner.yaml12_writer import flow_yaml

# Shares are held over 10,000 sequences (runtime/data/mixture.py).
SMALLEST_SHARE = Fraction(1, 10_000)


def path_or_mix(s: Strategy) -> Iterator[Problem]:
    if s.data.mix is not None and s.data.path is not None:
        mean = sum(part.weight for part in s.data.mix) / max(1, len(s.data.mix)) or 1
        parts = [{"path": part.path, "weight": part.weight} for part in s.data.mix]
        both = flow_yaml([*parts, {"path": s.data.path, "weight": mean}])
        yield Problem(
            code="SW251",
            path="data.mix",
            found="both data.path and data.mix are written",
            expected="one of the two",
            fix=f"set data.path to null, and to keep its files give them a weight with "
            f"{shlex.quote(f'data.mix={both}')}, or set data.mix to null",
        )


def mix_has_parts(s: Strategy) -> Iterator[Problem]:
    if s.data.mix == ():
        yield Problem(
            code="SW252",
            path="data.mix",
            found="an empty list",
            expected="at least one corpus with its weight, or null",
            fix="write data.mix: [{path: texts/prose, weight: 0.7}, {path: texts/code, weight: 0.3}]",
        )


def weights_are_large_enough(s: Strategy) -> Iterator[Problem]:
    parts = s.data.mix or ()
    total = sum(Fraction(part.weight) for part in parts)
    for number, part in enumerate(parts):
        if Fraction(part.weight) < total * SMALLEST_SHARE:
            smallest = float((total - Fraction(part.weight)) * SMALLEST_SHARE / (1 - SMALLEST_SHARE))
            yield Problem(
                code="SW253",
                path=f"data.mix[{number}].weight",
                found=f"{part.weight:g} is {float(part.weight / total):.2g} of the sum of the weights "
                f"({float(total):g})",
                expected="at least 0.0001 of the sum: shares are held over 10,000 sequences",
                fix=f"write weight: {smallest * 1.01:.3g}, or more, or leave the corpus out",
            )


def conversations_need_a_chat_template(s: Strategy) -> Iterator[Problem]:
    if s.data.format != "text" and s.data.tokenizer is None:
        yield Problem(
            code="SW254",
            path="data.tokenizer",
            found=f"null with data.format {s.data.format}: a tokenizer that is trained has no chat template",
            expected="the folder of a tokenizer with a chat template",
            fix="set data.tokenizer to the folder of a chat model's tokenizer, or data.format to text",
        )


def conversations_are_in_files(s: Strategy) -> Iterator[Problem]:
    if s.data.format != "text" and s.data.path is None and s.data.mix is None:
        yield Problem(
            code="SW255",
            path="data.path",
            found=f"null with data.format {s.data.format}: Python's standard library holds no conversations",
            expected="files of records",
            fix="set data.path to your conversations, or data.format to text",
        )


def prompts_have_keys_of_their_own(s: Strategy) -> Iterator[Problem]:
    if s.data.format == "prompt" and s.data.text_field != TEXT_FIELD:
        yield Problem(
            code="SW256",
            path="data.text_field",
            found=f"{s.data.text_field} with data.format prompt, whose keys are prompt and completion",
            expected=f"{TEXT_FIELD} with data.format prompt",
            fix="remove data.text_field and name the keys prompt and completion in the data",
        )


RULES = (
    path_or_mix,
    mix_has_parts,
    weights_are_large_enough,
    conversations_need_a_chat_template,
    conversations_are_in_files,
    prompts_have_keys_of_their_own,
)
