"""Which rows ``eval`` scores, with which scorers and judge, and the messages about rows that can't be scored."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill import run_folder
from selfdistill.evaluate.scorer_choice import (
    chosen_task,
    first_rows,
    rows_to_score,
    unscored_reason,
    with_allowed_programs,
    with_chosen_judge,
)
from selfdistill.records.runs import RunConfig
from selfdistill.settings import flat
from selfdistill.settings.evaluate import EvalOptions
from selfdistill.settings.groups import JudgeOptions
from selfdistill.tasks import TASKS
from selfdistill.tasks.task import Program, Task, unscored
from selfdistill.types import Example
from tests.support.mistakes import mistake
from tests.support.toy_task import toy_task

NOTHING = JudgeOptions()


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


@pytest.fixture
def own_rows(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    return str(tmp_path / "rows.jsonl")


def test_a_scorer_becomes_the_headline(own_rows: str):
    assert list(chosen_task("science", None, NOTHING).scorers) == ["reference"]
    choice = JudgeOptions(scorer="multiple_choice")
    assert list(chosen_task("science", None, choice).scorers) == ["multiple_choice", "reference"]
    assert list(chosen_task("custom", own_rows, JudgeOptions(scorer="numeric")).scorers) == ["numeric"]
    assert list(chosen_task("custom", own_rows, NOTHING).scorers) == ["exact_match"]


def test_a_judge_is_asked_for_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SELFDISTILL_JUDGE_URL", "http://127.0.0.1:9")  # needs a model, were it used
    task = chosen_task("science", None, NOTHING)
    assert with_chosen_judge(task, NOTHING, console()) == (task, None)
    medical = chosen_task("medical", None, NOTHING)
    assert "--judge_model is missing" in mistake(with_chosen_judge, medical, NOTHING, console())


def test_without_a_judge(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SELFDISTILL_JUDGE_URL", raising=False)
    out = console()
    assert with_chosen_judge(chosen_task("wiki", None, NOTHING), NOTHING, out)[1] is None
    assert "strict, lenient stay unscored" in printed(out)
    choice = JudgeOptions(scorer="judge")
    task = chosen_task("science", None, choice)
    assert list(task.scorers) == ["judge", "reference"]
    assert "--scorer judge needs a judge" in mistake(with_chosen_judge, task, choice, console())
    out, choice = console(), JudgeOptions(judge_url="http://a", judge_model="m")
    assert with_chosen_judge(chosen_task("science", None, choice), choice, out)[1] is None
    assert "no scorer that asks a judge" in printed(out)


def rows(tmp_path: Path, *answers: Any) -> tuple[Task, Sequence[Example]]:
    """The user's own rows with these answers; an answer that is a demonstration begins with ``shown``."""
    path = tmp_path / "rows.jsonl"
    keys = ["demonstration" if str(answer).startswith("shown") else "answer" for answer in answers]
    lines = [json.dumps({"prompt": "a", key: answer}) for key, answer in zip(keys, answers, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    task = chosen_task("custom", str(path), NOTHING)
    return task, task.load_eval(None)


def reason(task: Task, examples: Sequence[Example]) -> str | None:
    scorer = next(iter(task.scorers.values()))
    return unscored_reason(task, examples, [scorer("a completion", row) for row in examples])


def test_why_rows_can_not_be_scored(tmp_path: Path):
    assert reason(*rows(tmp_path, "b", 1, 2.5, True, ["b", "c"], "shown")) is None
    assert reason(*rows(tmp_path, "b", {"x": 1}, None)) == (
        "2 of 3 rows of custom can't be scored by exact_match: row 2 has an answer of type dict. Give answers as text, "
        "or another --scorer."
    )
    assert "1 of 2 rows of custom" in str(reason(*rows(tmp_path, "b", None)))
    assert "row 2 has no answer" in str(reason(*rows(tmp_path, "b", None)))


def test_the_row_named_is_one_that_was_left_unscored(tmp_path: Path):
    # a list of texts can be scored, and so can a demonstration without an answer
    said = str(reason(*rows(tmp_path, ["b", "c"], "shown", {"x": 1})))
    assert "1 of 3 rows" in said
    assert "row 3 has an answer of type dict" in said


def test_a_scorer_that_says_nothing_of_text_is_not_explained_by_the_rows(tmp_path: Path):
    task, examples = rows(tmp_path, "b", "c")
    said = unscored_reason(replace(task, scorers={"mine": unscored}), examples, [1.0, None])
    assert said == "1 of 2 rows of custom were left unscored by mine."


def test_a_missing_judge_gives_no_second_warning(tmp_path: Path):
    task, examples = rows(tmp_path, "b")
    assert unscored_reason(replace(task, judged={"exact_match": "correct"}), examples, [None]) is None


# -- which rows --------------------------------------------------------------------------------------------------------


def test_the_first_rows_keep_the_shares_of_the_parts_and_the_order():
    parts = "aaaabb"
    data = [Example(id=str(row), prompt=(), part=part) for row, part in enumerate(parts)]

    def taken(count: int | None) -> str:
        return "".join(row.id for row in first_rows(data, count))

    assert taken(None) == taken(6) == taken(99) == "012345"
    # of a, rows at 1/4, 2/4, 3/4, 4/4 of the part; of b at 1/2 and 2/2; at equal shares the earlier row
    assert [taken(count) for count in (1, 2, 3, 4, 5)] == ["0", "01", "014", "0124", "01234"]


def test_of_rows_without_parts_the_first_so_many():
    data = [Example(id=str(row), prompt=()) for row in range(5)]
    assert first_rows(data, 2) == data[:2]
    assert first_rows([], 2) == []


def test_programs_are_run_only_where_that_is_allowed():
    def program(completion: str, example: Example) -> Program:
        return Program(source=completion, tests="assert f() == 2", entry_point="f")

    plain, running = (
        toy_task(scorers={"m": unscored}),
        toy_task(scorers={"m": unscored}, programs={"m": program}),
    )
    assert with_allowed_programs(plain, False) is plain
    assert "--allow_code_execution" in mistake(with_allowed_programs, running, False)
    scorer = with_allowed_programs(running, True).scorers["m"]
    row = Example(id="a", prompt=())
    assert (scorer("def f(): return 2", row), scorer("def f(): return 3", row)) == (1, 0)


def test_a_warning_counts_rows_that_were_trained_on(monkeypatch: pytest.MonkeyPatch):
    seen, new = (Example(id=name, prompt=({"role": "user", "content": name},)) for name in ("seen", "new"))
    task = toy_task(
        scorers={"m": unscored}, load_train=lambda _: [replace(seen, id="x")], load_eval=lambda _: [seen, new]
    )
    monkeypatch.setitem(TASKS, "toy", task)
    out = console()
    found = rows_to_score("toy", EvalOptions(), out)
    assert (found.examples, found.judge) == ([seen, new], None)
    assert "toy: 1 of 2 evaluation prompts (50.0%) are in the training rows too" in printed(out)
    assert rows_to_score("toy", flat.build(EvalOptions, {"limit": 1}), console()).examples == [seen]


def test_own_rows_that_the_model_was_trained_on_are_counted(tmp_path: Path):
    rows = [{"prompt": text, "demonstration": "b"} for text in "abc"]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[:2]))
    (tmp_path / "eval.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[1:]))
    record = RunConfig(
        model_name="m",
        num_training_rows=2,
        versions={},
        settings={},
        deviations_from_paper={},
        dataset=str(tmp_path / "train.jsonl"),
    )
    run_folder.write_json(tmp_path / run_folder.RUN_CONFIG, record)
    options = flat.build(
        EvalOptions, {"model_path": str(tmp_path), "dataset_path": str(tmp_path / "eval.jsonl"), "output_dir": "o"}
    )
    rows_to_score("custom", options, out := console())
    assert "1 of 2 evaluation prompts (50.0%) are in " in printed(out)
    assert "train.jsonl, which the model was trained on, too" in printed(out)
    (tmp_path / "train.jsonl").unlink()
    rows_to_score("custom", options, gone := console())
    assert printed(gone) == ""


def test_names_that_are_no_data_set():
    assert "Did you mean 'prior-quick'?" in mistake(rows_to_score, "prior-quik", EvalOptions(), console())
    assert "Did you mean 'tooluse'?" in mistake(rows_to_score, "tooluze", EvalOptions(), console())
