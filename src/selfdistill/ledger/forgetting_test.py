"""The rule by which a skill counts as lost. Pure numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTest:
    """The one-sided paired test of a skill's scores now against those it had."""

    num_items: int
    """Items scored both times."""
    change: float
    """Mean of new minus old, in [-1, 1]; negative is loss."""
    bound: float
    """Upper confidence bound of the true change: where it is negative, at least that much was lost."""
    refused: bool
    """True where the bound shows a loss of more than what is allowed."""


def forgetting_exceeds(
    old_scores: Sequence[float], new_scores: Sequence[float], max_forgetting: float, confidence: float
) -> GateTest:
    """Tests whether more than ``max_forgetting`` of a skill was lost, beyond what noise explains.

    Over the n differences d = new - old, and two more that are +1 and -1 (n' = n + 2),
    bound = mean(d) + z * sqrt((mean(d^2) - mean(d)^2) / n'), z the one-sided normal quantile of ``confidence``;
    refused where bound < -max_forgetting. With scores of 0 and 1 this is the adjusted Wald bound of D. G. Bonett and
    R. M. Price (2012), as in ``stats.paired.paired_interval``; the two added items keep it honest where few items
    differ, and make it cautious, thus lenient, for fractions.

    Each skill is tested by itself, uncorrected. A candidate that loses exactly what is allowed on one skill is
    refused with a chance of about 1 - confidence (for 0/1 scores at 95% at most 6.3%, by enumeration in the tests);
    over k such skills with at most k times that. Correcting for k would make losses easier to miss the more is held.

    Args:
        old_scores: score per item, in [0, 1], when the skill was learned.
        new_scores: the candidate's, in the same order.
        max_forgetting: allowed loss of the mean, in [0, 1).
        confidence: one-sided, strictly between 0.5 and 1.

    Raises:
        ValueError: the two differ in length.
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
    """Smallest share of items that, turned from right to wrong with none gained, is refused; None where not even all.

    A true loss of that size is refused about every second time; smaller ones mostly pass.
    """
    for lost in range(1, num_items + 1):
        if _bound(-lost, lost, num_items, confidence) < -max_forgetting:
            return lost / num_items
    return None


def _bound(total: float, squares: float, num_items: int, confidence: float) -> float:
    size = num_items + 2
    centre = total / size
    variance = (squares + 2) / size - centre**2
    return min(1.0, centre + NormalDist().inv_cdf(confidence) * math.sqrt(variance / size))
