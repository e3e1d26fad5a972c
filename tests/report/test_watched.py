"""Answers to held-out rows as a run learned: from answers.jsonl to the page."""

from pathlib import Path
from typing import Any

from selfdistill import run_folder
from selfdistill.records.runs import AnswerRecord
from selfdistill.report.collect import collect
from selfdistill.report.render import to_html, watched_view
from selfdistill.report.watched import watched_rows
from tests.support.mistakes import mistake
from tests.support.report_folders import SCRIPT, as_json, write_training


def record(step: int, completion: str, score: float | None, id: str = "own/1", **more: Any) -> AnswerRecord:
    plain: dict[str, Any] = {
        "prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Which tool?"}],
        "reference": {"tool": "call"},
        "num_tokens": 3,
        "finish_reason": "stop",
    }
    return AnswerRecord(step=step, id=id, completion=completion, score=score, **plain | more)


def write(folder: Path, *records: AnswerRecord) -> Path:
    write_training(folder)
    run_folder.write_jsonl(folder / run_folder.ANSWERS, records)
    return folder


def test_rows_have_their_answers_by_step_compared_with_the_first(tmp_path: Path) -> None:
    assert watched_rows(tmp_path) == []
    first = [record(0, "I do not know", 0.0), record(0, "Ann", 1.0, id="own/2")]
    later = [record(2, "call Bob", 0.0), record(2, "Bob", 0.0, id="own/2")]
    last = [record(4, "call Ann", 1.0), record(4, "Sure", None, id="own/2")]
    one, other = watched_rows(write(tmp_path, *first, *later, *last))
    assert (one.id, one.prompt, one.reference) == (
        "own/1",
        "[system]\nBe short.\n\n[user]\nWhich tool?",
        '{"tool": "call"}',
    )
    assert [(step, answer.completion, answer.status) for step, answer in one.answers.items()] == [
        (0, "I do not know", ""),
        (2, "call Bob", "same"),
        (4, "call Ann", "fixed"),
    ]
    assert [answer.status for answer in other.answers.values()] == ["", "broke", ""]


def test_a_view_compares_the_ends_and_folds_the_rest(tmp_path: Path) -> None:
    (row,) = watched_rows(
        write(tmp_path, record(0, "call Bob now", 0.0), record(2, "x", 0.0), record(4, "call Ann now", 1.0))
    )
    view = watched_view(row, 100)
    assert [shown.name for shown in view.ends] == ["before", "step 4"]
    assert [text for marked, text in view.ends[0].pieces if marked] == [" Bob"]
    assert [text for marked, text in view.ends[1].pieces if marked] == [" Ann"]
    assert [(shown.name, shown.pieces) for shown in view.between] == [("step 2", [(False, "x")])]
    (row,) = watched_rows(write(tmp_path, record(0, "call Bob now", 0.0)))
    assert [shown.pieces for shown in watched_view(row, 6).ends] == [[(False, "call B … [6 more characters]")]]


def test_the_page_shows_them_as_text(tmp_path: Path) -> None:
    folder = write(tmp_path, record(0, "no", 0.0), record(2, SCRIPT, 1.0, finish_reason="length"))
    results = collect(folder)
    page = to_html(results)
    shown = page.partition("Answers as it learned")[2].partition("</section>")[0]
    assert "before" in shown
    assert "step 2" in shown
    assert "✓ correct" in shown
    assert "cut off" in shown
    assert "Which tool?" in shown
    assert SCRIPT not in page
    assert "window.injected" in shown
    run_folder.write_json(tmp_path / "r.json", results)
    assert as_json(tmp_path / "r.json")["runs"][0]["watched"][0]["answers"]["2"]["status"] == "fixed"


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / run_folder.ANSWERS).write_text("{}\n")
    assert "answers.jsonl can't be read (" in mistake(watched_rows, tmp_path)
