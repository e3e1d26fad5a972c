"""Scorers that any task can use, and scorers from a user's Python file."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from selfdistill.tasks.custom import custom_task
from selfdistill.tasks.scorers import (
    exact_match,
    last_number,
    load_scorer,
    multiple_choice,
    numeric,
    regex,
    scorer_from,
)
from selfdistill.types import Example
from tests.support.mistakes import mistake


def row(reference: Any, id: str = "custom/eval/2") -> Example:
    return Example(id=id, prompt=({"role": "user", "content": "?"},), reference=reference)


EXACT = [
    (" A\n", "A", 1.0),
    ("A", " A ", 1.0),
    ("a", "A", 0.0),
    ("A.", "A", 0.0),
    ("42", 42, 1.0),
    ("7", 7.0, 1.0),
    ("7.0", 7.0, 1.0),
    ("7.5", 7.5, 1.0),
    ("8", 7.5, 0.0),
    ("nan", float("nan"), 1.0),
    ("0", 0, 1.0),
    ("two", ["2", "two"], 1.0),
    ("2", ("2", "two"), 1.0),
    ("2", [2.0, 3], 1.0),
    ("3 ", [["2"], ["3"]], 1.0),
    ("['2', 'two']", ["2", "two"], 0.0),
    ("2024-05-01", datetime.date(2024, 5, 1), 1.0),
    ("12.50", Decimal("12.50"), 1.0),
    ("x", None, None),
    ("x", {"any": "thing"}, None),
    ("x", ["x", {"any": "thing"}], None),
    ("x", [{"any": "thing"}], None),
    ("x", [], None),
    ("x", b"x", None),
    ("Action: f\nAction Input: {}", [{"Action": "f", "Action_Input": "{}"}], 1.0),
    ("Action: g\nAction Input: {}", [{"Action": "f", "Action_Input": "{}"}], 0.0),
]


@pytest.mark.parametrize(("completion", "reference", "score"), EXACT)
def test_exact_match(completion: str, reference: Any, score: float | None):
    assert exact_match(completion, row(reference)) == score


def test_exact_match_falls_back_on_the_demonstration():
    turn = {"role": "assistant", "content": "yes"}
    example = Example(id="x", prompt=({"role": "user", "content": "q"},), demonstration=(turn,))
    assert exact_match("yes ", example) == 1.0
    assert exact_match("no", example) == 0.0


CHOICES = [
    ("B", 1),
    ("b", 1),
    ("(B)", 1),
    ("**B**.", 1),
    ("B) water", 1),
    ("A", 0),
    ("The answer is B.", 1),
    ("The answer is (B) because A is too heavy and C too light.", 1),
    ("Answer: **B**", 1),
    ("**Answer:** B", 1),
    ("The correct option is B, not C.", 1),
    ("A and C are wrong, so option B is correct.", 1),
    ("The answer is A. No: the answer is B.", 0),
    ("B or C", 0),
    ("", 0),
    ("I think a gas forms.", 0),
    ("A gas forms.", 0),
    ("A gas forms: B", 1),
    ("Banana", 0),
    ("I don't know", 0),
    ("A, perhaps C. <answer>B</answer>", 1),
    ("<answer>A</answer> or rather <answer>B</answer>", 1),
    ("<answer></answer> B", 0),
    (r"A? C? \boxed{\text{B}}", 1),
    (r"\boxed{b}", 1),
]


@pytest.mark.parametrize(("completion", "score"), CHOICES)
def test_multiple_choice(completion: str, score: float):
    assert multiple_choice(completion, row("B")) == score


def test_multiple_choice_references():
    assert multiple_choice("The answer is C", row("C) carbon")) == 1
    assert multiple_choice("The answer is C", row("c")) == 1
    assert multiple_choice("The answer is A because", row("A")) == 1
    assert multiple_choice("C", row("carbon")) is None
    assert multiple_choice("C", row(None)) is None


NUMBERS = [
    ("7", 7, False),
    ("first 3, then 4.", 4, False),
    ("1,234.5 metres", 1234.5, False),
    ("1,234,567", 1234567, False),
    ("12,34", 34, False),
    ("1e-3", 0.001, False),
    ("2.5E+2!", 250, False),
    (".5", 0.5, False),
    ("-7", -7, False),
    ("−7", -7, False),
    ("10-7", 7, False),
    ("x = -7", -7, False),
    ("12.5%", 12.5, True),
    (r"12 \%", 12, True),
    ("$1,000", 1000, False),
    ("5kg", 5, False),
    ("3 of H2O", 3, False),
    ("8 then 1e999", 8, False),
]


@pytest.mark.parametrize(("text", "value", "is_percent"), NUMBERS)
def test_last_number(text: str, value: float, is_percent: bool):
    assert last_number(text) == (value, is_percent)


def test_no_number():
    assert last_number("H2O and v1.2") is None
    assert numeric()("none", row(3)) == 0
    assert numeric()("3", row("three")) is None
    assert numeric()("1", row(True)) is None
    assert numeric()("1", row(None)) is None


def test_numeric():
    score = numeric()
    assert score("So it is 1,234.50.", row("1234.5")) == 1
    assert score("So it is 1,234.51.", row("1234.5")) == 0
    assert score(r"\boxed{42} after 3 steps", row(42)) == 1
    assert score(r"\boxed{41} and 42", row(42)) == 0
    assert score(r"\boxed{\frac{1}{42}}, no: \boxed{x = 42}", row(42)) == 1


def test_percentages():
    score = numeric()
    assert score("12 %", row(12)) == 1
    assert score("12 %", row(0.12)) == 1
    assert score("0.12", row("12%")) == 1
    assert score("12%", row("12%")) == 1
    assert score("1200%", row("12%")) == 0
    assert score("12", row(0.12)) == 0


def test_the_tolerance_is_relative_and_of_a_reference_of_nought_absolute():
    assert numeric(0.01)("198", row(200)) == 1
    assert numeric(0.01)("197", row(200)) == 0
    assert numeric(0.1)("0.0219", row(0.02)) == 1
    assert numeric(0.1)("0.0221", row(0.02)) == 0
    assert numeric(0.1)("-0.1", row(0)) == 1
    assert numeric(0.1)("0.11", row(0)) == 0
    assert "at least 0" in mistake(numeric, -1.0)
    assert "at least 0" in mistake(numeric, float("nan"))


def test_small_numbers_differ():
    score = numeric()
    assert score("5e-7", row(1.8e-10)) == 0
    assert score("0", row("6.626e-34")) == 0
    assert score("-1e-9", row(1.6e-19)) == 0
    assert score("It is 6.626e-34 J s.", row(6.626e-34)) == 1
    assert score("0.00", row(0)) == 1
    assert score("2e-6", row(0)) == 0


@pytest.mark.parametrize(
    "completion",
    ["答えは42です", "答案是42。", "정답은42입니다", "คำตอบคือ42", "答案：42", "ｺﾀｴ42", "ចម្លើយ42", "答えは４２"],
)
def test_numbers_right_after_a_script_without_blanks(completion: str):
    assert numeric()(completion, row("42")) == 1
    assert numeric()(completion, row(-42)) == 0


def test_a_list_of_numbers_is_left_unscored():
    assert numeric()("2", row([2, 3])) is None


def test_regex():
    assert regex(r"\bno\b")("oh no!", row(None)) == 1
    assert regex(r"\bno\b")("nothing", row(None)) == 0
    assert regex(r"#### (\d+)")("#### 3\n#### 4", row("4")) == 1
    assert regex(r"#### (\d+)")("#### 4\n#### 3", row(4)) == 0
    assert regex(r"#### (\d+)")("four", row("4")) == 0
    assert regex(r"#### (\d+)")("#### 4", row(None)) is None
    assert regex(r"#### (\d+)")("#### 4", row(["4", "5"])) == 1
    assert regex(r"#### (\d+)")("#### 7", row(7.0)) == 1
    assert "regex:( is not a regular expression" in mistake(regex, "(")


def test_scorers_by_name():
    assert scorer_from("exact_match") == ("exact_match", exact_match)
    name, score = scorer_from("regex:a:b")
    assert (name, score("a:b", row(None)), score("a", row(None))) == ("regex:a:b", 1, 0)
    assert scorer_from("numeric:0.1")[1]("1.05", row(1)) == 1
    assert "not a tolerance" in mistake(scorer_from, "numeric:x")
    assert "not a tolerance" in mistake(scorer_from, "numeric:-1")
    assert "Did you mean 'multiple_choice'?" in mistake(scorer_from, "multi_choice")


def write(folder: Path, code: str) -> str:
    (folder / "mine.py").write_text(code)
    return f"{folder / 'mine.py'}"


def test_a_users_function(tmp_path: Path):
    file = write(
        tmp_path, "def half(completion, example):\n    return 0.5 if completion == example.reference else None\n"
    )
    name, score = scorer_from(f"{file}:half")
    assert score("x", row("x")) == 0.5
    assert score("x", row("y")) is None
    assert name.startswith("mine.py:half@")
    write(tmp_path, "def half(completion, example): return True\n")
    other, score = scorer_from(f"{file}:half")
    assert other != name
    assert score("x", row("y")) == 1.0


def test_a_users_file_may_import_one_beside_it(tmp_path: Path):
    (tmp_path / "beside_mine.py").write_text("VALUE = 1\n")
    file = write(tmp_path, "import beside_mine\ndef f(completion, example): return beside_mine.VALUE\n")
    assert load_scorer(f"{file}:f")("x", row("y")) == 1.0


def test_mistakes_in_the_spec(tmp_path: Path):
    file = write(tmp_path, "LIMIT = 3\ndef grade(completion, example): return 1\ndef one(completion): return 1\n")
    assert "there is no file" in mistake(load_scorer, f"{tmp_path / 'none.py'}:grade")
    assert "Did you mean 'grade'?" in mistake(load_scorer, f"{file}:grad")
    assert "It has grade, one." in mistake(load_scorer, f"{file}:xyz")
    assert "LIMIT is of type int, not a function" in mistake(load_scorer, f"{file}:LIMIT")
    assert "one(completion) must take two arguments" in mistake(load_scorer, f"{file}:one")
    assert "is not a scorer" in mistake(scorer_from, file)


def test_a_file_that_fails(tmp_path: Path):
    assert "SyntaxError" in mistake(load_scorer, write(tmp_path, "def f(:\n") + ":f")
    assert "ZeroDivisionError in line 2: division by zero" in mistake(load_scorer, write(tmp_path, "\n1 / 0\n") + ":f")
    assert "SystemExit" in mistake(load_scorer, write(tmp_path, "raise SystemExit\n") + ":f")


def test_what_goes_wrong_in_it_names_the_row(tmp_path: Path):
    file = write(
        tmp_path,
        "def fails(completion, example): return {}[completion]\n"
        "def two(completion, example): return 2\n"
        "def text(completion, example): return '1'\n"
        "def nan(completion, example): return float('nan')\n",
    )
    assert "failed on row 3 (custom/eval/2): KeyError in line 1: 'x'" in mistake(
        load_scorer(f"{file}:fails"), "x", row(1)
    )
    assert "returned 2 on row 3" in mistake(load_scorer(f"{file}:two"), "x", row(1))
    assert "returned '1' on row 3" in mistake(load_scorer(f"{file}:text"), "x", row(1))
    assert "returned nan on row own" in mistake(load_scorer(f"{file}:nan"), "x", row(1, id="own"))


def test_a_custom_task_takes_them(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2 + 2?"}\n')
    task = custom_task(None, str(tmp_path / "rows.jsonl"), scorers=dict([scorer_from("regex:4")]))
    assert [scorer("It is 4", task.load_eval(None)[0]) for scorer in task.scorers.values()] == [1.0]
    assert task.revision.endswith("-regex:4")
