"""The data of a lesson, and what ``learn`` refuses before it touches a ledger."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill.commands import learn
from selfdistill.ledger.lesson import split_off
from selfdistill.settings import flat
from selfdistill.settings.ledger import LearnOptions
from selfdistill.types import Example
from tests.support.ledger_home import Home
from tests.support.mistakes import mistake


def test_split_depends_on_prompts_alone() -> None:
    rows = [Example(id=f"x/{n}", prompt=({"role": "user", "content": f"q {n // 2}"},)) for n in range(40)]
    train, items = split_off(rows, 0.25)
    assert len(items) == 10
    assert {row.prompt[0]["content"] for row in train}.isdisjoint(row.prompt[0]["content"] for row in items)
    _, again = split_off(rows[::-1], 0.25)
    assert again == items[::-1]
    assert "none to train on" in mistake(split_off, rows[:2], 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 0.5}, "--confidence"),
        ({"scorer": "judge"}, "without a judge"),
        ({"scorer": "exact"}, "exact_match"),
        ({"dataset_path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"eval_path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"eval_share": 0.05}, "2 evaluation rows of a are too few"),
        ({"dataset_path": None, "dataset_name": "medical"}, "--data_dir|judge"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.delenv("SELFDISTILL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    home = Home(tmp_path, monkeypatch)
    settings = flat.build(LearnOptions, {"ledger": str(home.memory), "dataset_path": home.data("a")} | options)
    assert re.search(message, mistake(learn.run, settings, Console(file=io.StringIO())))
    assert not home.memory.exists()
