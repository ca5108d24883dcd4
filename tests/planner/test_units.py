"""Quantities with their units, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.units import Dimension, QuantityError, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("64 GB", "bytes", 64_000_000_000),
        ("64GB", "bytes", 64_000_000_000),
        ("80 GiB", "bytes", 85_899_345_920),
        ("1.5 kB", "bytes", 1_500),
        ("100 Gbps", "bytes/s", 12_500_000_000),
        ("10 GB/s", "bytes/s", 10_000_000_000),
        ("400 TFLOPS", "FLOP/s", 400_000_000_000_000),
        ("1.979 PFLOPS", "FLOP/s", 1_979_000_000_000_000),
        ("12.5 ms", "seconds", 0.0125),
        ("10 min", "seconds", 600),
        ("6.25 %", "share", 0.0625),
        ("0.9", "share", 0.9),
        ("10240 tokens/s", "tokens/s", 10_240),
        ("1e3 B", "bytes", 1_000),
    ],
)
def test_quantity_is_read_in_base_units(text: str, dimension: Dimension, value: float) -> None:
    assert parse_quantity(text, dimension) == value


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        ("64", "bytes", "has no unit"),
        ("64 Gbps", "bytes", "is in bytes/s, not in bytes"),
        ("64 gb", "bytes", "unknown unit: 'gb'"),
        ("GB", "bytes", "not a number with a unit"),
        ("", "bytes", "not a number with a unit"),
        ("6 4 GB", "bytes", "unknown unit|not a number"),
        ("1e999 GB", "bytes", "too large"),
        ("nan GB", "bytes", "not a number with a unit"),
    ],
)
def test_wrong_quantity_says_what_was_found(text: str, dimension: Dimension, message: str) -> None:
    with pytest.raises(QuantityError, match=message):
        parse_quantity(text, dimension)


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (64_000_000_000, "bytes", "64 GB"),
        (16_777_216, "bytes", "16 MiB"),
        (12_500_000_000.0, "bytes/s", "100 Gbps"),
        (600.0, "seconds", "10 min"),
        (0.0125, "seconds", "12.5 ms"),
        (0.0156, "share", "1.56 %"),
        (1.0, "share", "100 %"),
    ],
)
def test_quantity_prints_with_its_unit(value: float, dimension: Dimension, text: str) -> None:
    assert format_quantity(value, dimension) == text


@given(st.floats(1e-9, 1e25), st.sampled_from(["bytes/s", "FLOP/s", "seconds", "share"]))
def test_every_float_survives_printing(value: float, dimension: Dimension) -> None:
    assert float(parse_quantity(format_quantity(value, dimension), dimension)) == value


@given(st.integers(1, 10**25))
def test_every_size_survives_printing(value: int) -> None:
    assert parse_quantity(format_quantity(value, "bytes"), "bytes") == value
