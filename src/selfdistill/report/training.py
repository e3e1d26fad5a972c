"""A run's config, curves and rollouts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from selfdistill import run_folder
from selfdistill.errors import UserError
from selfdistill.records.runs import RolloutRecord, run_in
from selfdistill.report.contents import PositionMean, RolloutView, Run

ROLLOUTS_SHOWN = 12
PHASES = ("early", "middle", "late")

_Item = TypeVar("_Item")


def read_run(folder: Path, name: str) -> Run:
    """What the folder tells of training; all empty in a folder that holds an evaluation only. Raises UserError for a
    broken file."""
    metrics, rollouts_file = folder / run_folder.METRICS, folder / run_folder.ROLLOUTS
    rollouts = run_folder.read_records(rollouts_file, RolloutRecord) if rollouts_file.is_file() else []
    try:
        lines = list(run_folder.read_jsonl(metrics)) if metrics.is_file() else []
    except ValueError as error:
        raise UserError(f"{metrics} has a line that is not JSON ({error}). Run the command that wrote it.") from error
    return Run(
        name=name,
        config=run_in(str(folder)),
        training=[row for row in lines if "loss" in row],
        positions=mean_by_position(rollouts),
        rollouts=[_view(row) for row in spread(rollouts, ROLLOUTS_SHOWN)],
    )


def mean_by_position(rollouts: Sequence[RolloutRecord]) -> list[PositionMean]:
    """Mean divergence at each completion position, for each third of the steps that left rollouts.

    Only rollouts held to a teacher count: the cross-entropy of given tokens is another quantity.
    """
    rollouts = [row for row in rollouts if row.target == "teacher"]
    steps = sorted({row.step for row in rollouts})
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rollouts:
        phase = PHASES[steps.index(row.step) * len(PHASES) // len(steps)]
        for position, value in zip(row.loss_positions, row.per_token_kl, strict=True):
            if value is not None:
                values[phase, position].append(value)
    return [
        PositionMean(phase=phase, position=position, divergence=sum(found) / len(found), num_rollouts=len(found))
        for (phase, position), found in sorted(values.items(), key=lambda item: (PHASES.index(item[0][0]), item[0][1]))
    ]


def spread(items: Sequence[_Item], limit: int) -> list[_Item]:
    """At most ``limit`` items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def _view(row: RolloutRecord) -> RolloutView:
    values = row.per_token_cross_entropy if row.target == "tokens" else row.per_token_kl
    found = dict(zip(row.loss_positions, values, strict=False))  # an interrupted step has no values
    return RolloutView(
        step=row.step,
        id=row.id,
        target=row.target,
        student_prompt=row.student_prompt,
        teacher_prompt=row.teacher_prompt or "",
        tokens=row.tokens,
        per_token=[found.get(position) for position in range(len(row.tokens))],
        finish_reason=row.finish_reason,
    )
