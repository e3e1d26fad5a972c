"""A user's own data as a task."""

import datetime
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from selfdistill.errors import MissingDataError
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.scorers import exact_match
from tests.support.hub import hub
from tests.support.mistakes import mistake

TWO_ROWS = '{"prompt": "a", "demonstration": "b"}\n{"prompt": "c", "demonstration": "d"}\n'


def write(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content)
    return str(folder / name)


def test_task_from_files(tmp_path: Path):
    train = write(tmp_path, "train.jsonl", TWO_ROWS)
    held_out = write(tmp_path, "test.csv", "prompt,answer\nq,A\n")
    task = custom_task(train, held_out)
    assert [row.id for row in task.load_train(None)] == ["custom/train/0", "custom/train/1"]
    (example,) = task.load_eval(None)
    assert example.reference == "A"
    assert list(task.scorers) == ["exact_match"]


def test_revision_follows_the_evaluation_rows_and_the_scorers(tmp_path: Path):
    one = write(tmp_path, "one.csv", "prompt,answer\nq,A\n")
    two = write(tmp_path, "two.csv", "prompt,answer\nq,B\n")
    revision = custom_task(one, one).revision
    assert custom_task(two, one).revision == revision
    assert custom_task(None, two).revision != revision
    assert custom_task(None, one, scorers={"other": exact_match}).revision != revision


def test_data_that_were_not_named(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", TWO_ROWS)
    with pytest.raises(MissingDataError, match="No evaluation data"):
        custom_task(path, None).load_eval(None)
    with pytest.raises(MissingDataError, match="No training data"):
        custom_task(None, path).load_train(None)


def test_missing_file_is_found_when_the_task_is_made(tmp_path: Path):
    assert "No such file" in mistake(custom_task, str(tmp_path / "a.jsonl"), None)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path, "a.jsonl", TWO_ROWS)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert mistake(custom_task, None, path) == f"{path} can't be read: Permission denied."


def test_nothing_to_score_against(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"prompt": "q"}\n')
    assert "nothing to score against" in mistake(custom_task(None, path).load_eval, None)
    own = custom_task(None, path, scorers={"mine": lambda completion, _: float(len(completion))})
    assert len(own.load_eval(None)) == 1


def test_empty_file_and_bad_row_are_named(tmp_path: Path):
    empty = write(tmp_path, "empty.jsonl", "")
    assert "empty.jsonl has no rows" in mistake(custom_task(empty, None).load_train, None)
    bad = write(tmp_path, "bad.jsonl", TWO_ROWS + '{"prompt": "q"}\n')
    assert "bad.jsonl line 3 has no demonstration" in mistake(custom_task(bad, None).load_train, None)


def test_hub_split_of_evaluation_is_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    asked = hub(monkeypatch, datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}]))
    task = custom_task("owner/name", "owner/name")
    task.load_train(None)
    task.load_eval(None)
    assert asked == [("owner/name", None, "train"), ("owner/name", None, "test")]


def test_answers_of_nought_are_answers(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"prompt": "1 - 1?", "answer": 0}\n')
    task = custom_task(None, path)
    (row,) = task.load_eval(None)
    assert task.scorers["exact_match"]("0", row) == 1.0


def test_whole_numbers_that_parquet_holds_as_floats(tmp_path: Path):
    """Whole numbers beside an empty cell are floats there."""
    table = pyarrow.table({"prompt": ["3 + 4?", "Who?"], "answer": pyarrow.array([7.0, None])})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    task = custom_task(None, str(tmp_path / "rows.parquet"))
    exact_match = task.scorers["exact_match"]
    assert [exact_match("7", row) for row in task.load_eval(None)] == [1.0, None]


def test_answers_of_lists_dates_and_decimals(tmp_path: Path):
    columns = {"prompt": ["q"], "answer": [["2", "two"]]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "lists.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table(columns | {"answer": [datetime.date(2024, 5, 1)]}), tmp_path / "dates.parquet"
    )
    pyarrow.parquet.write_table(pyarrow.table(columns | {"answer": [Decimal("12.50")]}), tmp_path / "decimals.parquet")
    for name, completion in (("lists", "two"), ("dates", "2024-05-01"), ("decimals", "12.50")):
        task = custom_task(None, str(tmp_path / f"{name}.parquet"))
        (row,) = task.load_eval(None)
        assert (task.scorers["exact_match"](completion, row), task.scorers["exact_match"]("x", row)) == (1.0, 0.0)
