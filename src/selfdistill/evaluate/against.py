"""A result against an earlier one of the same test, such as the base model's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfdistill.evaluate.leak import leak_check
from selfdistill.run_folder import RESPONSES, RESULTS
from selfdistill.stats.same_test import require_comparable, shared_scores
from selfdistill.stats.scores import mcnemar, mean, paired_interval
from selfdistill.types import ScoredSample, UserError

Rows = list[dict[str, Any]]


def read_results(folder: Path, dataset: str) -> tuple[dict[str, Any], Rows]:
    """What ``eval`` left for a data set in ``folder`` itself or, beside others, in its subfolder of that name.

    Raises:
        UserError: the files are not there, or are no results.
    """
    place = folder / dataset if (folder / dataset / RESULTS).is_file() else folder
    try:
        numbers = json.loads((place / RESULTS).read_text(encoding="utf-8"))
        rows = json.loads((place / RESPONSES).read_text(encoding="utf-8"))
        task = numbers["config"]["task"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--base_results: {place} holds no results of {dataset}. Name an eval's --output_dir."
        ) from error
    if task != dataset:
        raise UserError(f"--base_results: {place} holds results of {task}, not of {dataset}. Name another folder.")
    return numbers, rows


def against_base(
    numbers: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    samples: Sequence[ScoredSample],
    base_numbers: Mapping[str, Any],
    base_rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The paired comparison, over the rows that both have a score for, and the leak check.

    Args:
        numbers: ``evaluate.run.summary`` of the result.
        rows: its ``evaluate.run.responses``.
        samples: its samples.
        base_numbers: the same of the base, as the files hold it.
        base_rows: the base's rows.

    Returns:
        ``num_rows``, ``base_accuracy`` and ``accuracy`` over them, ``change`` (ours minus the base's) with its 95%
        ``interval``, ``p_value`` (McNemar, exact) and ``leak`` (see ``leak_check``).

    Raises:
        UserError: the two are not results of the same test; the message names the field that differs.
    """
    what = str(numbers["config"]["task"])
    require_comparable(base_numbers, numbers, what)
    metric = numbers["config"]["metric"]
    earlier = {row["id"]: row for row in base_rows}
    base, ours = shared_scores(earlier, {row["id"]: row for row in rows}, metric, what)
    if not ours:
        raise UserError(f"{what} can't be compared: no row is scored in both results. Evaluate both on the same rows.")
    change, low, high = paired_interval(base, ours)
    return {
        "num_rows": len(ours),
        "base_accuracy": mean(base),
        "accuracy": mean(ours),
        "change": change,
        "interval": [low, high],
        "p_value": mcnemar(base, ours),
        "leak": leak_check(samples, {name: row["completion"] for name, row in earlier.items()}),
    }
