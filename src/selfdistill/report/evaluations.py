"""Evaluations in a run folder, and the paired test of two of them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.report.contents import BETTER, NOT_ENOUGH_DATA, WORSE, Comparison, Drift, Measure, Paired
from selfdistill.stats import same_test as comparable
from selfdistill.stats.scores import detectable_difference, mcnemar, paired_interval
from selfdistill.types import UserError

BEFORE, AFTER, DRIFT = "eval-before", "eval", "drift"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What ``eval`` left for one data set."""

    dataset: str
    numbers: dict[str, Any]
    """As ``evaluate.run.summary`` gives them."""
    rows: dict[str, dict[str, Any]]
    """Rows of the samples file by id."""

    @property
    def metric(self) -> str:
        """Name of the headline scorer."""
        return self.numbers.get("config", {}).get("metric") or next(iter(self.numbers.get("metrics", {})), "score")


def read_json(path: Path) -> Any:
    """The value of a JSON file; NaN and infinities, which JSON does not know, become None.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return without_nan(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}). Run the command that wrote it again.") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, NaN and infinities as None; none if there is no such file.

    Raises:
        UserError: a line is not JSON.
    """
    try:
        return without_nan(list(run_folder.read_jsonl(path))) if path.exists() else []
    except ValueError as error:
        raise UserError(
            f"{path} has a line that is not JSON ({error}). Run the command that wrote it again."
        ) from error


def without_nan(value: Any) -> Any:
    """A JSON value with None for every number that is not finite."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_evaluations(folder: Path) -> dict[str, Evaluation]:
    """Evaluations in ``eval`` or ``eval-before`` by data set; ``drift`` is not among them."""
    found: dict[str, Evaluation] = {}
    for path in sorted(folder.glob("*.json")):
        numbers = read_json(path)
        if path.stem == DRIFT or "num_total" not in numbers:
            continue
        rows = {row["id"]: row for row in read_rows(folder / f"{path.stem}.samples.jsonl")}
        found[path.stem] = Evaluation(dataset=path.stem, numbers=numbers, rows=rows)
    return found


def read_drift(folder: Path, run: str, when: str) -> list[Drift]:
    """The drift measured in ``folder``, if any."""
    path = folder / f"{DRIFT}.json"
    if not path.exists():
        return []
    numbers = read_json(path)
    names = ("kl_per_token", "reference_nll", "format_leak_rate")
    return [Drift(run=run, when=when, **{name: numbers.get(name) for name in names})]


def measure(numbers: dict[str, Any]) -> Measure:
    """A Measure of the accuracy, interval and num_total that ``summary`` gives."""
    low, high = numbers.get("interval") or (None, None)
    return Measure(value=numbers.get("accuracy"), low=low, high=high, num_total=numbers["num_total"])


def compare(run: str, before: Evaluation | None, after: Evaluation, *, headline: bool) -> list[Comparison]:
    """The headline scorer over all rows, then over each part, then the other scorers over all rows."""
    differing = differing_settings(before, after) if before else []
    parts = after.numbers.get("parts", {})
    scopes = [("", after.metric, after.numbers)]
    scopes += [(part, after.metric, numbers) for part, numbers in parts.items()]
    scopes += [("", name, values) for name, values in after.numbers.get("metrics", {}).items() if name != after.metric]
    found: list[Comparison] = []
    for part, metric, numbers in scopes:
        earlier = None
        if before and metric == before.metric and not part:
            earlier = before.numbers
        elif before:
            earlier = before.numbers.get("parts" if part else "metrics", {}).get(part or metric)
        found.append(
            Comparison(
                run=run,
                dataset=after.dataset,
                part=part,
                metric=metric,
                headline=headline and not part and metric == after.metric,
                before=measure(earlier) if earlier else None,
                after=measure(numbers),
                paired=None if before is None or differing else paired(before, after, metric, part),
            )
        )
    return found


def differing_settings(before: Evaluation, after: Evaluation) -> list[str]:
    """Names of the settings that make two evaluations different tests."""
    return comparable.differing_settings(before.numbers.get("config", {}), after.numbers.get("config", {}))


def paired(before: Evaluation, after: Evaluation, metric: str, part: str = "") -> Paired | None:
    """The paired test over the rows that both have a score for; None if there is no such row."""
    a_scores: list[float] = []
    b_scores: list[float] = []
    for name, row in after.rows.items():
        earlier = before.rows.get(name)
        if earlier is None or (part and row.get("part") != part):
            continue
        a, b = earlier["scores"].get(metric), row["scores"].get(metric)
        if a is not None and b is not None:
            a_scores.append(a)
            b_scores.append(b)
    return paired_test(a_scores, b_scores) if a_scores else None


def paired_test(a_scores: Sequence[float], b_scores: Sequence[float]) -> Paired:
    """Change from a to b over the same items, with its verdict."""
    fixed = sum(b > a for a, b in zip(a_scores, b_scores, strict=True))
    broke = sum(b < a for a, b in zip(a_scores, b_scores, strict=True))
    difference, low, high = paired_interval(a_scores, b_scores)
    p_value = mcnemar(a_scores, b_scores)
    verdict = NOT_ENOUGH_DATA
    if p_value < 0.05 and (fixed - broke) * difference > 0:
        verdict = BETTER if difference > 0 else WORSE
    detectable = detectable_difference(len(a_scores), (fixed + broke) / len(a_scores))
    return Paired(
        change=Measure(value=difference, low=low, high=high, num_total=len(a_scores)),
        p_value=p_value,
        fixed=fixed,
        broke=broke,
        detectable=detectable if math.isfinite(detectable) else None,
        verdict=verdict,
    )
