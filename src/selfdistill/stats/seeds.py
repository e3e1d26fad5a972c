"""Summaries and a sign test of one number per seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfdistill.stats.scores import mean

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for 95%, two-sided, by degrees of freedom from 1; the last one for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds:
    """Summary of one difference per seed."""

    mean: float
    deviation: float
    """Sample standard deviation; 0 for a single seed."""
    sign_consistency: float
    """Share of seeds whose difference has the sign of the mean; 1 if all are 0."""


def over_seeds(differences: Sequence[float]) -> OverSeeds:
    """Summarises one difference per seed. Raises ValueError if there are none."""
    if not differences:
        raise ValueError("over_seeds needs at least one seed")
    centre = mean(differences)
    squares = math.fsum((value - centre) ** 2 for value in differences)
    deviation = math.sqrt(squares / (len(differences) - 1)) if len(differences) > 1 else 0.0
    same = sum(value * centre > 0 or value == centre == 0 for value in differences)
    return OverSeeds(mean=centre, deviation=deviation, sign_consistency=same / len(differences))


def sign_beyond_noise(differences: Sequence[float]) -> int:
    """+1 if the 95% t-interval of the mean of one difference per seed lies above 0, -1 if below; else 0.

    A single seed gives 0. Seeds that all differ by the same amount have an interval of no width: their sign counts.
    """
    if len(differences) < 2:
        return 0
    summary = over_seeds(differences)
    half = T_95[min(len(differences) - 2, len(T_95) - 1)] * summary.deviation / math.sqrt(len(differences))
    return 0 if abs(summary.mean) <= half else int(math.copysign(1, summary.mean))
