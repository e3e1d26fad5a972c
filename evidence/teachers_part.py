"""The page's part about the teachers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence.markdown import number, percent, table


def teachers_part(files: Sequence[Path]) -> list[str]:
    """Markdown lines about the untrained model with a demonstration in sight.

    Args:
        files: what ``preflight --json`` printed, a file for each task; at least one.
    """
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    names = [each["name"] for each in next(iter(found.values()))["templates"]]
    heads = ["task", "rows", "student %", *(f"{name} %, KL" for name in names)]
    rows = [
        [f"`{task}`", str(each["num_rows"]), _percent(each["base_accuracy"]), *map(_teacher, each["templates"])]
        for task, each in found.items()
    ]
    said = (
        "Right answers of the untrained model on training rows, greedily: as the student, and as the teacher by the "
        "way in which it is shown the demonstration, with KL(teacher‖student) per token of the student's answers:"
    )
    return ["### teachers", "", said, *table(heads, rows)][:-1]


def _teacher(template: dict[str, Any]) -> str:
    if template["refused"]:
        return "refused"
    divergence = template["kl_per_token"]
    return _percent(template["accuracy"]) + ("" if divergence is None else f", {number([divergence])}")


def _percent(share: float | None) -> str:
    return "" if share is None else percent([share])
