"""Several completions of a row: mean score, pass@k, and majority vote."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from selfdistill.stats.scores import mean, pass_at_k
from selfdistill.types import EvalResult, ScoredSample


def one_row(attempts: Sequence[ScoredSample]) -> ScoredSample:
    """A row's sample: the only attempt, or the first one with the mean scores, and all of them in ``attempts``."""
    if len(attempts) == 1:
        return attempts[0]
    scores = {name: [s for one in attempts if (s := one.scores[name]) is not None] for name in attempts[0].scores}
    means = {name: mean(values) if values else None for name, values in scores.items()}
    return replace(attempts[0], attempts=tuple(attempts), scores=means)


def pass_rates(result: EvalResult) -> dict[str, float]:
    """pass@k of the headline scorer, by k; empty if rows have one completion each, or none was scored.

    A completion passes if its score is 1. Unscored completions are left out, and rows with fewer than k scored ones do
    not count for pass@k.
    """
    rows = [sample for sample in result.samples if sample.attempts]
    if not rows:
        return {}
    scores = [[s for one in row.attempts if (s := one.scores[result.metric]) is not None] for row in rows]
    means: dict[str, float] = {}
    for k in budgets(max(len(row.attempts) for row in rows)):
        rates = [pass_at_k(len(row), row.count(1.0), k) for row in scores if len(row) >= k]
        if rates:
            means[str(k)] = mean(rates)
    return means


def majority(result: EvalResult) -> list[float] | None:
    """The score of each row's most frequent answer, without unscored rows; None if rows have one completion each."""
    rows = [sample for sample in result.samples if sample.attempts]
    votes = [vote(row, result.metric) for row in rows]
    return [score for score in votes if score is not None] if rows else None


def vote(row: ScoredSample, metric: str) -> float | None:
    """The score of the answer that most attempts gave; the first of several that are equally frequent."""
    (winner, _), *_ = Counter(one.answer for one in row.attempts).most_common(1)
    return next(one.scores[metric] for one in row.attempts if one.answer == winner)


def budgets(num_samples: int) -> list[int]:
    """The values of k for pass@k: powers of two up to ``num_samples``, and ``num_samples``."""
    return sorted({*(2**power for power in range(num_samples.bit_length())), num_samples})
