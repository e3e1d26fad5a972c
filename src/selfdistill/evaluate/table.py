"""The table that ``eval`` prints at the end."""

from collections.abc import Iterator, Mapping

from rich.markup import escape
from rich.table import Table

from selfdistill.records.evaluations import AgainstBase, DriftRecord, EvalRecord, Score

Row = tuple[str, str, str, str, str, str]


def results_table(datasets: Mapping[str, EvalRecord | DriftRecord], title: str) -> Table:
    """The scores of every data set and its parts with 95% intervals, and the changes from the base if there is one."""
    table = Table(title=escape(title), title_justify="left")
    for name in ("task", "score"):
        table.add_column(name)
    for name in ("rows", "mean [95% interval]"):
        table.add_column(name, justify="right")
    compared = any(isinstance(record, EvalRecord) and record.against_base for record in datasets.values())
    for name in ("change from base [95% interval]", "p") if compared else ():
        table.add_column(name, justify="right")
    for name, record in datasets.items():
        for row in _drift_rows(name, record) if isinstance(record, DriftRecord) else _rows(name, record):
            table.add_row(*(escape(cell) for cell in row[: len(table.columns)]))
        table.add_section()
    return table


def percent(score: Score) -> str:
    """A score such as ``63.0% [56.1, 69.4]``; ``unscored`` if no row was."""
    if score.accuracy is None:
        return "unscored"
    low, high = score.interval
    return f"{score.accuracy:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _rows(name: str, record: EvalRecord) -> Iterator[Row]:
    metric, total = record.config.metric, str(record.num_total)
    for scorer, score in record.metrics.items():
        change, p_value = _change(record.against_base) if scorer == metric else ("", "")
        yield name, scorer, str(score.num_total), percent(score), change, p_value
    for k, value in record.pass_at_k.items():
        yield name, f"{metric}, pass@{k}", total, f"{value:.1%}", "", ""
    if vote := record.majority_vote:
        yield name, f"{metric}, majority vote", str(vote.num_total), percent(vote), "", ""
    for part, score in record.parts.items():
        yield f"  {part}", metric, str(score.num_total), percent(score), "", ""
    if len(record.parts) > 1 and record.mean_of_parts is not None:
        yield "  mean of parts", metric, str(len(record.parts)), f"{record.mean_of_parts:.1%}", "", ""
    if record.truncated_share:
        yield name, "cut at the token limit", total, f"{record.truncated_share:.1%}", "", ""
    if record.against_base and (phrases := record.against_base.leak.phrase_rate):
        yield name, "speaks of an unseen example", total, f"{phrases:.1%}", "", ""


def _change(against: AgainstBase | None) -> tuple[str, str]:
    if against is None:
        return "", ""
    test = against.test
    corrected = test.p_value if test.p_value_holm is None else test.p_value_holm
    return f"{100 * test.change:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]", f"{corrected:.3g}"


def _drift_rows(name: str, drift: DriftRecord) -> Iterator[Row]:
    prompts = str(drift.num_prompts)
    leaks = Score(
        accuracy=drift.format_leak_rate,
        interval=drift.format_leak_interval,
        num_correct=drift.format_leak_rate * drift.num_prompts,
        num_total=drift.num_prompts,
    )
    loss = f"{drift.reference_nll:.3f} (base {drift.base_reference_nll:.3f})"
    yield name, "KL from the base, nats per token", prompts, f"{drift.kl_per_token:.3f}", "", ""
    yield name, "loss on reference answers", prompts, loss, "", ""
    yield name, "answers in the task's format", prompts, percent(leaks), "", ""
