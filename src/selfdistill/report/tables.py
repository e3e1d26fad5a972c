"""The report's tables, once, for the page, for Markdown and for CSV."""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfdistill.report.contents import Comparison, Measure, Results, Run

Value = str | float | Measure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its title, how its values are written, and what they mean."""

    title: str
    kind: str = "text"
    """text, count, number, rate, percent, points, p, or heat (a percentage on a shaded cell)."""
    meaning: str = ""
    """Key of the glossary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: its file name, title, columns and rows of values."""

    name: str
    section: str
    """Heading of the page it stands under."""
    title: str
    columns: list[Column]
    rows: list[list[Value]]


def all_tables(results: Results) -> list[Table]:
    """Every table that has rows, in the order of the page."""
    found = [scores(results), pairs(results), drift(results)]
    found += [*compare_summary(results), *compare_checkpoints(results), *continual(results)]
    found += [training(results), time(results)]
    return [_without_empty_columns(table) for table in found if table.rows]


def scores(results: Results) -> Table:
    """Before, after and change, per run, data set, part and scorer."""
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
    """Runs against each other on the same rows."""
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
        test = pair.paired
        rows.append([pair.dataset, pair.first, pair.second, test.change, test.fixed, test.broke, test.p_value])
        rows[-1].append(test.detectable)
    return Table(name="between_runs", section="scores", title="Runs against each other", columns=columns, rows=rows)


def drift(results: Results) -> Table:
    """What moved on general prompts."""
    columns = [
        Column(title="run"),
        Column(title="when"),
        Column(title="KL a token", kind="number", meaning="kl_per_token"),
        Column(title="reference loss", kind="number", meaning="reference_nll"),
        Column(title="format leak %", kind="percent", meaning="format_leak_rate"),
    ]
    rows: list[list[Value]] = [
        [_run(d.run, results), d.when, d.kl_per_token, d.reference_nll, d.format_leak_rate] for d in results.drift
    ]
    return Table(name="drift", section="scores", title="Drift on general prompts", columns=columns, rows=rows)


def compare_summary(results: Results) -> list[Table]:
    """The last checkpoint of each method and learning rate, over its seeds."""
    last: dict[tuple[str, float, int], dict[str, Any]] = {}
    for entry in sorted(results.compare, key=lambda entry: entry["step"]):
        last[entry["method"], entry["learning_rate"], entry["seed"]] = entry
    groups: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for (method, rate, _), entry in last.items():
        groups[method, rate].append(entry)
    columns = [
        Column(title="method"),
        Column(title="learning rate", kind="rate"),
        Column(title="seeds", kind="count"),
        Column(title="step", kind="count"),
        Column(title="new task % [seeds' range]", kind="percent", meaning="new task"),
        Column(title="prior % [seeds' range]", kind="percent", meaning="prior"),
        Column(title="KL a token", kind="number", meaning="kl_per_token"),
        Column(title="reference loss", kind="number", meaning="reference_nll"),
        Column(title="format leak %", kind="percent", meaning="format_leak_rate"),
        Column(title="tokens", kind="count", meaning="tokens"),
        Column(title="seconds", kind="count", meaning="wall_s"),
    ]
    rows: list[list[Value]] = []
    for (method, rate), group in sorted(groups.items()):
        row: list[Value] = [method, rate, len(group), _mean([entry["step"] for entry in group])]
        row += [_range([e["new_task"]["accuracy"] for e in group]), _range([prior_mean(e) for e in group])]
        for name in ("kl_per_token", "reference_nll", "format_leak_rate"):
            row.append(_mean([(entry.get("drift") or {}).get(name) for entry in group]))
        rows.append([*row, _mean([e.get("tokens") for e in group]), _mean([e.get("wall_s") for e in group])])
    title = "Last checkpoint of each method, mean over seeds"
    return [Table(name="compare", section="methods", title=title, columns=columns, rows=rows)]


def compare_checkpoints(results: Results) -> list[Table]:
    """Every checkpoint of every method, seed and learning rate."""
    priors = list(dict.fromkeys(name for entry in results.compare for name in entry.get("prior") or {}))
    columns = [
        Column(title="method"),
        Column(title="learning rate", kind="rate"),
        Column(title="seed", kind="count"),
        Column(title="step", kind="count"),
        Column(title="new task %", kind="percent", meaning="new task"),
        *(Column(title=f"{name} %", kind="percent") for name in priors),
        Column(title="KL a token", kind="number", meaning="kl_per_token"),
        Column(title="reference loss", kind="number", meaning="reference_nll"),
        Column(title="format leak %", kind="percent", meaning="format_leak_rate"),
        Column(title="tokens", kind="count", meaning="tokens"),
        Column(title="seconds", kind="count", meaning="wall_s"),
    ]
    rows: list[list[Value]] = []
    for entry in results.compare:
        low, high = entry["new_task"].get("interval") or (None, None)
        skill = Measure(value=entry["new_task"]["accuracy"], low=low, high=high)
        moved, prior = entry.get("drift") or {}, entry.get("prior") or {}
        rows.append(
            [entry["method"], entry["learning_rate"], entry["seed"], entry["step"], skill]
            + [prior.get(name) for name in priors]
            + [moved.get(name) for name in ("kl_per_token", "reference_nll", "format_leak_rate")]
            + [entry.get("tokens"), entry.get("wall_s")]
        )
    return [Table(name="checkpoints", section="methods", title="All checkpoints", columns=columns, rows=rows)]


def continual(results: Results) -> list[Table]:
    """The summaries of every sequence, then each one's accuracy matrix."""
    names = ("average_accuracy", "average_incremental_accuracy", "learning_accuracy")
    signed = ("backward_transfer", "forward_transfer", "forgetting")
    columns = [Column(title="method")]
    columns += [Column(title=f"{name.replace('_', ' ')} %", kind="percent", meaning=name) for name in names]
    columns += [Column(title=name.replace("_", " "), kind="points", meaning=name) for name in signed]
    rows: list[list[Value]] = [
        [run["method"], *(run.get(name) for name in (*names, *signed))] for run in results.continual
    ]
    found = [Table(name="continual", section="sequence", title="Summary", columns=columns, rows=rows)]
    for index, run in enumerate(results.continual, start=1):
        heads = [Column(title="after stage"), *(Column(title=f"{task} %", kind="heat") for task in run["tasks"])]
        matrix: list[list[Value]] = [["before training", *run["base"]]] if run.get("base") else []
        matrix += [
            [f"{i}. {task}", *row]
            for i, (task, row) in enumerate(zip(run["tasks"], run["accuracy_matrix"], strict=True), start=1)
        ]
        of = f" of {run['method']}" if run["method"] else ""
        name = f"accuracy_matrix_{index}" if len(results.continual) > 1 else "accuracy_matrix"
        title = f"Accuracy matrix{of}"
        found.append(Table(name=name, section="sequence", title=title, columns=heads, rows=matrix))
    return found


def training(results: Results) -> Table:
    """One line a training run: its length, cost and last numbers."""
    columns = [
        Column(title="run"),
        Column(title="method"),
        Column(title="learning rate", kind="rate"),
        Column(title="steps", kind="count"),
        Column(title="last loss", kind="number", meaning="loss"),
        Column(title="tokens a completion", kind="number", meaning="completion_tokens"),
        Column(title="cut off %", kind="percent", meaning="truncated_share"),
        Column(title="tokens seen", kind="count", meaning="tokens_seen"),
        Column(title="seconds", kind="count", meaning="wall_seconds"),
    ]
    rows: list[list[Value]] = []
    for run in (run for run in results.runs if run.training):
        last = run.training[-1]
        rate = run.config.get("settings", {}).get("learning_rate")
        row: list[Value] = [_run(run.name, results), run.method, rate, last["step"]]
        row += [last.get(n) for n in ("loss", "completion_tokens", "truncated_share", "tokens_seen", "wall_seconds")]
        rows.append(row)
    return Table(name="training", section="training", title="Training runs", columns=columns, rows=rows)


def time(results: Results) -> Table:
    """Where each run's time went."""
    columns = [
        Column(title="run"),
        Column(title="part of a step"),
        Column(title="seconds", kind="number"),
        Column(title="share %", kind="percent"),
    ]
    rows: list[list[Value]] = []
    for run in results.runs:
        spent = _seconds(run)
        total = sum(spent.values())
        rows += [[_run(run.name, results), name, seconds, seconds / total] for name, seconds in spent.items() if total]
    return Table(name="time", section="training", title="Where the time went", columns=columns, rows=rows)


def prior_mean(entry: dict[str, Any]) -> float | None:
    """Mean over an entry's prior benchmarks; None if it has none."""
    return _mean(list((entry.get("prior") or {}).values()))


def to_csv(table: Table) -> str:
    """The table as CSV: raw numbers, shares in [0, 1], intervals in columns of their own."""
    wide = [any(isinstance(row[i], Measure) for row in table.rows) for i in range(len(table.columns))]
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
    if isinstance(value, Measure):
        return [value.value, value.low, value.high]
    return [value, None, None] if is_wide else [value]


def _score_row(comparison: Comparison, results: Results, *, one_scorer: bool) -> list[Value]:
    c, test = comparison, comparison.paired
    row: list[Value] = [_run(c.run, results), c.dataset, c.part, "" if one_scorer else c.metric]
    row += [c.after.num_total, c.before, c.after]
    if test is None:
        return [*row, *[None] * 6]
    return [*row, test.change, test.verdict, test.fixed, test.broke, test.p_value, test.detectable]


def _run(name: str, results: Results) -> str:
    """A run's name, which would only be noise where there is no other."""
    return name if len(results.runs) > 1 else ""


def _seconds(run: Run) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    for row in run.training:
        for name, value in row.items():
            if name.startswith("seconds/") and value is not None:
                spent[name.removeprefix("seconds/").replace("_", " ")] += value
    return spent


def _without_empty_columns(table: Table) -> Table:
    kept = [i for i in range(len(table.columns)) if any(row[i] not in (None, "") for row in table.rows)]
    return Table(
        name=table.name,
        section=table.section,
        title=table.title,
        columns=[table.columns[i] for i in kept],
        rows=[[row[i] for i in kept] for row in table.rows],
    )


def _range(values: Sequence[float | None]) -> Measure | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    several = len(known) > 1
    return Measure(
        value=sum(known) / len(known), low=min(known) if several else None, high=max(known) if several else None
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
