"""Medical: its rows, how they are built, and the scorer that needs no judge."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from selfdistill.tasks import medical
from selfdistill.tasks.build.medical import medical_rows, split_rows
from selfdistill.tasks.medical import contains_answer
from selfdistill.tasks.overlap import overlap_share
from selfdistill.types import Example
from tests.support.mistakes import mistake

ROW = {"question": "Which vitamin?", "complex_cot": "Hmm.", "response": "It is C.", "ground_truth": "Vitamin C"}


def save(rows: list[dict[str, Any]], folder: Path, split: str) -> None:
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "medical_data" / split))


def test_training_rows(tmp_path: Path):
    save([ROW], tmp_path, "train_data")
    (example,) = medical.TASK.load_train(tmp_path)
    assert example.id == "medical/train/0"
    assert example.prompt == ({"role": "user", "content": "Which vitamin?"},)
    assert example.demonstration == ({"role": "assistant", "content": "Hmm.\n\nIt is C."},)
    assert example.reference == "Vitamin C"


def test_evaluation_rows_have_no_demonstration(tmp_path: Path):
    save([{"question": "Which vitamin?", "ground_truth": "Vitamin C"}], tmp_path, "eval_data")
    (example,) = medical.TASK.load_eval(tmp_path)
    assert (example.demonstration, example.reference) == ((), "Vitamin C")


def test_a_bad_row_is_named(tmp_path: Path):
    save([ROW, ROW | {"response": " "}], tmp_path, "train_data")
    assert "medical_data/train_data row 2 has no text in response" in mistake(medical.TASK.load_train, tmp_path)
    assert "--data_dir" in mistake(medical.TASK.load_eval, tmp_path)


@pytest.mark.parametrize(
    ("completion", "truth", "score"),
    [
        ("It is VITAMIN-C.", "Vitamin C", 1),
        ("Vitamins C and D", "Vitamin C", 0),
        ("vitamin\nc", "Vitamin C.", 1),
        ("C, a vitamin", "Vitamin C", 0),
        ("", "Vitamin C", 0),
        ("Ménière’s disease", "ménière's disease", 1),
        ("anything", "--", None),
        ("anything", None, None),
    ],
)
def test_contains_answer(completion: str, truth: str | None, score: float | None):
    example = Example(id="a", prompt=({"role": "user", "content": "?"},), reference=truth)
    assert contains_answer(completion, example) == score


def test_unscored_by_a_judge_that_is_not_there():
    example = Example(id="a", prompt=({"role": "user", "content": "?"},), reference="x")
    assert {name: scorer("x", example) for name, scorer in medical.TASK.scorers.items()} == {
        "judge": None,
        "contains_answer": 1.0,
    }


def test_public_columns():
    row = {
        "Question": " Which vitamin? ",
        "Complex_CoT": "Hmm.",
        "Response": "It is C.",
        "Ground-True Answer": "Vitamin C",
    }
    assert medical_rows([row], "a.json") == [ROW]


def test_ground_truths_come_from_the_other_set():
    rows = [
        {"Question": "Which  vitamin?", "Complex_CoT": "Hmm.", "Response": "It is C."},
        {"Question": "Unknown?", "Complex_CoT": "Hmm.", "Response": "No."},
        {"Question": "which vitamin?", "Complex_CoT": "Again.", "Response": "C."},
    ]
    answers = [{"Open-ended Verifiable Question": "WHICH VITAMIN?", "Ground-True Answer": "Vitamin C"}]
    assert medical_rows(rows, "a", answers, "b") == [ROW | {"question": "Which  vitamin?"}]


def test_missing_columns():
    bare = {"Question": "Which?", "Complex_CoT": "Hmm.", "Response": "C."}
    assert "give --answers" in mistake(medical_rows, [bare], "a.json")
    assert "No row of a.json has text in complex_cot" in mistake(medical_rows, [{"Question": "Which?"}], "a.json")
    assert "No row of a.json has text in question" in mistake(medical_rows, [{"x": 1}], "a.json")
    assert "--answers b.json has no row" in mistake(medical_rows, [bare], "a.json", [{"x": 1}], "b.json")


def test_split():
    train, held_out = split_rows(list(range(50)), None, seed=1)
    assert (len(train), len(held_out)) == (45, 5)
    assert sorted(train + held_out) == list(range(50))
    assert train == sorted(train)
    assert split_rows(list(range(50)), None, seed=1) == (train, held_out)
    assert split_rows(list(range(50)), None, seed=2) != (train, held_out)
    assert len(split_rows(list(range(20_000)), None, seed=1)[1]) == 1000
    assert len(split_rows(list(range(50)), 7, seed=1)[1]) == 7
    assert "--num_eval" in mistake(split_rows, [1], 1, 0)


def test_real_rows(real_data: Path):
    train, evaluation = medical.TASK.load_train(real_data), medical.TASK.load_eval(real_data)
    assert (len(train), len(evaluation)) == (150, 48)
    assert overlap_share(train, evaluation) == 0
    assert all(row.demonstration_text for row in train)
    hits = [contains_answer(row.demonstration_text, row) for row in train]
    assert 0.3 < sum(map(bool, hits)) / len(hits) < 1
