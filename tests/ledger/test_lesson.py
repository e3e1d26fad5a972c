"""The data of a lesson, and what ``learn`` refuses before it touches a ledger."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill.commands import learn
from selfdistill.settings import flat
from selfdistill.settings.ledger import LearnOptions
from tests.support.ledger_home import Home
from tests.support.mistakes import mistake


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 0.5}, "--confidence"),
        ({"scorer": "judge"}, "without a judge"),
        ({"scorer": "exact"}, "exact_match"),
        ({"dataset_path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"eval_path": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"eval_share": 0.05}, "1 evaluation rows of a are too few"),
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
