"""How a broken rule is said: the Problem, the legal numbers, the nearest of them."""

from math import isqrt

from planner.problems import Problem


def broken(path: str, found: str, expected: str, fix: str) -> Problem:
    """A Problem of a key; `load` adds where it was written."""
    return Problem(path=path, line=None, found=found, expected=expected, fix=fix)


def divisors(number: int) -> tuple[int, ...]:
    """Every divisor of a positive number, ascending."""
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def listed(numbers: tuple[int, ...]) -> str:
    """Numbers for a message, the first sixteen of them."""
    shown = ", ".join(str(number) for number in numbers[:16])
    return f"{shown}, …" if len(numbers) > 16 else shown


def nearest(numbers: tuple[int, ...], wanted: int) -> int:
    """The number closest to what was wanted, the larger of two."""
    return min(numbers, key=lambda number: (abs(number - wanted), -number))
