"""A run on its way to its model: what is wrong shows before any weight is loaded, and nothing is made twice."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill.commands import train
from selfdistill.errors import UserError
from selfdistill.method import memory
from selfdistill.models import loading
from selfdistill.training.run import prepared_run, settled
from tests.support.mistakes import mistake
from tests.support.study_home import QUIET
from tests.support.training import student


class LoadedError(Exception):
    """Weights would be read."""


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading weights is an error of its own."""

    def load(*_: Any, **__: Any) -> None:
        raise LoadedError

    monkeypatch.setattr(loading, "load_model", load)


def refused(options: Any) -> str:
    """Why training is not begun; weights must not have been read."""
    return mistake(train.run, options, QUIET)


def begins(options: Any) -> bool:
    """Whether the run gets as far as its weights."""
    with pytest.raises(LoadedError):
        train.run(options, QUIET)
    return True


# -- memory ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unread")
def test_a_run_that_cannot_fit_is_refused(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROGRAM_BYTES", 700 * 2**20)
    monkeypatch.setattr(memory, "available", lambda _: 2**29)
    said = refused(options(template="paper"))
    assert "0.7 GiB" in said
    assert "0.5 GiB are available." in said
    assert said.endswith("--skip_memory_check tries it anyway.")
    assert begins(options(template="paper", skip_memory_check=True))
    monkeypatch.setattr(memory, "available", lambda _: 2**30)
    assert begins(options(template="paper"))


def test_a_template_that_is_chosen_later_is_as_one_that_was_named(options: Any) -> None:
    source = {"completion_source": "mixture", "mixture_share": 0.5, "mixture_of": "teacher"}
    open_ = prepared_run(options(**source), QUIET)
    assert open_.needs_template
    assert {pair.teacher_ids for pair in open_.pairs} == {None}
    chosen = open_.with_template("prior_turn", 2)
    assert (chosen.config.template, chosen.config.template_repeat) == ("prior_turn", 2)
    assert not chosen.needs_template
    named = prepared_run(options(template="prior_turn", template_repeat=2, **source), QUIET)
    assert chosen.pairs == named.pairs
    assert chosen.memory == named.memory
    assert chosen.memory.rollouts > open_.memory.rollouts  # the teacher's prompts are longer than the students'


def test_a_chosen_template_must_fit_too(options: Any) -> None:
    """A prompt has 27 or 28 tokens; with one earlier turn before it 65 or 68, with two 103 or 108."""
    open_ = prepared_run(options(max_teacher_prompt_length=90, overlong="drop"), QUIET)
    assert len(open_.pairs) == 30
    with pytest.raises(UserError, match="Every row is over a length limit"):
        open_.with_template("prior_turn", 2)


def test_a_run_can_be_moved_to_another_folder(options: Any, home: Path) -> None:
    prepared = prepared_run(options(template="paper"), QUIET)
    moved = prepared.in_folder(home / "elsewhere")
    assert moved.config.output_dir == moved.options.run.output_dir == str(home / "elsewhere")
    assert prepared.config.output_dir == prepared.options.run.output_dir == str(home / "out")


# -- rows ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unread")
def test_rows_over_a_limit_are_refused(options: Any) -> None:
    said = refused(options(template="paper", max_prompt_length=3))
    assert "custom/train/0: the prompt has" in said
    assert "--max_prompt_length" in said


@pytest.mark.usefixtures("unread")
def test_a_limit_of_all_templates_that_a_preflight_tries(options: Any) -> None:
    said = refused(options(max_teacher_prompt_length=90))
    assert "the teacher prompt has" in said
    assert "(Template prior_turn x2, which auto tries: --template names one.)" in said
    assert begins(options(max_teacher_prompt_length=90, overlong="drop"))
    assert begins(options(max_teacher_prompt_length=300))


@pytest.mark.usefixtures("unread")
def test_the_last_micro_batch_must_not_be_the_only_one_and_dropped(options: Any) -> None:
    dropping = {"template": "paper", "set": ("dataloader_drop_last=true",)}
    said = refused(options(**dropping, per_device_train_batch_size=31))
    assert said.startswith("dataloader_drop_last drops the only micro-batch: there are 30 rows, it takes 31.")
    assert begins(options(**dropping, per_device_train_batch_size=30))
    assert begins(options(template="paper", per_device_train_batch_size=31))


@pytest.mark.usefixtures("unread")
def test_a_token_that_the_model_does_not_know(options: Any, home: Path) -> None:
    """The tokenizer has 260 tokens, the model 259: its last is what ends a thought."""
    student(vocab_size=259).save_pretrained(home / "model")
    assert begins(options(template="paper"))
    rows = home / "two.jsonl"
    rows.write_text('{"prompt": "Say it", "demonstration": "</think>"}\n')
    for method in ({"template": "paper"}, {"method": "sft"}, {"method": "cpt"}):
        said = refused(options(dataset_path=str(rows), **method))
        assert "custom/train/0: token </think> has id 259, the model knows 259 tokens." in said
    with pytest.raises(UserError, match="has id 259"):
        prepared_run(options(dataset_path=str(rows), template="paper"), Console(quiet=True))  # as dry_run does


# -- preflight -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("settings", [{"template": "paper"}, {"method": "sft"}], ids=str)
def test_rows_for_a_preflight_that_there_will_not_be(options: Any, settings: dict[str, Any]) -> None:
    said = refused(options(preflight_rows=4, **settings))
    assert said.startswith("--preflight_rows 4 counts only with --template auto")
    assert begins(options(preflight_rows=4))


def test_a_preflight_looks_at_as_many_rows_as_it_was_told(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def choose(prepared: Any, *_: Any) -> tuple[str, int]:
        asked.append(prepared.options.recipe.trainer.preflight_rows)
        return "prior_turn", 1

    monkeypatch.setattr("selfdistill.training.run.choose_template", choose)
    prepared = settled(prepared_run(options(preflight_rows=4), QUIET), student(), QUIET)
    assert asked == [4]
    assert prepared.config.template == "prior_turn"


@pytest.mark.parametrize("method", ["sft", "dft", "cpt", "reinvoke"])
def test_no_preflight_for_a_method_that_shows_no_demonstration(options: Any, home: Path, method: str) -> None:
    """The default template, auto, is then no request."""
    prompts = {} if method != "reinvoke" else {"base_model": str(home / "model")}
    prepared = prepared_run(options(method=method, max_completion_length=64, **prompts), QUIET)
    assert not prepared.needs_template
    assert prepared.config.template == "paper"
    model = student()
    assert settled(prepared, model, QUIET) is prepared
