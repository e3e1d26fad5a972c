"""The report's tables of scores, drift and training, and how a table becomes CSV."""

import csv
import io
from pathlib import Path

from selfdistill.report.collect import collect
from selfdistill.report.contents import Estimate
from selfdistill.report.table import Column, Table, Value
from selfdistill.report.tables import to_csv
from selfdistill.stats.paired import BETTER
from tests.support.report_folders import (
    checkpoints,
    column,
    table,
    write_comparison,
    write_drift,
    write_run,
    write_training,
)


def test_score_table(tmp_path: Path) -> None:
    scores = table(collect(write_run(tmp_path, [0.0] * 30, [1.0] * 6 + [0.0] * 24)), "scores")
    assert scores.title == "Scores before and after, scorer: exact"
    titles = [column.title for column in scores.columns]
    assert titles == [
        *("data set", "part", "rows", "before %", "after %", "change"),
        *("verdict", "fixed", "broke", "p", "could show"),
    ]
    row = dict(zip(titles, scores.rows[0], strict=True))
    assert (row["rows"], row["fixed"], row["broke"], row["verdict"], row["p"]) == (30, 6, 0, BETTER, 2 / 64)
    assert isinstance(row["after %"], Estimate)
    assert row["after %"].value == 0.2


def test_drift_before_and_after(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 6, [1.0] * 6)
    write_drift(tmp_path / "eval-before", 0.0, 2.89, 0.02)
    write_drift(tmp_path / "eval", 0.45, 3.37, 0.04)
    assert table(collect(tmp_path), "drift").rows == [["before", 0.0, 2.89, 0.02], ["after", 0.45, 3.37, 0.04]]


def test_training_table_has_the_last_numbers_of_each_run(tmp_path: Path) -> None:
    write_training(tmp_path / "a", "sdft", num_steps=4)
    write_training(tmp_path / "b", "sft", num_steps=2)
    found = table(collect(tmp_path), "training")
    assert column(found, "run") == ["a", "b"]
    assert column(found, "method") == ["sdft", "sft"]
    assert column(found, "learning rate") == [1e-4, 1e-4]
    assert (column(found, "steps"), column(found, "tokens seen")) == ([4, 2], [20000, 10000])


def test_time_table_sums_the_parts_of_steps(tmp_path: Path) -> None:
    write_training(tmp_path, num_steps=4)
    assert table(collect(tmp_path), "time").rows == [["rollout", 12.0, 0.75], ["backward", 4.0, 0.25]]


def test_csv_has_raw_numbers_and_intervals_in_columns(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    rows = list(csv.DictReader(to_csv(table(collect(tmp_path), "checkpoints")).splitlines()))
    first = checkpoints()[0]
    assert len(rows) == 24
    assert float(rows[0]["new task"]) == first.skill.accuracy
    assert float(rows[0]["new task low"]) == first.skill.interval[0]
    assert float(rows[0]["hellaswag"]) == first.prior["hellaswag"]
    assert float(rows[0]["KL per token"]) == first.kl_per_token


def test_no_cell_of_a_csv_is_a_formula() -> None:
    texts = ["=cmd|'/c calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "plain", "a=b"]
    rows: list[list[Value]] = [*([text] for text in texts), [-1.5]]
    whole = Table(name="t", section="s", title="T", columns=[Column(title="text")], rows=rows)
    _, *cells = csv.reader(io.StringIO(to_csv(whole)))
    assert [cell for (cell,) in cells] == [*(f"'{text}" for text in texts[:5]), "plain", "a=b", "-1.5"]
