"""What ``train --dry_run`` shows: settings, prompts, lengths, rows over a limit, memory. Nothing is trained."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill.commands import train
from selfdistill.method import memory
from selfdistill.models import loading
from tests.support.mistakes import mistake
from tests.support.study_home import QUIET


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("weights were read"))


def shown(options: Any) -> str:
    """What is printed; the options must be those of a dry run."""
    console = Console(file=io.StringIO(), width=200)
    train.run(options, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(text: str, name: str) -> list[str]:
    """The cells of the table's row of that name."""
    lines = [[cell.strip() for cell in line.split("│") if cell.strip()] for line in text.splitlines()]
    ((_, *cells),) = [line for line in lines if line[:1] == [name]]
    return cells


def test_prompts_and_lengths_by_hand(options: Any) -> None:
    """ "one 0?" to "one 29?": a prompt is "[user] one 0?<|end|>\\n[assistant] ", 7 + 6 + 1 + 1 + 12 = 27 tokens, or 28.

    The earlier turn adds the demonstration, "oneone 0.", its end, and the prompt once more: 27 + 9 + 2 + 27, or
    28 + 10 + 2 + 28.
    """
    text = shown(options(template="prior_turn", dry_run=True))
    assert "[user] one 0?<|end|>\n[assistant] [[oneone 0.]]<|end|>\n[user] one 0?<|end|>\n[assistant]" in text
    assert "tokens of 30 rows that fit ┏" in " ".join(text.split())
    assert row(text, "student prompt") == ["28", "28", "28", "492"]  # 512 positions less 20 for the completion
    assert row(text, "teacher prompt") == ["68", "68", "68", "492"]
    assert row(text, "demonstration") == ["10", "10", "10"]


def test_rows_over_a_limit_are_told_and_not_refused(options: Any) -> None:
    """Ten of the thirty rows have a number of one digit."""
    short = options(template="prior_turn", max_prompt_length=27, dry_run=True)
    text = shown(short)
    told = "tokens of 10 rows that fit; 20 over a limit stop the run (--overlong drop drops them)"
    assert told in " ".join(text.split())
    assert row(text, "student prompt") == ["27", "27", "27", "27"]
    assert row(text, "teacher prompt") == ["65", "65", "65", "492"]
    assert row(text, "demonstration") == ["9", "9", "9"]
    dropping = options(template="prior_turn", max_prompt_length=27, overlong="drop", dry_run=True)
    assert "tokens of 10 rows that fit; 20 over a limit are dropped" in " ".join(shown(dropping).split())


def test_a_completion_that_leaves_no_room_is_the_cause_that_is_named(options: Any) -> None:
    said = mistake(train.run, options(template="paper", max_completion_length=600, dry_run=True), QUIET)
    assert said.startswith("max_completion_length 600: the model reads 512 tokens")
    said = mistake(train.run, options(template="paper", max_completion_length=500, dry_run=True), QUIET)
    assert said == "Every row is over a length limit. Lower --max_completion_length."


def test_a_method_without_a_teacher_shows_none(options: Any) -> None:
    text = shown(options(method="sft", dry_run=True))
    assert "student prompt" in text
    assert "teacher prompt" not in text
    assert row(text, "demonstration") == ["11", "11", "11", "20"]  # with its end of turn
    assert not [line for line in text.splitlines() if line.strip("│ ").startswith("teacher_update_rate")]


def test_continued_pre_training_reads_no_chat(options: Any) -> None:
    """Its prompt is the first token of the demonstration, the o of "oneone 0."."""
    text = shown(options(method="cpt", dry_run=True))
    assert text.partition("student prompt")[2].splitlines()[1].strip() == "o"
    assert "[user]" not in text


def test_rows_too_long_for_a_template_that_auto_tries_are_told(options: Any) -> None:
    """The longest, prior_turn x2, has 103 or 108 tokens."""
    text = " ".join(shown(options(max_teacher_prompt_length=90, dry_run=True)).split())
    assert "the teacher prompt has 103 tokens, the limit is 90" in text
    assert "(Template prior_turn x2, which auto tries: --template names one.)" in text
    for fits in ({"max_teacher_prompt_length": 108}, {"max_teacher_prompt_length": 90, "overlong": "drop"}):
        assert "which auto tries" not in shown(options(dry_run=True, **fits))


def test_settings_that_count_stand_beside_the_papers(options: Any) -> None:
    text = shown(options(template="prior_turn", teacher_update_rate=0.5, dry_run=True))
    assert row(text, "teacher_update_rate") == ["0.5", "0.01"]
    assert row(text, "template") == ["prior_turn", "paper"]
    assert row(text, "temperature") == ["1.0"]


def test_auto_says_that_the_template_is_still_open(options: Any) -> None:
    assert "template auto: a preflight picks the template; prior_turn is shown here." in shown(options(dry_run=True))


@pytest.mark.parametrize(("there", "said"), [(2**29, True), (2**30, False)])
def test_what_is_lacking_of_memory(options: Any, monkeypatch: pytest.MonkeyPatch, there: int, said: bool) -> None:
    monkeypatch.setattr(memory, "PROGRAM_BYTES", 700 * 2**20)
    monkeypatch.setattr(memory, "available", lambda _: there)
    text = shown(options(template="paper", dry_run=True))
    assert ("0.5 GiB are available" in text) == said
    assert row(text, "program") == ["0.68"]
    assert row(text, "peak")


def test_text_of_the_rows_is_shown_as_it_is(options: Any, home: Path) -> None:
    rows = home / "two.jsonl"
    rows.write_text('{"prompt": "[bold]what[/bold]", "demonstration": "[red]this"}\n')
    text = shown(options(template="prior_turn", dataset_path=str(rows), dry_run=True))
    assert "[user] [bold]what[/bold]<|end|>" in text
    assert "[[[red]this]]" in text


def test_nothing_is_written(options: Any, home: Path) -> None:
    shown(options(template="paper", dry_run=True))
    assert not (home / "out").exists()
    named_nowhere = options(template="paper", dry_run=True, output_dir=None)
    assert "student prompt" in shown(named_nowhere)
