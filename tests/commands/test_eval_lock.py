"""One ``selfdistill eval`` at a time writes into a folder."""

import threading
from pathlib import Path
from typing import Any

import pytest

from selfdistill import run_folder
from selfdistill.checkpoints.lock import check_unlocked, locked
from selfdistill.evaluate import run as evaluate_run
from selfdistill.method.rollout.engine import RolloutEngine
from selfdistill.models import loading
from tests.support.mistakes import refusal
from tests.support.tiny_home import TinyHome, score


def attempt(folder: Path) -> str | None:
    """What another thread that asks for the folder is told."""
    said: list[str | None] = []
    thread = threading.Thread(target=lambda: said.append(refusal(check_unlocked, folder)))
    thread.start()
    thread.join(60)
    return said[0]


def test_a_folder_in_which_another_eval_works_is_refused(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    held, finish = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(home.folder / "out"):
            held.set()
            finish.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        monkeypatch.setattr("selfdistill.models.loading.load_model", lambda *_, **__: pytest.fail("weights were read"))
        for flags in ((), ("--overwrite",)):
            said = home.refused(*score("rows.jsonl", *flags))
            assert said.startswith("--output_dir out: another command is using it.")
    finally:
        finish.set()
        thread.join(60)
    assert [path.name for path in (home.folder / "out").iterdir()] == [run_folder.LOCK]


def test_the_folder_is_locked_while_an_eval_works_and_free_afterwards(
    home: TinyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, told = evaluate_run.make_engine, list[str | None]()

    def engine(*arguments: Any, **options: Any) -> RolloutEngine:
        told.append(attempt(home.folder / "out"))
        return made(*arguments, **options)

    monkeypatch.setattr(evaluate_run, "make_engine", engine)
    assert home.run(*score("rows.jsonl")).code == 0
    assert ["another command is using it" in str(said) for said in told] == [True]
    assert attempt(home.folder / "out") is None


def test_results_that_another_eval_wrote_meanwhile_are_kept(home: TinyHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one has begun and ended between this one's first look at the folder and its own turn."""
    made = loading.load_tokenizer

    def tokenizer(*arguments: Any, **options: Any) -> Any:
        (home.folder / "out").mkdir(exist_ok=True)
        (home.folder / "out" / "custom.json").write_text("theirs")
        return made(*arguments, **options)

    monkeypatch.setattr(loading, "load_tokenizer", tokenizer)
    assert "custom.json exists" in home.refused(*score("rows.jsonl"))
    assert (home.folder / "out" / "custom.json").read_text() == "theirs"
