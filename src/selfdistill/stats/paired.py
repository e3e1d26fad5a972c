"""Two models on the same items: the one paired comparison that every command uses, and the tests it is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from selfdistill.stats.scores import Z_95, detectable_difference, mean

Verdict = Literal["BETTER", "WORSE", "NOT ENOUGH DATA"]
BETTER: Verdict = "BETTER"
WORSE: Verdict = "WORSE"
NOT_ENOUGH_DATA: Verdict = "NOT ENOUGH DATA"
LEVEL = 0.05
"""Level of every two-sided test."""


class Change(NamedTuple):
    """A mean difference and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Second minus first over the items that both have a score for."""

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
    """Smallest true change found with 80% probability at this size; None where no change could be shown."""
    p_value_holm: float | None = None
    """``p_value`` corrected for all tests of the same table; None where it stands alone."""

    @property
    def verdict(self) -> Verdict:
        """BETTER or WORSE at the 5% level, else NOT ENOUGH DATA: no change was shown, which is not the same as none."""
        if self.p_value >= LEVEL or (self.num_better - self.num_worse) * self.change <= 0:
            return NOT_ENOUGH_DATA
        return BETTER if self.change > 0 else WORSE


def paired_test(first: Sequence[float | None], second: Sequence[float | None]) -> PairedTest:
    """The test of two models' scores on the same items, in the same order. Items that one has no score for don't count.

    Raises:
        ValueError: the two differ in length.
    """
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    ours, theirs = [a for a, _ in both], [b for _, b in both]
    better, worse = sum(b > a for a, b in both), sum(b < a for a, b in both)
    change = paired_interval(ours, theirs)
    detectable = detectable_difference(len(both), (better + worse) / len(both)) if both else math.inf
    return PairedTest(
        num_items=len(both),
        change=change.mean,
        low=change.low,
        high=change.high,
        num_better=better,
        num_worse=worse,
        p_value=mcnemar(ours, theirs),
        detectable=detectable if math.isfinite(detectable) else None,
    )


def mcnemar(a_scores: Sequence[float], b_scores: Sequence[float]) -> float:
    """Two-sided p-value of the exact McNemar test that two models do equally well on the same items.

    Only items whose scores differ count; each is a coin toss under the null hypothesis. With scores other
    than 0 and 1 it is the sign test. 1.0 where no item differs. Source: Q. McNemar, Psychometrika 12 (1947).

    Args:
        a_scores: one model's score per item.
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
    Educational and Behavioral Statistics 37 (2012), which stays honest where few or no items differ;
    for other scores the paired bootstrap. 0 in [-1, 1] where there is no item.

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


def paired_bootstrap(
    a_scores: Sequence[float], b_scores: Sequence[float], num_resamples: int = 10_000, seed: int = 0
) -> Change:
    """Mean of b - a over the same items, and its 95% percentile interval when items are drawn again.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    differences = [b - a for a, b in zip(a_scores, b_scores, strict=True)]
    if not differences:
        raise ValueError("paired_bootstrap needs at least one item")
    import numpy as np  # keeps this module light for the command line

    values = np.asarray(differences)
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Change(mean(differences), float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing all of them, in the given order. Source: S. Holm, Scand. J. Stat. 6 (1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
