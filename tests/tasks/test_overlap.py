"""Evaluation prompts that are also in the training rows, and missing data."""

from dataclasses import replace
from pathlib import Path

import pytest

from selfdistill.errors import UserError
from selfdistill.tasks import TASKS
from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.overlap import num_overlapping, overlap_share, overlap_warning, repeats_warning, rows_at_hand
from selfdistill.types import Example


def rows(*texts: str, system: str = "") -> list[Example]:
    before = ({"role": "system", "content": system},) if system else ()
    return [Example(id=text, prompt=(*before, {"role": "user", "content": text})) for text in texts]


def test_prompts_are_compared_without_case_and_white_space():
    train = rows("What  is\nit?", "Ｈｏｗ?")
    assert num_overlapping(train, rows("what is it?", "how?", "who?", "what is it")) == 2
    assert overlap_share(train, rows("what is it?", "how?", "who?", "what is it")) == 0.5
    assert overlap_share(train, []) == 0


def test_all_turns_count():
    assert num_overlapping(rows("a", system="x"), rows("a", system="y")) == 0


def test_the_warning():
    warning = overlap_warning("science", rows("a", "b"), rows("A", "c", "d", "e"))
    assert warning is not None
    assert warning.startswith("science: 1 of 4 evaluation prompts (25.0%) are in the training rows too")
    assert "\n" not in warning
    assert overlap_warning("science", rows("z"), rows("A", "c")) is None


def test_rows_that_are_there_more_than_once_are_counted():
    shown = [replace(row, demonstration=({"role": "assistant", "content": "x"},)) for row in rows("a", "b")]
    assert repeats_warning("mine", [*shown, *rows("a", "b")]) is None
    warning = repeats_warning("mine", [*shown, *shown, shown[0]])
    assert warning == "mine: 3 of 5 training rows repeat an earlier row; each counts as often as it stands."


def test_no_warning_if_one_side_is_missing():
    assert overlap_warning("science", [], rows("a")) is None
    assert overlap_warning("science", rows("a"), []) is None


def test_missing_data_give_no_rows(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    task = custom_task(None, str(tmp_path / "rows.jsonl"))
    assert rows_at_hand(task.load_train, None) == []
    assert len(rows_at_hand(task.load_eval, None)) == 1
    assert rows_at_hand(TASKS["science"].load_train, tmp_path) == []


def test_rows_that_are_at_hand_but_bad_are_an_error(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    task = custom_task(str(tmp_path / "rows.jsonl"), None)
    with pytest.raises(UserError, match="line 1 has no demonstration"):
        rows_at_hand(task.load_train, None)


@pytest.mark.parametrize("name", ["assistant-tools", "notes", "orders", "tickets"])
def test_shipped_data_do_not_overlap(name: str):
    assert overlap_share(TASKS[name].load_train(None), TASKS[name].load_eval(None)) == 0
