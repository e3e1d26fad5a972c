"""The method that a preflight recommends, by the measurements of docs/evidence.md."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.method.methods import METHODS
from selfdistill.run_folder import FORMAT

FILE = Path(__file__).with_name("measured.json")
"""What the studies of the evidence found; ``make evidence`` writes it."""
UNKNOWN = "Which method forgets less here is not known: selfdistill compare --methods sdft,sft finds out."


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTask:
    """A comparison's outcome."""

    name: str
    base_accuracy: float
    """The untrained student's, in [0, 1]."""
    winners: list[str]
    """Arms that drifted less than every arm of the other kind, with a teacher or without one, at the same skill and
    beyond the noise of the seeds."""
    anchored: float | None = None
    """Drift of SFT with anchors as a share of that without, at the highest accuracy that both reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the evidence found."""

    model: str
    arms: dict[str, dict[str, Any]]
    """Settings of each arm, by its name."""
    tasks: list[MeasuredTask]
    format: int = FORMAT

    def best(self) -> tuple[str, int] | None:
        """The arm that won the most comparisons, and how many; None if none won more than half of them."""
        ((name, count),) = Counter(arm for task in self.tasks for arm in task.winners).most_common(1) or [("", 0)]
        return (name, count) if 2 * count > len(self.tasks) else None

    def anchored(self) -> list[float]:
        """Shares of SFT's drift that anchors left, from the least, in the comparisons that had both."""
        return sorted(task.anchored for task in self.tasks if task.anchored is not None)


def advice(base_accuracy: float | None, measured: Measured | None = None) -> str:
    """A sentence or two for people.

    Args:
        base_accuracy: the untrained student's, in [0, 1]; None if it is not known.
        measured: what is known; by default the evidence.
    """
    found = measured or _evidence()
    best = found.best()
    if base_accuracy is None or base_accuracy > max(task.base_accuracy for task in found.tasks):
        return UNKNOWN
    if best is None:
        return _of_anchors(base_accuracy, found)
    (name, count), of = best, len(found.tasks)
    others = "a method without a teacher" if METHODS[found.arms[name]["method"]].has_teacher else "self-distillation"
    flags = " ".join(f"--{setting} {value}" for setting, value in found.arms[name].items())
    return (
        f"The student is right in {base_accuracy:.0%} of rows. In {count} of {of} comparisons with such a student "
        f"({found.model}) {flags} drifted less at the same skill than {others} (docs/evidence.md): try it too."
    )


def _of_anchors(base_accuracy: float, found: Measured) -> str:
    """What is known where no arm won."""
    shares = found.anchored()
    if not shares or shares[-1] >= 1:
        return UNKNOWN
    return (
        f"The student is right in {base_accuracy:.0%} of rows. In {len(shares)} of {len(found.tasks)} comparisons with "
        f"such a student ({found.model}) --method sft with --anchor_share moved {shares[0]:.0%} to {shares[-1]:.0%} as "
        "far as without at the same skill (docs/evidence.md). Whether self-distillation keeps more was not decided: "
        "selfdistill compare --methods sdft,sft finds out."
    )


@cache
def _evidence() -> Measured:
    return run_folder.read_record(FILE, Measured)
