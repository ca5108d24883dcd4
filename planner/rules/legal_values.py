"""Legal values in messages of rules: divisors, the nearest of them, lists of numbers."""

from math import isqrt


def divisors(number: int) -> tuple[int, ...]:
    """Every divisor of a positive number, ascending."""
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def join_numbers(numbers: tuple[int, ...]) -> str:
    """Numbers for a message, the first sixteen of them."""
    shown = ", ".join(str(number) for number in numbers[:16])
    return f"{shown}, …" if len(numbers) > 16 else shown


def find_nearest(numbers: tuple[int, ...], wanted: int) -> int:
    """The number closest to what was wanted, the larger of two."""
    return min(numbers, key=lambda number: (abs(number - wanted), -number))
