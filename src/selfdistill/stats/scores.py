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


def mcnemar(a_scores: Sequence[float], b_scores: Sequence[float]) -> float:
    """Two-sided p-value of the exact McNemar test that two models do equally well on the same items.

    Only items whose scores differ count; each is a coin toss under the null hypothesis. With scores other
    than 0 and 1 it is the sign test. 1.0 where no item differs. Source: Q. McNemar, Psychometrika 12 (1947).

    Args:
        a_scores: one model's score per item.
        b_scores: the other's, in the same order.

    Raises:
        ValueError: the two differ in length.
    """
    a_wins = sum(a > b for a, b in zip(a_scores, b_scores, strict=True))
    b_wins = sum(a < b for a, b in zip(a_scores, b_scores, strict=True))
    tosses = a_wins + b_wins
    tail = sum(math.comb(tosses, heads) for heads in range(min(a_wins, b_wins) + 1))
    return min(1.0, 2 * tail / 2**tosses)


def paired_interval(
    a_scores: Sequence[float], b_scores: Sequence[float], z: float = 1.959963984540054
) -> tuple[float, float, float]:
    """Mean of b - a over the same items, and its interval (by default 95%), in [-1, 1].

    For scores of 0 and 1 it is the adjusted Wald interval of D. G. Bonett and R. M. Price, Journal of
    Educational and Behavioral Statistics 37 (2012), which stays honest where few or no items differ;
    for other scores the paired bootstrap, whatever ``z``. (0, -1, 1) of nothing.

    Raises:
        ValueError: the two differ in length.
    """
    differences = [b - a for a, b in zip(a_scores, b_scores, strict=True)]
    if not differences:
        return 0.0, -1.0, 1.0
    if not set(a_scores) | set(b_scores) <= {0, 1}:
        return paired_bootstrap(a_scores, b_scores)
    size = len(differences) + 2
    b_wins = (differences.count(1) + 1) / size
    a_wins = (differences.count(-1) + 1) / size
    half = z * math.sqrt((b_wins + a_wins - (b_wins - a_wins) ** 2) / size)
    centre = b_wins - a_wins
    return mean(differences), max(-1.0, centre - half), min(1.0, centre + half)


def paired_bootstrap(
    a_scores: Sequence[float], b_scores: Sequence[float], num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of b - a over the same items, and its 95% percentile interval when items are drawn again.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    differences = [b - a for a, b in zip(a_scores, b_scores, strict=True)]
    if not differences:
        raise ValueError("paired_bootstrap needs at least one item")
    import numpy as np  # keeps this module light for the command line

    values = np.asarray(differences)
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return mean(differences), float(low), float(high)


def detectable_difference(num_items: int, changed_share: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true difference that a McNemar test of this size finds with probability ``power``, in (0, 1].

    Args:
        num_items: items that both models answered.
        changed_share: share of items whose score differs between the two, in [0, 1].
        power: chance to find the difference.
        alpha: level of the two-sided test.

    Returns:
        The solution of R. J. Connor's sample-size formula, Biometrics 43 (1987), but never less than the
        6 items that an exact test needs at 5%; infinity where even a difference of 1 would not be found.
    """
    from statistics import NormalDist

    normal = NormalDist()
    z_alpha, z_power = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
    at_least = math.ceil(math.log2(2 / alpha))  # tosses that must all fall alike for p < alpha
    if num_items < at_least:
        return math.inf

    def found(difference: float) -> bool:
        changed = max(changed_share, difference)
        spread = z_alpha * math.sqrt(changed) + z_power * math.sqrt(changed - difference**2)
        return spread**2 <= num_items * difference**2

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return max(high, at_least / num_items)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased chance that at least one of ``k`` samples is right, given ``num_correct`` of ``num_samples``.

    1 - C(n - c, k) / C(n, k); source: M. Chen et al., arXiv 2107.03374.

    Raises:
        ValueError: not 0 <= num_correct <= num_samples, or not 1 <= k <= num_samples.
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct must lie in [0, {num_samples}], not {num_correct}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must lie in [1, {num_samples}], not {k}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing all of them, in the given order. Source: S. Holm, Scand. J. Stat. 6 (1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def over_seeds(differences: Sequence[float]) -> dict[str, float]:
    """``mean``, sample ``deviation`` (0 of one seed) and ``sign_consistency`` of one difference per seed.

    Sign consistency is the share of seeds whose difference has the sign of the mean; 1 where all are 0.

    Raises:
        ValueError: no seed.
    """
    if not differences:
        raise ValueError("over_seeds needs at least one seed")
    centre = mean(differences)
    squares = sum((value - centre) ** 2 for value in differences)
    deviation = math.sqrt(squares / (len(differences) - 1)) if len(differences) > 1 else 0.0
    same = sum(value * centre > 0 or value == centre == 0 for value in differences)
    return {"mean": centre, "deviation": deviation, "sign_consistency": same / len(differences)}


# Continual learning. R[i][j] is the score on task j after stage i; stage j taught task j.


def average_accuracy(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over all tasks j of R[T-1][j]: what the last model can do. ValueError unless R is square."""
    return mean(_square(matrix)[-1])


def average_incremental_accuracy(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over stages i of the mean over the tasks j <= i seen so far of R[i][j]. ValueError unless R is square."""
    return mean([mean(row[: stage + 1]) for stage, row in enumerate(_square(matrix))])


def learning_accuracy(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over tasks j of R[j][j]: each task just after its stage. ValueError unless R is square."""
    return mean([row[stage] for stage, row in enumerate(_square(matrix))])


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over the tasks j < T-1 of R[T-1][j] - R[j][j]; negative is loss, 0 where there is one task.

    Source: Lopez-Paz and Ranzato, arXiv 1706.08840. ValueError unless R is square.
    """
    rows = _square(matrix)
    return mean([rows[-1][task] - rows[task][task] for task in range(len(rows) - 1)]) if len(rows) > 1 else 0.0


def forward_transfer(matrix: Sequence[Sequence[float]], base: Sequence[float]) -> float:
    """Mean over the tasks j > 0 of R[j-1][j] - base[j]: what earlier stages gave a task in advance; 0 where
    there is one task.

    ``base[j]`` is the untrained model's score. Source: Lopez-Paz and Ranzato, arXiv 1706.08840. ValueError
    unless R is square and base as long.
    """
    rows = _square(matrix)
    if len(base) != len(rows):
        raise ValueError(f"base has {len(base)} scores for {len(rows)} tasks")
    return mean([rows[task - 1][task] - base[task] for task in range(1, len(rows))]) if len(rows) > 1 else 0.0


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over the tasks j < T-1 of max over i < T-1 of R[i][j], minus R[T-1][j]; 0 where there is one task.

    Unlike minus backward transfer it compares with the best earlier score, not the first one.
    Source: Chaudhry et al., arXiv 1801.10112. ValueError unless R is square.
    """
    rows = _square(matrix)
    best = [max(row[task] for row in rows[:-1]) for task in range(len(rows) - 1)]
    return mean([top - last for top, last in zip(best, rows[-1], strict=False)]) if best else 0.0


def normalized(matrix: Sequence[Sequence[float]], base: Sequence[float]) -> list[list[float | None]]:
    """(R[i][j] - base[j]) / (best[j] - base[j]) with best[j] the highest R[i][j] of all stages i: 0 is the untrained
    model, 1 the best that this sequence ever was at the task. None for a task that never rose above its base.

    ValueError unless R is square and base as long.
    """
    rows = _square(matrix)
    if len(base) != len(rows):
        raise ValueError(f"base has {len(base)} scores for {len(rows)} tasks")
    best = [max(row[task] for row in rows) for task in range(len(rows))]
    return [
        [(score - low) / (top - low) if top > low else None for score, low, top in zip(row, base, best, strict=True)]
        for row in rows
    ]


def _square(matrix: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    if not matrix or any(len(row) != len(matrix) for row in matrix):
        shape = [len(row) for row in matrix]
        raise ValueError(f"the accuracy matrix must be square: {len(matrix)} stages have rows of {shape} tasks")
    return matrix
