"""A run's config, curves and rollouts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.report.contents import RolloutView, Run
from selfdistill.report.evaluations import read_json, read_rows

ROLLOUTS_SHOWN = 12
PHASES = ("early", "middle", "late")


def read_run(folder: Path, name: str) -> Run:
    """What the folder tells of training; all empty in a folder that holds an evaluation only."""
    config = read_json(folder / run_folder.CONFIG) if (folder / run_folder.CONFIG).exists() else {}
    rollouts = read_rows(folder / run_folder.ROLLOUTS)
    first = rollouts[0]["id"] if rollouts else ""
    return Run(
        name=name,
        task=config.get("task") or (first.split("/")[0] if "/" in first else ""),
        method=config.get("settings", {}).get("method", ""),
        config=config,
        training=[row for row in read_rows(folder / run_folder.METRICS) if "loss" in row],
        positions=mean_by_position(rollouts),
        rollouts=[_view(row) for row in spread(rollouts, ROLLOUTS_SHOWN)],
    )


def mean_by_position(rollouts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean divergence at each completion position, for each third of the steps that left rollouts.

    Only rollouts held to a teacher count: what SFT and the like note per token is another quantity.
    """
    rollouts = [row for row in rollouts if row.get("target") == "teacher" and "per_token_kl" in row]
    steps = sorted({row["step"] for row in rollouts})
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rollouts:
        phase = PHASES[steps.index(row["step"]) * len(PHASES) // len(steps)]
        for position, value in zip(row["loss_positions"], row["per_token_kl"], strict=True):
            if value is not None:
                values[phase, position].append(value)
    return [
        {"phase": phase, "position": position, "divergence": sum(found) / len(found), "num_rollouts": len(found)}
        for (phase, position), found in sorted(values.items(), key=lambda item: (PHASES.index(item[0][0]), item[0][1]))
    ]


def spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` items, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def _view(row: dict[str, Any]) -> RolloutView:
    tokens = row.get("tokens") or [row["completion"]]
    found = dict(zip(row.get("loss_positions", ()), row.get("per_token_kl", ()), strict=False))
    return RolloutView(
        step=row["step"],
        id=row["id"],
        target=row.get("target", ""),
        student_prompt=row["student_prompt"],
        teacher_prompt=row["teacher_prompt"],
        tokens=tokens,
        per_token=[found.get(position) for position in range(len(tokens))] if row.get("tokens") else [None],
        finish_reason=row.get("finish_reason", ""),
    )
