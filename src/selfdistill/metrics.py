"""Pure numbers: intervals and tests for scores. No tensors, no files."""

import math
from collections.abc import Sequence


def wilson_interval(num_correct: float, num_total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a proportion, in [0, 1]; (0, 1) where nothing was scored.

    ``z`` is the normal quantile, by default that of 95%. Partial credit may make ``num_correct`` a
    fraction; the interval is then somewhat too wide. Source: E. B. Wilson, JASA 22 (1927).

    Raises:
        ValueError: num_correct is negative or above num_total.
    """
    if not 0 <= num_correct <= num_total:
        raise ValueError(f"num_correct must lie in [0, {num_total}], not {num_correct}")
    if num_total == 0:
        return 0.0, 1.0
    share = num_correct / num_total
    scale = 1 + z * z / num_total
    centre = (share + z * z / (2 * num_total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / num_total + z * z / (4 * num_total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan
