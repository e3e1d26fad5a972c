"""The report's tables, made once for the page, for Markdown and for CSV."""

import csv
import io
import math
from collections import defaultdict

from selfdistill.report.contents import Comparison, Estimate, Results, Run
from selfdistill.report.evaluations import change_estimate
from selfdistill.report.study_tables import study_tables
from selfdistill.report.table import DRIFT_COLUMNS, Column, Table, Value, drift_cells

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a formula begins with in a spreadsheet."""


def all_tables(results: Results) -> list[Table]:
    """Every table that has rows, in the order of the page, without columns that are empty in all rows."""
    tables = [scores(results), pairs(results), drift(results)]
    tables += [*study_tables(results), training(results), time(results)]
    return [_without_empty_columns(table) for table in tables if table.rows]


def scores(results: Results) -> Table:
    """Score before, score after and change, for each run, data set, part and scorer."""
    columns = [
        Column(title="run"),
        Column(title="data set"),
        Column(title="part"),
        Column(title="scorer"),
        Column(title="rows", kind="count"),
        Column(title="before %", kind="percent", meaning="score"),
        Column(title="after %", kind="percent", meaning="score"),
        Column(title="change", kind="points", meaning="change"),
        Column(title="verdict", meaning="verdict"),
        Column(title="fixed", kind="count", meaning="fixed"),
        Column(title="broke", kind="count", meaning="broke"),
        Column(title="p", kind="p", meaning="p value"),
        Column(title="could show", kind="percent", meaning="could show"),
    ]
    scorers = {comparison.metric for comparison in results.comparisons}
    rows = [_score_row(comparison, results, one_scorer=len(scorers) == 1) for comparison in results.comparisons]
    title = "Scores before and after" + (f", scorer: {min(scorers)}" if len(scorers) == 1 else "")
    return Table(name="scores", section="scores", title=title, columns=columns, rows=rows)


def pairs(results: Results) -> Table:
    """Every two runs compared on the same rows."""
    columns = [
        Column(title="data set"),
        Column(title="first"),
        Column(title="second"),
        Column(title="second minus first", kind="points", meaning="change"),
        Column(title="second better", kind="count"),
        Column(title="first better", kind="count"),
        Column(title="p", kind="p", meaning="p value"),
        Column(title="could show", kind="percent", meaning="could show"),
    ]
    rows: list[list[Value]] = []
    for pair in results.between_runs:
        test = pair.test
        row: list[Value] = [pair.dataset, pair.first, pair.second, change_estimate(test)]
        rows.append([*row, test.num_better, test.num_worse, test.p_value, test.detectable])
    return Table(name="between_runs", section="scores", title="Runs against each other", columns=columns, rows=rows)


def drift(results: Results) -> Table:
    """Drift from the base model on general prompts."""
    columns = [
        Column(title="run"),
        Column(title="when"),
        *DRIFT_COLUMNS,
    ]
    rows: list[list[Value]] = [[_run(one.run, results), one.when, *drift_cells(one.drift)] for one in results.drift]
    return Table(name="drift", section="scores", title="Drift on general prompts", columns=columns, rows=rows)


def training(results: Results) -> Table:
    """One row for each training run: its length, its cost and its last numbers."""
    columns = [
        Column(title="run"),
        Column(title="method"),
        Column(title="learning rate", kind="rate"),
        Column(title="steps", kind="count"),
        Column(title="last loss", kind="number", meaning="loss"),
        Column(title="tokens per completion", kind="number", meaning="completion_tokens"),
        Column(title="cut off %", kind="percent", meaning="truncated_share"),
        Column(title="tokens seen", kind="count", meaning="tokens_seen"),
        Column(title="seconds", kind="count", meaning="wall_seconds"),
    ]
    rows: list[list[Value]] = []
    for run in (run for run in results.runs if run.training):
        last = run.training[-1]
        row: list[Value] = [_run(run.name, results), run.method, run.settings.get("learning_rate"), last["step"]]
        names = ("loss", "completion_tokens", "truncated_share", "tokens_seen", "wall_seconds")
        row += [last.get(name) for name in names]
        rows.append(row)
    return Table(name="training", section="training", title="Training runs", columns=columns, rows=rows)


def time(results: Results) -> Table:
    """Seconds of each run by part of a training step."""
    columns = [
        Column(title="run"),
        Column(title="part of a step"),
        Column(title="seconds", kind="number"),
        Column(title="share %", kind="percent"),
    ]
    rows: list[list[Value]] = []
    for run in results.runs:
        spent = _seconds(run)
        total = math.fsum(spent.values())
        for name, seconds in spent.items() if total else ():
            rows.append([_run(run.name, results), name, seconds, seconds / total])
    return Table(name="time", section="training", title="Where the time went", columns=columns, rows=rows)


def to_csv(table: Table) -> str:
    """The table as CSV: unrounded numbers, shares in [0, 1], and separate columns for the ends of intervals. Texts that
    a spreadsheet would take for a formula come after an apostrophe."""
    wide = [any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        title
        for column, is_wide in zip(table.columns, wide, strict=True)
        for title in _csv_titles(column.title.removesuffix(" %").partition(" [")[0], is_wide)
    )
    for row in table.rows:
        writer.writerow(cell for value, is_wide in zip(row, wide, strict=True) for cell in _csv_cells(value, is_wide))
    return file.getvalue()


def _csv_titles(title: str, is_wide: bool) -> list[str]:
    return [title, f"{title} low", f"{title} high"] if is_wide else [title]


def _csv_cells(value: Value, is_wide: bool) -> list[str | float | None]:
    if isinstance(value, Estimate):
        return [value.value, value.low, value.high]
    cell = f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
    return [cell, None, None] if is_wide else [cell]


def _score_row(comparison: Comparison, results: Results, *, one_scorer: bool) -> list[Value]:
    c, test = comparison, comparison.test
    row: list[Value] = [_run(c.run, results), c.dataset, c.part, "" if one_scorer else c.metric]
    row += [c.after.num_total, c.before, c.after]
    if test is None:
        return [*row, *[None] * 6]
    changed: list[Value] = [change_estimate(test), test.verdict, test.num_better, test.num_worse]
    return [*row, *changed, test.p_value, test.detectable]


def _run(name: str, results: Results) -> str:
    """A run's name; empty if it is the only run."""
    return name if len(results.runs) > 1 else ""


def _seconds(run: Run) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    for row in run.training:
        for name, value in row.items():
            if name.startswith("seconds/") and value is not None:
                spent[name.removeprefix("seconds/").replace("_", " ")] += value
    return spent


def _without_empty_columns(table: Table) -> Table:
    """The table without empty columns. Those of a matrix stay, since its diagonal is found by counting columns."""
    kept = [
        i
        for i, column in enumerate(table.columns)
        if column.kind == "heat" or any(row[i] not in (None, "") for row in table.rows)
    ]
    return Table(
        name=table.name,
        section=table.section,
        title=table.title,
        columns=[table.columns[i] for i in kept],
        rows=[[row[i] for i in kept] for row in table.rows],
    )
