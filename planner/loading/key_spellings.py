"""Values that only their key explains: tokens as a batch, time as steps, links by generation."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

from planner.hardware.catalog import known_devices
from planner.hardware.hardware_file import find_name
from planner.hardware.presets import NVLINK_OF, known_links, suggest_link
from planner.loading.duration_spellings import read_duration
from planner.loading.foreign_meaning import number
from planner.loading.number_spellings import TOKENS, split_number
from planner.loading.shares import OF_STEPS
from planner.loading.value_examples import example_of
from planner.strategy.training import Training
from planner.units import QuantityError, parse_quantity

_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def candidates_of_key(
    path: Sequence[str | int], value: Any, data: Mapping[str, Any]
) -> Iterator[tuple[Any, str]]:
    """Values that seem to be meant, with what is said behind each; the caller checks that they are legal."""
    key = ".".join(map(str, path))
    if isinstance(value, str):
        if path[:2] == ("cluster", "links"):
            yield from _link(value, data)
        if key == "cluster.links.oversubscription" and (
            match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?::|to)\s*(\d+(?:\.\d+)?)\s*", value)
        ):
            ratio = Fraction(match[1]) / Fraction(match[2]) if Fraction(match[2]) else Fraction(0)
            yield int(ratio) if ratio.denominator == 1 else float(ratio), ""
        if key == "limits.memory_max" and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
            yield from _share_of_memory(float(match[1]), data)
        if key == "training.global_batch" or key in OF_STEPS:
            yield from _tokens(key, value, data)
        if key in OF_STEPS:
            yield from _time(path, value)
    if key == "training.optimizer.betas" and number(value) is not None:
        yield (
            [value, Training.model_fields["optimizer"].default.betas[1]],
            ", where it is the first of the two",
        )
    if key == "training.learning_rate" and isinstance(value, float):
        match = re.fullmatch(r"(\d(?:\.\d)?)0*e\+0([3-6])", f"{value:e}")
        if match:  # 3e4 for 3e-4
            yield float(f"{match[1]}e-{match[2]}"), ", with a negative exponent"


def _link(text: str, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A link that begins with a digit, or NVLink without its generation, which the GPU has."""
    named = suggest_link(text, known_links())
    if named is not None:
        yield named, ""
    elif re.search(r"(?i)nv(link|switch)|\bnv\d+\b", text):
        cluster = data.get("cluster")
        gpu = cluster.get("gpu") if isinstance(cluster, dict) else None
        written = gpu.get("name") if isinstance(gpu, dict) else gpu
        name = find_name(written, known_devices()) if isinstance(written, str) else None
        if name in NVLINK_OF:
            yield NVLINK_OF[name], f", that of {name}"
        else:
            yield "NVLink4", ", that of H100 and H200, or NVLink3 of A100, NVLink5 of B200"


def share_of_memory(
    path: Sequence[str | int], value: Any, data: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """A number up to 1 where memory is bounded: vLLM's and torch's share of the GPU's."""
    share = number(value)
    if tuple(path) == ("limits", "memory_max") and share is not None and 0 < share <= 1:
        yield from _share_of_memory(share * 100, data)


def _share_of_memory(percent: float, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A share of the GPU's memory."""
    cluster = data.get("cluster")
    gpu = cluster.get("gpu") if isinstance(cluster, dict) else None
    memory = gpu.get("memory") if isinstance(gpu, dict) else None
    written = gpu.get("name") if isinstance(gpu, dict) else gpu
    if memory is None and isinstance(written, str):
        known = known_devices()
        name = find_name(written, known)
        memory = known[name].get("memory") if name is not None else None
    try:
        total = parse_quantity(memory, "bytes") if isinstance(memory, str) else None
    except QuantityError:
        return
    if total is not None and 0 < percent <= 100:
        yield f"{percent / 100 * total / 1e9:.6g} GB", f", {percent:g} % of the GPU's {memory}"


def _tokens(key: str, text: str, data: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """A number of tokens where sequences or steps are counted."""
    split = split_number(text)
    match = re.fullmatch(r"(?i)(k|m|b|t)?\s*(.*)", split[1]) if split is not None else None
    if split is None or match is None or not TOKENS.fullmatch(match[2]):
        return
    tokens = Fraction(split[0]) * _MULTIPLES[(match[1] or "").lower()]
    training = data.get("training")
    found = training if isinstance(training, dict) else {}
    length, batch = number(found.get("seq_length")), number(found.get("global_batch"))
    if not length or length < 1:
        return
    if key == "training.global_batch":
        yield max(1, round(tokens / Fraction(length))), f", {text} / seq_length ({length:g})"
    elif batch and batch >= 1:
        yield ceil(tokens / Fraction(length) / Fraction(batch)), f", {text} / tokens of a step"


def _time(path: Sequence[str | int], text: str) -> Iterator[tuple[Any, str]]:
    """A duration or an epoch where steps are counted: how many of them it is, only a run knows."""
    if re.search(r"(?i)epoch", text):
        yield example_of(path), ", or another number of steps: those of an epoch follow from the data"
    elif read_duration(text) is not None:
        yield example_of(path), f", or another number of steps: {text} / the step time that plan prints"
