"""What numbers of few seeds can tell, and whether one arm's front lies below another's. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfdistill.stats.scores import mean, over_seeds
from selfdistill.studies.analysis import at_skill

Entry = Mapping[str, Any]
Runs = Mapping[int, Sequence[Entry]]
"""An arm's checkpoints in order, by seed."""
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for 95%, two-sided, by degrees of freedom from 1; the last one for more."""


def sign_beyond_noise(differences: Sequence[float]) -> int:
    """+1 or -1 where the 95% t-interval of the mean of one difference a seed lies above or below 0; else 0.

    One seed tells nothing. Seeds that all differ by the same amount, other than 0, have no noise.
    """
    if len(differences) < 2:
        return 0
    found = over_seeds(differences)
    half = T_95[min(len(differences) - 2, len(T_95) - 1)] * found["deviation"] / math.sqrt(len(differences))
    centre = found["mean"]
    return 0 if abs(centre) <= half else int(math.copysign(1, centre))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A checkpoint on an arm's front, and how another arm fares at the same accuracy."""

    step: int
    accuracy: float
    """Mean over seeds."""
    sign: int | None
    """+1: the other arm has less drift there, beyond the noise; -1: more; 0: not decided; None: in some seed it
    never reaches this accuracy."""


def points(base: Entry, arm: Runs, other: Runs) -> list[Point]:
    """The checkpoints of ``arm`` that are better than the base and on its own front, seen from ``other``.

    Drift is KL from the base per token. The other arm's is read off its path at the accuracy that ``arm`` has there,
    seed by seed. Seeds that only one of them has are left out.
    """
    seeds = [seed for seed in arm if seed in other]
    found: list[Point] = []
    for number in _front(base, [arm[seed] for seed in seeds]):
        here = {seed: arm[seed][number] for seed in seeds}
        accuracy = mean([_accuracy(entry) for entry in here.values()])
        try:
            rest = [at_skill([base, *other[seed]], _accuracy(here[seed]))["kl_per_token"] for seed in seeds]
        except ValueError:
            sign = None
        else:
            sign = sign_beyond_noise([_drift(here[seed]) - kl for seed, kl in zip(seeds, rest, strict=True)])
        found.append(Point(step=here[seeds[0]]["step"], accuracy=accuracy, sign=sign))
    return found


def dominated(seen: Sequence[Point]) -> bool:
    """True where the other arm has less drift at every point, beyond the noise. False of no points."""
    return bool(seen) and all(point.sign == 1 for point in seen)


def _front(base: Entry, runs: Sequence[Sequence[Entry]]) -> list[int]:
    """Numbers of the checkpoints above the base that no other of the same arm beats, by means over seeds."""
    means = [
        (mean([_accuracy(entry) for entry in turn]), mean([_drift(entry) for entry in turn]))
        for turn in zip(*runs, strict=True)
    ]
    beaten = [
        any(a >= accuracy and kl <= drift and (a, kl) != (accuracy, drift) for a, kl in means)
        for accuracy, drift in means
    ]
    start = _accuracy(base)
    return [number for number, (accuracy, _) in enumerate(means) if accuracy > start and not beaten[number]]


def _accuracy(entry: Entry) -> float:
    return entry["new_task"]["accuracy"]


def _drift(entry: Entry) -> float:
    return entry["drift"]["kl_per_token"]
