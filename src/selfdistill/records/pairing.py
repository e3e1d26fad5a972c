"""Two evaluations of the same rows: the rows that both scored, and the test of them."""

from collections.abc import Iterable

from selfdistill.errors import UserError
from selfdistill.records.evaluations import SampleRecord
from selfdistill.stats.paired import PairedTest, paired_test


def paired_scores(
    first: Iterable[SampleRecord], second: Iterable[SampleRecord], metric: str, what: str, part: str = ""
) -> tuple[list[float], list[float]]:
    """Scores of the rows that both have a score for, in the order of the first; of one part where it is named.

    Args:
        first: rows of one evaluation.
        second: rows of the other.
        metric: name of the scorer.
        what: names them in the message, as in ``tooluse``.
        part: part of the evaluation set; empty for all of it.

    Raises:
        UserError: a row of the same id has another prompt in one than in the other.
    """
    others = {row.id: row for row in second}
    ours: list[float] = []
    theirs: list[float] = []
    for row in first:
        other = others.get(row.id)
        if other is None or (part and row.part != part):
            continue
        if row.prompt != other.prompt:
            raise UserError(
                f"{what} can't be compared: the prompt of row {row.id} differs. Evaluate both on the same data."
            )
        a, b = row.scores.get(metric), other.scores.get(metric)
        if a is not None and b is not None:
            ours.append(a)
            theirs.append(b)
    return ours, theirs


def row_test(
    first: Iterable[SampleRecord], second: Iterable[SampleRecord], metric: str, what: str, part: str = ""
) -> PairedTest | None:
    """The paired test of the second against the first over those rows; None where there is none. Raises UserError as
    ``paired_scores``."""
    ours, theirs = paired_scores(first, second, metric, what, part)
    return paired_test(ours, theirs) if ours else None
