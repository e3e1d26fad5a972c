"""Means of scores, their intervals, and the smallest difference that a number of items can show."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Z_95 = 1.959963984540054
"""Normal quantile of a two-sided 95% interval."""
LEVEL = 0.05
"""Level of every two-sided test."""
POWER = 0.8
"""Probability with which a detectable difference is found."""


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, the same in every order and by every Python; NaN if there are no values."""
    return math.fsum(values) / len(values) if values else math.nan


def wilson_interval(num_correct: float, num_total: int) -> Interval:
    """Wilson's 95% score interval of a proportion, in [0, 1]; (0, 1) if ``num_total`` is 0.

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
    """Unbiased estimate of the probability that at least one of ``k`` samples is right, from ``num_correct`` right ones
    among ``num_samples``.

    1 - C(n - c, k) / C(n, k); source: M. Chen et al., arXiv 2107.03374.

    Raises:
        ValueError: not 0 <= num_correct <= num_samples, or not 1 <= k <= num_samples.
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct must lie in [0, {num_samples}], not {num_correct}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must lie in [1, {num_samples}], not {k}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def detectable_difference(num_items: int, changed_share: float) -> float:
    """Smallest true difference that a McNemar test at LEVEL finds with probability POWER, in (0, 1].

    Args:
        num_items: items that both models answered.
        changed_share: share of items whose score differs between the two, in [0, 1].

    Returns:
        The solution of R. J. Connor's sample-size formula, Biometrics 43 (1987), but at least 6 items' share, since an
        exact test at 5% needs 6 changes; infinity if even a difference of 1 would not be found.
    """
    from statistics import NormalDist

    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - LEVEL / 2), normal.inv_cdf(POWER)
    fewest = math.ceil(math.log2(2 / LEVEL))  # changes that give p < LEVEL if all go the same way
    if num_items < fewest:
        return math.inf

    def is_found(difference: float) -> bool:
        changed = max(changed_share, difference)
        spread = z_alpha * math.sqrt(changed) + z_power * math.sqrt(changed - difference**2)
        return spread**2 <= num_items * difference**2

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return max(high, fewest / num_items)
