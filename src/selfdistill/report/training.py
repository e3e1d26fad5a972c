"""Reads a run's configuration, training curves and rollouts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.records.runs import RolloutRecord, run_in
from selfdistill.report.contents import PositionMean, RolloutView, Run
from selfdistill.stats.scores import mean

ROLLOUTS_SHOWN = 12
"""Number of rollouts of a run that the page shows."""
PHASES = ("early", "middle", "late")
"""Names of the thirds of training."""

_Item = TypeVar("_Item")


def read_run(folder: Path, name: str) -> Run:
    """The training run in a folder; without curves and rollouts if the folder holds an evaluation only.

    Args:
        folder: the run's folder.
        name: what the report calls the run.

    Raises:
        UserError: a file is broken.
    """
    metrics, rollouts_file = folder / run_folder.METRICS, folder / run_folder.ROLLOUTS
    rollouts = run_folder.read_records(rollouts_file, RolloutRecord) if rollouts_file.is_file() else []
    try:
        lines = list(run_folder.read_jsonl(metrics)) if metrics.is_file() else []
    except ValueError as error:
        raise UserError(f"{metrics} has a line that is not JSON ({error}). Run its command again.") from error
    return Run(
        name=name,
        config=run_in(str(folder)),
        training=[row for row in lines if "loss" in row],
        evaluations=[row for row in lines if "eval/num_scored" in row],
        positions=mean_by_position(rollouts),
        rollouts=[_rollout_view(row) for row in spread(rollouts, ROLLOUTS_SHOWN)],
    )


def mean_by_position(rollouts: Sequence[RolloutRecord]) -> list[PositionMean]:
    """Mean divergence at each completion position, for each third of the steps that have rollouts.

    Only rollouts held to a teacher count: the cross-entropy of given tokens is a different quantity.
    """
    rollouts = [row for row in rollouts if row.target == "teacher"]
    steps = sorted({row.step for row in rollouts})
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rollouts:
        phase = PHASES[steps.index(row.step) * len(PHASES) // len(steps)]
        for position, value in _values(row).items():
            if value is not None:
                values[phase, position].append(value)
    return [
        PositionMean(phase=phase, position=position, divergence=mean(at_position), num_rollouts=len(at_position))
        for (phase, position), at_position in sorted(values.items(), key=lambda it: (PHASES.index(it[0][0]), it[0][1]))
    ]


def spread(items: Sequence[_Item], limit: int) -> list[_Item]:
    """At most ``limit`` (at least 2) of the items, evenly spaced, including the first and the last."""
    if len(items) <= limit:
        return list(items)
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def _values(row: RolloutRecord) -> dict[int, float | None]:
    """Divergence, or cross-entropy for the target ``tokens``, by loss position; empty if none was recorded."""
    values = row.per_token_cross_entropy if row.target == "tokens" else row.per_token_kl
    return dict(zip(row.loss_positions, values, strict=False))


def _rollout_view(row: RolloutRecord) -> RolloutView:
    values = _values(row)
    return RolloutView(
        step=row.step,
        id=row.id,
        target=row.target,
        student_prompt=row.student_prompt,
        teacher_prompt=row.teacher_prompt or "",
        tokens=row.tokens,
        per_token=[values.get(position) for position in range(len(row.tokens))],
        finish_reason=row.finish_reason,
    )
