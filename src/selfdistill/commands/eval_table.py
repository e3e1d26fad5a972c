"""The table that ``eval`` ends with."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

Row = tuple[str, str, str, str, str, str]


def show(datasets: Mapping[str, dict[str, Any]], title: str) -> Table:
    """Every data set's scorers and parts with 95% intervals, and changes from the base where they were tested.

    Args:
        datasets: what ``eval_results.json`` holds, by data set.
        title: the model.
    """
    table = Table(title=escape(title), title_justify="left")
    for name in ("task", "score"):
        table.add_column(name)
    for name in ("rows", "mean [95% interval]"):
        table.add_column(name, justify="right")
    compared = any("against_base" in numbers for numbers in datasets.values())
    for name in ("change from base [95% interval]", "p") if compared else ():
        table.add_column(name, justify="right")
    for name, numbers in datasets.items():
        rows = _drift_rows(name, numbers) if "kl_per_token" in numbers else _rows(name, numbers)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row[: len(table.columns)]))
        table.add_section()
    return table


def percent(values: dict[str, Any]) -> str:
    """``63.0% [56.1, 69.4]``; ``unscored`` where nothing could be graded."""
    if values["num_total"] == 0:
        return "unscored"
    low, high = values["interval"]
    return f"{values['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _rows(name: str, numbers: dict[str, Any]) -> Iterator[Row]:
    metric = numbers["config"]["metric"]
    for scorer, values in numbers["metrics"].items():
        change, p_value = _change(numbers.get("against_base")) if scorer == metric else ("", "")
        yield name, scorer, str(values["num_total"]), percent(values), change, p_value
    for k, value in numbers.get("pass_at_k", {}).items():
        yield name, f"{metric}, pass@{k}", str(numbers["num_total"]), f"{value:.1%}", "", ""
    if vote := numbers.get("majority_vote"):
        yield name, f"{metric}, majority vote", str(vote["num_total"]), percent(vote), "", ""
    for part, values in numbers["parts"].items():
        yield f"  {part}", metric, str(values["num_total"]), percent(values), "", ""
    if len(numbers["parts"]) > 1:
        yield "  mean of parts", metric, str(len(numbers["parts"])), f"{numbers['mean_of_parts']:.1%}", "", ""
    if cut := numbers["truncated_share"]:
        yield name, "cut at the token limit", str(numbers["num_total"]), f"{cut:.1%}", "", ""
    if phrases := numbers.get("against_base", {}).get("leak", {}).get("phrase_rate"):
        yield name, "speaks of an unseen example", str(numbers["num_total"]), f"{phrases:.1%}", "", ""


def _change(against: dict[str, Any] | None) -> tuple[str, str]:
    if against is None:
        return "", ""
    low, high = against["interval"]
    return f"{100 * against['change']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", f"{against['p_value_holm']:.3g}"


def _drift_rows(name: str, numbers: dict[str, Any]) -> Iterator[Row]:
    prompts = str(numbers["num_prompts"])
    leaks = {
        "num_total": numbers["num_prompts"],
        "accuracy": numbers["format_leak_rate"],
        "interval": numbers["format_leak_interval"],
    }
    loss = f"{numbers['reference_nll']:.3f} (base {numbers['base_reference_nll']:.3f})"
    yield name, "KL from the base, nats a token", prompts, f"{numbers['kl_per_token']:.3f}", "", ""
    yield name, "loss on reference answers", prompts, loss, "", ""
    yield name, "answers in the task's format", prompts, percent(leaks), "", ""
