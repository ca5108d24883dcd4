"""Mixture of corpora: which of them gives each sequence, so that the shares of `data.mix` hold all along.

Arithmetic only, as in sampling: the part and the sequence in it follow from the position alone, whatever the
layout, and a resume needs no state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

# Sequences after which the order of the parts repeats: shares are held to 1/10,000.
PERIOD = 10_000


@dataclass(frozen=True)
class Mixture:
    """Counts of each part's sequences in every PERIOD; a single part has all of them."""

    counts: tuple[int, ...]

    def places(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of each position of an endless stream, and how many it gave before; int64 [n]."""
        periods, places = np.divmod(np.asarray(positions, np.int64), PERIOD)
        parts = self._order[places]
        return parts, periods * np.asarray(self.counts, np.int64)[parts] + self._number[places]

    def num_before(self, position: int) -> list[int]:
        """How many sequences each part gives before this position."""
        periods, place = divmod(position, PERIOD)
        inside = np.bincount(self._order[:place], minlength=len(self.counts))
        return [periods * count + int(more) for count, more in zip(self.counts, inside, strict=True)]

    @cached_property
    def _order(self) -> np.ndarray:
        """The part of each place of a period; int64 [PERIOD].

        Before every place a part has given its share less or more than one sequence: of the parts that are
        behind, the one comes next that has to be next soonest (Tijdeman 1980, "The chairman assignment
        problem"; the earliest deadline of Baruah et al. 1996, "Proportionate progress").
        """
        order = np.empty(PERIOD, np.int64)
        given = [0] * len(self.counts)
        for place in range(PERIOD):
            is_behind = [
                n * PERIOD < (place + 1) * count for n, count in zip(given, self.counts, strict=True)
            ]
            deadlines = [
                -(-(n + 1) * PERIOD // count) if behind else 2 * PERIOD
                for n, count, behind in zip(given, self.counts, is_behind, strict=True)
            ]
            part = deadlines.index(min(deadlines))
            order[place] = part
            given[part] += 1
        return order

    @cached_property
    def _number(self) -> np.ndarray:
        """How many earlier places of the period have the same part; int64 [PERIOD]."""
        number = np.empty(PERIOD, np.int64)
        for part in range(len(self.counts)):
            here = self._order == part
            number[here] = np.arange(here.sum())
        return number


def make_mixture(weights: Sequence[float]) -> Mixture:
    """The mixture whose shares are the weights', rounded to 1/PERIOD by largest remainders.

    Each weight has a share of at least 1/PERIOD (planner/rules/data.py), so that no part is left out.
    """
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * PERIOD / total for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda part: (counts[part] - exact[part], part))
    for part in by_remainder[: PERIOD - sum(counts)]:
        counts[part] += 1
    return Mixture(tuple(counts))
