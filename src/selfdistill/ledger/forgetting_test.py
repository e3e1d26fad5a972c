"""The statistical rule by which a skill counts as lost. Pure numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTest:
    """Result of the one-sided paired test of a skill's new scores against its old ones."""

    num_items: int
    """Items scored both times."""
    change: float
    """Mean of new minus old, in [-1, 1]; a loss is negative."""
    bound: float
    """Upper confidence bound of the true change; if it is negative, at least that much was lost."""
    refused: bool
    """True if the bound shows a loss larger than allowed."""


def forgetting_exceeds(
    old_scores: Sequence[float], new_scores: Sequence[float], max_forgetting: float, confidence: float
) -> GateTest:
    """Tests whether the mean score fell by more than ``max_forgetting``, beyond what noise explains.

    Over the n differences d = new - old, and two more that are +1 and -1 (n' = n + 2),
    bound = mean(d) + z * sqrt((mean(d^2) - mean(d)^2) / n'), with z the one-sided normal quantile of ``confidence``;
    refused if bound < -max_forgetting. For scores of 0 and 1 this is the adjusted Wald bound of D. G. Bonett and
    R. M. Price (2012), as in ``stats.paired.paired_interval``. The two added items keep its coverage right when few
    items differ; for fractional scores they make the test less strict.

    Each skill is tested separately, without correction. A candidate that loses exactly what is allowed on one skill
    is refused with a probability of about 1 - confidence (for 0/1 scores at 95% at most 6.3%, by enumeration in the
    tests), and on k such skills with at most k times that. With a correction for k, the more skills are held, the
    easier a loss would be to miss.

    Args:
        old_scores: score of each item, in [0, 1], when the skill was learned.
        new_scores: the candidate's scores, in the same order.
        max_forgetting: allowed loss of the mean score, in [0, 1).
        confidence: one-sided, strictly between 0.5 and 1.

    Raises:
        ValueError: the two lists differ in length.
    """
    differences = [new - old for old, new in zip(old_scores, new_scores, strict=True)]
    bound = _bound(math.fsum(differences), math.fsum(d * d for d in differences), len(differences), confidence)
    return GateTest(
        num_items=len(differences),
        change=math.fsum(differences) / len(differences) if differences else 0.0,
        bound=bound,
        refused=bound < -max_forgetting,
    )


def smallest_loss_refused(num_items: int, max_forgetting: float, confidence: float) -> float | None:
    """Smallest share of items whose loss is refused, if each falls from 1 to 0 and none is gained, in (0, 1].

    None if even the loss of all items would pass. A true loss of this size is refused about every second time.

    Args:
        num_items: items scored both times.
        max_forgetting: allowed loss of the mean score, in [0, 1).
        confidence: one-sided, strictly between 0.5 and 1.
    """
    for lost in range(1, num_items + 1):
        if _bound(-lost, lost, num_items, confidence) < -max_forgetting:
            return lost / num_items
    return None


def _bound(total: float, squares: float, num_items: int, confidence: float) -> float:
    """The bound, from the sum of the differences and the sum of their squares."""
    size = num_items + 2
    centre = total / size
    variance = (squares + 2) / size - centre**2
    return min(1.0, centre + NormalDist().inv_cdf(confidence) * math.sqrt(variance / size))
