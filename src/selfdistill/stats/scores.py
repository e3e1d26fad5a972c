"""Means of scores, their intervals, and what a number of items can show."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Z_95 = 1.959963984540054
"""Normal quantile of a two-sided 95% interval."""


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def wilson_interval(num_correct: float, num_total: int) -> Interval:
    """Wilson's 95% score interval of a proportion, in [0, 1]; (0, 1) where nothing was scored.

    Partial credit may make ``num_correct`` a fraction; the interval is then somewhat too wide. Source: E. B. Wilson,
    JASA 22 (1927).

    Raises:
        ValueError: num_correct is negative or above num_total.
    """
    if not 0 <= num_correct <= num_total:
        raise ValueError(f"num_correct must lie in [0, {num_total}], not {num_correct}")
    if num_total == 0:
        return Interval(0.0, 1.0)
    share = num_correct / num_total
    scale = 1 + Z_95**2 / num_total
    centre = (share + Z_95**2 / (2 * num_total)) / scale
    half = Z_95 / scale * math.sqrt(share * (1 - share) / num_total + Z_95**2 / (4 * num_total**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased chance that at least one of ``k`` samples is right, given ``num_correct`` of ``num_samples``.

    1 - C(n - c, k) / C(n, k); source: M. Chen et al., arXiv 2107.03374.

    Raises:
        ValueError: not 0 <= num_correct <= num_samples, or not 1 <= k <= num_samples.
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct must lie in [0, {num_samples}], not {num_correct}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must lie in [1, {num_samples}], not {k}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def detectable_difference(num_items: int, changed_share: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true difference that a McNemar test of this size finds with probability ``power``, in (0, 1].

    Args:
        num_items: items that both models answered.
        changed_share: share of items whose score differs between the two, in [0, 1].
        power: chance to find the difference.
        alpha: level of the two-sided test.

    Returns:
        The solution of R. J. Connor's sample-size formula, Biometrics 43 (1987), but never less than the
        6 items that an exact test needs at 5%; infinity where even a difference of 1 would not be found.
    """
    from statistics import NormalDist

    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
    at_least = math.ceil(math.log2(2 / alpha))  # tosses that must all fall alike for p < alpha
    if num_items < at_least:
        return math.inf

    def found(difference: float) -> bool:
        changed = max(changed_share, difference)
        spread = z_alpha * math.sqrt(changed) + z_power * math.sqrt(changed - difference**2)
        return spread**2 <= num_items * difference**2

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return max(high, at_least / num_items)
