"""Quantities with their units, by hand."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.units import (
    Dimension,
    QuantityError,
    format_bytes,
    format_count,
    format_flops,
    format_money,
    format_number,
    format_quantity,
    format_rate,
    format_seconds,
    milliseconds,
    parse_quantity,
    plural,
)


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
        ("1T", "tokens", 10**12),
        ("1.5 B", "tokens", 1_500_000_000),
        ("131072000", "tokens", 131_072_000),
        ("2.5 $/GPU-hour", "$/GPU-hour", 2.5),
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
        (15 * 10**9, "tokens", "15B"),
        (131_072_000, "tokens", "131.072M"),
        (2.5, "$/GPU-hour", "2.5 $/GPU-hour"),
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


@given(st.integers(1, 10**18))
def test_every_number_of_tokens_survives_printing(value: int) -> None:
    assert parse_quantity(format_quantity(value, "tokens"), "tokens") == value


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (format_rate(1.13e12), "1.13 TB/s"),
        (format_rate(450e9), "450 GB/s"),
        (format_bytes(999_700_000), "1 GB"),
        (format_bytes(0), "0 B"),
        (format_bytes(85_500_000_000), "85.5 GB"),
        (format_seconds(196.128), "3.27 min"),  # 0.00227 days
        (format_seconds(0.196), "196 ms"),
        (format_seconds(90), "90 s"),
        (format_seconds(7_000), "117 min"),
        (format_seconds(86_400), "24 h"),
        (format_seconds(10**7), "116 days"),
        (format_seconds(0), "0 s"),
        (format_count(30_532_122_624), "30.5B"),
        (format_count(10**12), "1T"),
        (format_flops(21.9e9), "21.9 GFLOPs"),
        (format_flops(277.3e12, "FLOPS"), "277 TFLOPS"),
        (format_money(9.25), "$9.25"),
        (format_money(1_234_567.8), "$1,234,568"),
        (milliseconds(0.9999), "1,000"),
        (milliseconds(12.3456, "+"), "+12,346"),
        (format_number(9.996), "10"),
        (format_number(0.000123456), "0.000123"),
        (plural(1, "GPU"), "1 GPU"),
        (plural(16_384, "GPU"), "16,384 GPUs"),
    ],
)
def test_numbers_in_units_that_people_read(shown: str, text: str) -> None:
    assert shown == text


@given(st.floats(1e-5, 1e18), st.sampled_from(["bytes", "bytes/s", "FLOP/s", "seconds", "tokens"]))
def test_what_people_read_has_no_exponent_and_is_right_to_three_digits(value: float, kind: str) -> None:
    text = {
        "bytes": format_bytes,
        "bytes/s": format_rate,
        "FLOP/s": lambda rate: format_flops(rate, "FLOPS"),
        "seconds": format_seconds,
        "tokens": format_count,
    }[kind](value)
    number = re.match(r"[\d,.]+", text)
    assert number is not None, text
    assert (
        len(re.sub(r"^0[.0]*|[,.]", "", number[0]).rstrip("0")) <= 3
        or float(number[0].replace(",", "")) >= 1000
    )
    if kind == "bytes" and value < 1000:
        return  # whole bytes
    units = {"days": 86_400, "h": 3600, "min": 60, "s": 1, "ms": 1e-3, "us": 1e-6}
    prefix = text[number.end() :].strip()
    if kind == "seconds":
        scale = units[prefix]
    else:
        scale = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}.get(prefix[:1], 1.0)
        if kind == "tokens":
            scale = {"B": 1e9}.get(prefix, scale)
    assert float(number[0].replace(",", "")) * scale == pytest.approx(value, rel=0.0051)
    if kind != "seconds" and value < 9.9e17 and not (kind in ("bytes", "bytes/s", "tokens") and value > 9e14):
        assert float(number[0].replace(",", "")) < 1000
