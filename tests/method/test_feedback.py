"""Words about completions: where each template shows them, what does not fit, and functions that fail."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfdistill.method.batch import Shown
from selfdistill.method.lengths import Limit, Limits, most_teacher_tokens
from selfdistill.method.privileged import feedback_from
from selfdistill.method.rows import training_pairs
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, PromptPair
from tests.support.mistakes import mistake
from tests.support.own_success import OWN, ROWS, TOKENIZER, rolled_out, shown_as, taught
from tests.support.training import make_config, student

WORDS = "def words(row, completion):\n    return f'{completion}!' if completion == 'no' else None\n"
SECTION = "This is feedback on an earlier response of yours to the question:\nno!"


@pytest.fixture
def words(tmp_path: Path) -> str:
    file = tmp_path / "own.py"
    file.write_text(WORDS)
    return f"{file}:words"


def test_words_follow_the_last_question(tmp_path: Path, words: str) -> None:
    _, samples = rolled_out(tmp_path, rows=ROWS[:2], said=["no", "ok"], scorer=None, feedback_file=words)
    told, silent = samples
    assert taught(told) == (
        f"[user] Say A<|end|>\n[assistant] row A<|end|>\n[user] Say A\n\n{SECTION}<|end|>\n[assistant] "
    )
    assert taught(silent) == shown_as("Say B", "row B")
    assert told.shown == Shown(left_out=False, untaught=False, feedback=True)
    assert silent.shown == Shown(left_out=False, untaught=False, feedback=False)


def test_words_alone_teach(tmp_path: Path, words: str) -> None:
    _, samples = rolled_out(
        tmp_path, rows=ROWS[2:3], said=["no", "no"], feedback_file=words, **OWN | {"num_rollouts": 2}
    )
    assert [taught(sample) for sample in samples] == [f"[user] Say C\n\n{SECTION}<|end|>\n[assistant] "] * 2
    assert all(sample.loss_positions and not sample.shown.untaught for sample in samples if sample.shown)


REQUEST = "Now answer with a response of your own, including the thinking process."


@pytest.mark.parametrize(
    ("template", "with_success", "alone"),
    [
        (
            "paper",
            f"[user] Say C\n\nThis is an example for a response to the question:\nok\n\n{SECTION}\n\n"
            f"{REQUEST}<|end|>\n",
            f"[user] Say C\n\n{SECTION}\n\n{REQUEST}<|end|>\n",
        ),
        (
            "system",
            "[system] A good answer to the user's next message looks like this:\nok<|end|>\n"
            f"[user] Say C\n\n{SECTION}<|end|>\n",
            f"[user] Say C\n\n{SECTION}<|end|>\n",
        ),
        (
            "few_shot",
            "[user] Say D<|end|>\n[assistant] row D<|end|>\n[user] Say C<|end|>\n[assistant] ok<|end|>\n"
            f"[user] Say C\n\n{SECTION}<|end|>\n",
            f"[user] Say D<|end|>\n[assistant] row D<|end|>\n[user] Say C\n\n{SECTION}<|end|>\n",
        ),
        ("file", "[user] Say C/ok/no!<|end|>\n", "[user] Say C//no!<|end|>\n"),
    ],
)
def test_every_template_has_a_section_for_them(
    tmp_path: Path, words: str, template: str, with_success: str, alone: str
) -> None:
    """Of two completions the second one is right; or none."""
    rows = [*ROWS[2:], ROWS[1]]
    settings: dict[str, Any] = {**OWN, "num_rollouts": 2, "template": template, "feedback_file": words}
    if template == "file":
        file = tmp_path / "mine.jinja"
        file.write_text("{{ question }}/{{ demonstration }}/{{ feedback }}")
        settings["template_file"] = str(file)
    _, samples = rolled_out(tmp_path, rows=rows, said=["no", "ok", "no", "no", "no", "no"], **settings)
    assert taught(samples[0]) == f"{with_success}[assistant] "
    _, samples = rolled_out(tmp_path, rows=rows, said=["no"], **settings)
    assert taught(samples[0]) == f"{alone}[assistant] "


@pytest.mark.parametrize(
    ("returned", "words"),
    [("1", "returned 1 on row 1 (train/0): return text, or None."), ("1 / 0", "ZeroDivisionError in line 2")],
)
def test_a_function_that_fails_is_named(tmp_path: Path, returned: str, words: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"def words(row, completion):\n    return {returned}\n")
    said = mistake(rolled_out, tmp_path, rows=ROWS[:1], scorer=None, feedback_file=f"{file}:words")
    assert said.startswith(f"--feedback_file {file}:words")
    assert words in said


def test_what_names_no_function_is_refused(tmp_path: Path, words: str) -> None:
    assert "there is no file 'none.py'" in mistake(feedback_from, "none.py:words")
    assert "Did you mean 'words'?" in mistake(feedback_from, words.replace(":words", ":word"))
    (tmp_path / "one.py").write_text("def words(row):\n    return None\n")
    assert "must take two arguments, row and completion" in mistake(feedback_from, f"{tmp_path / 'one.py'}:words")


def test_text_in_which_nothing_can_be_seen_is_none(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def blank(row, completion):\n    return ' \\n'\n")
    (row,) = training_pairs(ROWS[:1], MethodConfig(max_completion_length=9), TOKENIZER, student().config)
    assert feedback_from(f"{tmp_path / 'own.py'}:blank")(row.example, "x") == ""


# -- lengths -----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_left_out(tmp_path: Path, words: str) -> None:
    empty = len(TOKENIZER(shown_as("Say A", "x"))["input_ids"]) - 1
    settings: dict[str, Any] = {**OWN, "max_teacher_prompt_length": empty + 6}
    _, samples = rolled_out(tmp_path, rows=ROWS[:1], said=["ok long", "ok 2", "no"], **settings)
    assert list(map(taught, samples)) == [shown_as("Say A", text) for text in ("ok 2", "row A", "ok 2")]
    assert [sample.shown.left_out for sample in samples if sample.shown] == [False, True, True]
    _, samples = rolled_out(tmp_path, rows=ROWS[:1], said=["no", "ok 2", "no"], feedback_file=words, **settings)
    assert list(map(taught, samples)) == [shown_as("Say A", text) for text in ("ok 2", "row A", "ok 2")]
    told = [(sample.shown.left_out, sample.shown.feedback) for sample in samples if sample.shown]
    assert told == [(True, False), (False, False), (True, False)]


def test_the_most_tokens_of_a_teachers_prompt() -> None:
    """64 for the turn; a prompt without a demonstration is asked twice."""
    turns = ({"role": "user", "content": "Hi"},)
    row = PromptPair(
        example=Example(id="x", prompt=turns, demonstration=({"role": "assistant", "content": "Ho"},)),
        student_ids=(3,) * 10,
        teacher_ids=(3,) * 30,
    )
    bare = replace(row, example=replace(row.example, demonstration=()), teacher_ids=(3,) * 10)
    limits = Limits(prompt=Limit(tokens=500, remedy=""), teacher_prompt=Limit(tokens=500, remedy=""))
    plain = MethodConfig(template="prior_turn", template_repeat=2, max_completion_length=20)
    assert most_teacher_tokens(row, plain, limits) == 30
    own = MethodConfig(template="prior_turn", template_repeat=2, max_completion_length=20, **OWN)
    assert most_teacher_tokens(row, own, limits) == 30 + 2 * 84
    assert most_teacher_tokens(bare, own, limits) == 10 + 2 * 94
    low = replace(limits, teacher_prompt=Limit(tokens=100, remedy=""))
    assert most_teacher_tokens(row, own, low) == 100


def test_a_template_that_does_not_show_the_words_is_refused(tmp_path: Path, words: str) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ question }} {{ demonstration }}")
    said = mistake(make_config, tmp_path, template="file", template_file=str(file), feedback_file=words)
    assert "does not show the words of feedback_file. Put {{ feedback }} into it" in said
