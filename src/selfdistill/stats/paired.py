"""Two models on the same items: the paired comparison that every command uses, and the tests behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from selfdistill.stats.scores import LEVEL, Z_95, detectable_difference, mean

Verdict = Literal["BETTER", "WORSE", "NOT ENOUGH DATA"]
BETTER: Verdict = "BETTER"
WORSE: Verdict = "WORSE"
NOT_ENOUGH_DATA: Verdict = "NOT ENOUGH DATA"
NUM_RESAMPLES = 10_000
"""Resamples of the paired bootstrap."""


class Change(NamedTuple):
    """A mean difference and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """A comparison of a second model with a first one, over the items that both have a score for."""

    num_items: int
    change: float
    """Mean of second minus first, in [-1, 1]."""
    low: float
    """Lower end of the 95% interval of ``change``."""
    high: float
    num_better: int
    """Items on which the second scores higher."""
    num_worse: int
    p_value: float
    """Exact McNemar test, two-sided."""
    detectable: float | None
    """Smallest true change that this test finds with 80% probability; None if it is too small to find any."""
    p_value_holm: float | None = None
    """``p_value`` corrected by Holm's method for all tests of the same table; None if it was not corrected."""

    @property
    def verdict(self) -> Verdict:
        """BETTER or WORSE at the 5% level, else NOT ENOUGH DATA, which does not mean that nothing changed."""
        if self.p_value >= LEVEL or (self.num_better - self.num_worse) * self.change <= 0:
            return NOT_ENOUGH_DATA
        return BETTER if self.change > 0 else WORSE


def paired_test(first: Sequence[float | None], second: Sequence[float | None]) -> PairedTest:
    """Tests the second model's scores against the first's, on the same items in the same order.

    Items that either has no score (None) for are left out.

    Raises:
        ValueError: the two differ in length.
    """
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    firsts, seconds = [a for a, _ in both], [b for _, b in both]
    better, worse = sum(b > a for a, b in both), sum(b < a for a, b in both)
    change = paired_interval(firsts, seconds)
    detectable = detectable_difference(len(both), (better + worse) / len(both)) if both else math.inf
    return PairedTest(
        num_items=len(both),
        change=change.mean,
        low=change.low,
        high=change.high,
        num_better=better,
        num_worse=worse,
        p_value=mcnemar(firsts, seconds),
        detectable=detectable if math.isfinite(detectable) else None,
    )


def mcnemar(a_scores: Sequence[float], b_scores: Sequence[float]) -> float:
    """Two-sided p-value of the exact McNemar test that two models do equally well on the same items.

    Only items whose scores differ count; each is a coin toss under the null hypothesis. With scores other
    than 0 and 1 it is the sign test. 1.0 if no item differs. Source: Q. McNemar, Psychometrika 12 (1947).

    Args:
        a_scores: one model's score on each item.
        b_scores: the other's, in the same order.

    Raises:
        ValueError: the two differ in length.
    """
    a_wins = sum(a > b for a, b in zip(a_scores, b_scores, strict=True))
    b_wins = sum(a < b for a, b in zip(a_scores, b_scores, strict=True))
    tosses = a_wins + b_wins
    tail = sum(math.comb(tosses, heads) for heads in range(min(a_wins, b_wins) + 1))
    return min(1.0, 2 * tail / 2**tosses)


def paired_interval(a_scores: Sequence[float], b_scores: Sequence[float]) -> Change:
    """Mean of b - a over the same items, and its 95% interval, in [-1, 1].

    For scores of 0 and 1 it is the adjusted Wald interval of D. G. Bonett and R. M. Price, Journal of
    Educational and Behavioral Statistics 37 (2012), which does not shrink to a point when few or no items differ;
    for other scores it is the paired bootstrap. Without items it is 0 in [-1, 1].

    Raises:
        ValueError: the two differ in length.
    """
    differences = [b - a for a, b in zip(a_scores, b_scores, strict=True)]
    if not differences:
        return Change(0.0, -1.0, 1.0)
    if not set(a_scores) | set(b_scores) <= {0, 1}:
        return paired_bootstrap(a_scores, b_scores)
    size = len(differences) + 2
    b_wins = (differences.count(1) + 1) / size
    a_wins = (differences.count(-1) + 1) / size
    half = Z_95 * math.sqrt((b_wins + a_wins - (b_wins - a_wins) ** 2) / size)
    centre = b_wins - a_wins
    return Change(mean(differences), max(-1.0, centre - half), min(1.0, centre + half))


def paired_bootstrap(a_scores: Sequence[float], b_scores: Sequence[float]) -> Change:
    """Mean of b - a over the same items, and its 95% percentile interval over NUM_RESAMPLES resamples of the items.

    The resamples are always the same, so that equal scores give an equal interval.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    differences = [b - a for a, b in zip(a_scores, b_scores, strict=True)]
    if not differences:
        raise ValueError("paired_bootstrap needs at least one item")
    import numpy as np  # keeps this module light for the command line

    values = np.asarray(differences)
    generator = np.random.default_rng(0)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Change(mean(differences), float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for testing all of them, in the given order. Source: S. Holm, Scand. J. Stat. 6 (1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
