"""What a study trains on, is tested on and is scored by."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfdistill.evaluate.scorer_choice import first_rows
from selfdistill.settings.groups import DataOptions, JudgeOptions
from selfdistill.settings.study import MeasureOptions
from selfdistill.studies.subjects import Subject, fingerprint, hold_back, own_subject
from selfdistill.tasks.task import unscored
from selfdistill.types import Example
from tests.support.mistakes import mistake
from tests.support.study_home import QUIET


def write_rows(path: Path, count: int) -> str:
    rows = ({"prompt": f"{n}?", "demonstration": f"{n}."} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def subject(tmp_path: Path, count: int, *, limit: int | None = None, eval_limit: int | None = None) -> Subject:
    measures = MeasureOptions(eval_limit=eval_limit, judge=JudgeOptions(scorer="exact_match"))
    return own_subject(write_rows(tmp_path / "mine.jsonl", count), None, DataOptions(limit=limit), measures, QUIET)


@pytest.mark.parametrize(("count", "held"), [(5, 1), (30, 6), (999, 199), (1001, 200), (5000, 200)])
def test_the_last_fifth_of_a_persons_rows_is_held_out_but_at_most_200(tmp_path: Path, count: int, held: int) -> None:
    found = subject(tmp_path, count)
    assert len(found.train) == count - held
    assert [row.id for row in found.test.examples] == [f"mine/train/{n}" for n in range(count - held, count)]
    assert found.name == "mine"


def test_fewer_than_five_rows_leave_none_to_score(tmp_path: Path) -> None:
    assert "mine.jsonl leaves no evaluation rows: give at least five rows" in mistake(subject, tmp_path, 4)


def test_limits_are_of_training_and_of_evaluation_rows(tmp_path: Path) -> None:
    found = subject(tmp_path, 30, limit=7, eval_limit=2)
    assert (len(found.train), [row.id for row in found.test.examples]) == (7, ["mine/train/24", "mine/train/25"])


def test_limited_evaluation_rows_are_the_first_of_every_part() -> None:
    rows = [Example(id=f"{part}{n}", prompt=(), part=part) for part, size in (("a", 4), ("b", 2)) for n in range(size)]
    assert [row.id for row in first_rows(rows, 3)] == ["a0", "a1", "b0"]
    assert first_rows(rows, None) == rows
    assert [row.id for row in first_rows(rows[:4], 2)] == ["a0", "a1"]


def test_validation_rows_are_the_last_training_rows(tmp_path: Path) -> None:
    whole = subject(tmp_path, 10)
    less, held = hold_back(whole, 3)
    assert (less.train, held.examples) == (whole.train[:-3], whole.train[-3:])
    assert (less.test, held.task) == (whole.test, whole.task)
    assert "leaves none of the 8 training rows" in mistake(hold_back, whole, 8)


def test_a_scorer_that_cannot_grade_training_rows_chooses_no_rate(tmp_path: Path) -> None:
    whole = subject(tmp_path, 10)
    blind = replace(whole, task=replace(whole.task, scorers={"blind": unscored}))
    assert "its scorer can't grade training rows, so no learning rate can be chosen" in mistake(hold_back, blind, 3)


def test_the_identity_changes_with_rows_their_order_and_the_scorer(tmp_path: Path) -> None:
    whole = subject(tmp_path, 10)
    before = whole.identity()
    assert list(before) == ["training rows of mine", "evaluation rows of mine", "scorer of mine"]
    assert before["scorer of mine"] == "exact_match"
    turned = replace(whole, train=whole.train[::-1]).identity()
    assert [turned[name] == before[name] for name in before] == [False, True, True]
    assert fingerprint(whole.train) == fingerprint(list(whole.train))


def test_a_judged_task_needs_a_judge(tmp_path: Path) -> None:
    measures: Any = MeasureOptions(judge=JudgeOptions(scorer="judge"))
    path = write_rows(tmp_path / "mine.jsonl", 10)
    assert "--judge_url" in mistake(own_subject, path, None, DataOptions(), measures, QUIET)
