"""Summaries of a sequence of tasks. R[i][j] is the score on task j after stage i; stage j taught task j."""

from collections.abc import Sequence

from selfdistill.stats.scores import mean


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
    """Mean over the tasks j < T-1 of R[T-1][j] - R[j][j]; negative means loss; 0 for a single task.

    Source: Lopez-Paz and Ranzato, arXiv 1706.08840. ValueError unless R is square.
    """
    rows = _square(matrix)
    return mean([rows[-1][task] - rows[task][task] for task in range(len(rows) - 1)]) if len(rows) > 1 else 0.0


def forward_transfer(matrix: Sequence[Sequence[float]], base: Sequence[float]) -> float:
    """Mean over the tasks j > 0 of R[j-1][j] - base[j]: what earlier stages gave a task in advance; 0 for
    a single task.

    ``base[j]`` is the untrained model's score. Source: Lopez-Paz and Ranzato, arXiv 1706.08840. ValueError
    unless R is square and base as long.
    """
    rows = _square(matrix)
    if len(base) != len(rows):
        raise ValueError(f"base has {len(base)} scores for {len(rows)} tasks")
    return mean([rows[task - 1][task] - base[task] for task in range(1, len(rows))]) if len(rows) > 1 else 0.0


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over the tasks j < T-1 of max over i < T-1 of R[i][j], minus R[T-1][j]; 0 for a single task.

    Unlike the negative of backward transfer it compares with the best earlier score, not with R[j][j].
    Source: Chaudhry et al., arXiv 1801.10112. ValueError unless R is square.
    """
    rows = _square(matrix)
    best = [max(row[task] for row in rows[:-1]) for task in range(len(rows) - 1)]
    return mean([top - last for top, last in zip(best, rows[-1], strict=False)]) if best else 0.0


def normalized(matrix: Sequence[Sequence[float]], base: Sequence[float]) -> list[list[float | None]]:
    """(R[i][j] - base[j]) / (best[j] - base[j]), where best[j] is the highest R[i][j] of all stages i.

    0 is the untrained model, 1 the best score that any stage reached on the task. None for a task that never rose
    above its base.

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
