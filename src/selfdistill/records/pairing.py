"""Pairs the scores of two evaluations of the same rows, and tests the difference."""

from collections.abc import Iterable

from selfdistill.errors import UserError
from selfdistill.records.evaluations import SampleRecord
from selfdistill.stats.paired import PairedTest, paired_test


def paired_scores(
    first: Iterable[SampleRecord], second: Iterable[SampleRecord], metric: str, what: str, part: str = ""
) -> tuple[list[float], list[float]]:
    """Scores of the rows that are scored in both evaluations, in the order of the first.

    Args:
        first: rows of one evaluation.
        second: rows of the other.
        metric: name of the scorer.
        what: name of the data set, for the message.
        part: part of the evaluation set; empty for all of it.

    Returns:
        Scores of the first evaluation and of the second, of equal length.

    Raises:
        UserError: rows with the same id have different prompts.
    """
    others = {row.id: row for row in second}
    first_scores: list[float] = []
    second_scores: list[float] = []
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
            first_scores.append(a)
            second_scores.append(b)
    return first_scores, second_scores


def row_test(
    first: Iterable[SampleRecord], second: Iterable[SampleRecord], metric: str, what: str, part: str = ""
) -> PairedTest | None:
    """Paired test of the change from the first evaluation to the second; None if no row is scored in both.

    Arguments and errors are those of ``paired_scores``.
    """
    first_scores, second_scores = paired_scores(first, second, metric, what, part)
    return paired_test(first_scores, second_scores) if first_scores else None
