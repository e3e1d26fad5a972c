"""What is found in rows, counted by hand."""

import json
from pathlib import Path
from typing import Any

from selfdistill.data import inspection
from selfdistill.data.inspection import ControlTokens, Measure, inspect_rows, length_summary
from selfdistill.data.prompts import uniform
from selfdistill.settings.rows import RowOptions
from selfdistill.types import Example
from tests.support.mistakes import mistake

SKIP = RowOptions(on_bad_row="skip")


def write(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def pair(prompt: str, demonstration: str = "d", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "demonstration": demonstration} | more


def test_rows_are_counted(tmp_path: Path) -> None:
    rows = write(
        tmp_path / "a.jsonl",
        pair("one", "xx"),
        pair("one", "xx"),
        pair(" ONE ", "yyyy"),
        "{oops",
        pair(" "),
        pair("two", ""),
        {"q": "x", "r": "y"},
        {"prompt": "three", "answer": "3"},
        {"question": "four", "answer": "4444"},
        {"prompt": "five"},
    )
    found = inspect_rows([rows], SKIP, Measure()).as_dict()
    assert {name: found[name] for name in ("num_rows", "num_usable", "num_bad", "num_empty")} == {
        "num_rows": 10,
        "num_usable": 5,
        "num_bad": 5,
        "num_empty": 2,
    }
    assert (found["format"], found["formats"]) == (
        "mixed",
        {"prompt/demonstration": 3, "prompt": 1, "question/answer": 1},
    )
    assert (found["duplicates"], found["same_prompts"], found["num_without_demonstration"]) == (1, 2, 1)
    assert [(row["file"], row["line"]) for row in found["bad_rows"]] == [("a.jsonl", n) for n in (4, 5, 6, 7, 10)]
    assert "--columns" in found["bad_rows"][3]["error"]
    assert "has no demonstration" in found["bad_rows"][4]["error"]
    # prompts of 3, 3, 5, 5, 4 characters, demonstrations of 2, 2, 4, 4
    assert found["lengths"]["prompt"] == {
        "median": 4,
        "percentile_95": 5,
        "longest": 5,
        "num_as_long_as_longest": 2,
    }
    assert found["lengths"]["demonstration"]["num_as_long_as_longest"] == 2
    assert (found["lengths"]["unit"], found["lengths"]["num_measured"]) == ("characters", 5)
    assert (found["evaluation"], found["num_held_out"]) == (None, None)


def test_the_first_ten_bad_rows_are_described(tmp_path: Path) -> None:
    found = inspect_rows([write(tmp_path / "a.jsonl", *["[]"] * 12)], SKIP, Measure())
    assert (found.num_bad, found.num_usable, len(found.bad_rows)) == (12, 0, 10)
    assert found.as_dict()["format"] is None
    assert "a.jsonl line 1" in mistake(inspect_rows, [str(tmp_path / "a.jsonl")], RowOptions(), Measure())


def test_rows_of_one_format(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", {"instruction": "a", "output": "b"})
    second = write(tmp_path / "b.jsonl", {"instruction": "a", "output": "b"})
    found = inspect_rows([first, second], SKIP, Measure())
    assert (found.as_dict()["format"], found.num_rows, found.duplicates) == ("Alpaca", 2, 1)
    assert found.example is not None
    assert found.example.demonstration_text == "b"


def test_overlap_with_evaluation_rows(tmp_path: Path) -> None:
    rows = write(tmp_path / "d" / "train.jsonl", pair("one"), pair("two"))
    test = write(
        tmp_path / "d" / "test.jsonl", {"prompt": "ONE", "answer": "1"}, {"prompt": "one"}, {"prompt": "x"}, "[]"
    )
    for found in (
        inspect_rows([rows], SKIP, Measure(), eval_path=test),
        inspect_rows([str(tmp_path / "d")], SKIP, Measure()),
    ):
        evaluation = found.as_dict()["evaluation"]
        assert (evaluation["num_rows"], evaluation["num_bad"], evaluation["overlap"]) == (4, 1, 2)
        assert found.num_rows == 2


def test_rows_that_would_be_held_out(tmp_path: Path) -> None:
    texts = [f"q{n}" for n in range(50)]
    found = inspect_rows([write(tmp_path / "a.jsonl", *map(pair, texts))], RowOptions(eval_share=0.3), Measure())
    assert found.num_held_out == sum(uniform(text) < 0.3 for text in texts)


def test_a_sample_is_measured_where_that_takes_long(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(inspection, "ALL_MEASURED", 3)
    monkeypatch.setattr(inspection, "ONE_IN", 5)
    rows = write(tmp_path / "a.jsonl", *[pair("x" * (9 if n == 7 else 1)) for n in range(1, 13)])
    few = inspect_rows([rows], SKIP, Measure(every=False))
    assert few.num_measured == 6  # 1, 2, 3, then 5 and 10, and 7, which is longer than all before
    assert sorted(few.prompt_lengths) == [1, 1, 1, 1, 1, 9]
    assert sorted(few.prompt_characters) == [1] * 11 + [9]
    assert few.as_dict()["lengths"]["characters"]["prompt"]["num_as_long_as_longest"] == 1
    assert inspect_rows([rows], SKIP, Measure()).num_measured == 12


def test_control_tokens_in_texts(tmp_path: Path) -> None:
    rows = write(tmp_path / "a.jsonl", pair("a"), pair("a <|end|> b"), pair("c", "<|end|>"), pair("<|e"))
    found = inspect_rows([rows], SKIP, Measure(special_tokens=["<|end|>", "|"]))
    assert (found.num_special, found.first_special) == (2, "a.jsonl line 2: <|end|>")
    example = Example(id="x", prompt=({"role": "user", "content": "<|end|>"},))
    assert ControlTokens([]).first_in(example) is None


def test_a_summary_of_no_lengths() -> None:
    assert length_summary([]) == {}
    assert length_summary(range(1, 101)) == {
        "median": 51,
        "percentile_95": 95,
        "longest": 100,
        "num_as_long_as_longest": 1,
    }
