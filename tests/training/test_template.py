"""A template that a preflight chooses, and when training is not worth its while."""

from typing import Any

import pytest

from selfdistill.evaluate.preflight import Preflight, TemplateResult
from selfdistill.method import memory
from selfdistill.training import template as template_module
from selfdistill.training.run import prepared_run, settled
from selfdistill.training.template import choose_template
from tests.support.mistakes import mistake
from tests.support.study_home import QUIET, printed
from tests.support.training import student


def found(base: int, taught: int, *, rows: int = 16) -> Preflight:
    """So many of 16 rows right, alone and with prior_turn x2; with the paper's template none more than alone."""

    def result(template: Any, repeat: int, right: int) -> TemplateResult:
        return TemplateResult(
            template=template,
            repeat=repeat,
            scores=(1.0,) * right + (0.0,) * (rows - right),
            kl_per_token=0.5,
            truncated_share=0.0,
            cut_share=0.0,
            prompt_tokens=20,
        )

    alone = (1.0,) * base + (0.0,) * (rows - base)
    templates = (result("paper", 1, base), result("prior_turn", 2, taught))
    return Preflight(base_scores=alone, student_truncated_share=0.0, student_cut_share=0.0, templates=templates)


@pytest.fixture
def chosen(options: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is printed and chosen where a preflight finds this."""
    prepared, model = prepared_run(options(preflight_rows=7), QUIET), student()

    def choose(finding: Preflight) -> tuple[str, Any]:
        asked: list[int] = []

        def preflight(*_: Any, num_rows: int, **__: Any) -> Preflight:
            asked.append(num_rows)
            return finding

        monkeypatch.setattr(template_module, "preflight", preflight)
        choices: list[Any] = []
        shown = printed(lambda console: choices.append(choose_template(prepared, model, console)))
        assert asked == [7]
        return shown, choices[0]

    return choose


def test_a_teacher_that_is_better_is_taken(chosen: Any) -> None:
    shown, choice = chosen(found(2, 14))
    assert choice == ("prior_turn", 2)
    assert "no evidence yet" not in shown


def test_a_difference_that_may_be_chance_is_said(chosen: Any) -> None:
    shown, choice = chosen(found(2, 3))
    assert choice == ("prior_turn", 2)
    assert "Training continues, but there is no evidence yet that this teacher can teach." in shown


def test_a_teacher_that_is_no_better_stops_the_run(chosen: Any) -> None:
    said = mistake(chosen, found(8, 8))
    assert "the teacher is no better than the student" in said
    assert said.endswith("To train all the same, name a --template.")


def test_a_scorer_that_says_nothing_stops_nothing(chosen: Any) -> None:
    shown, choice = chosen(found(0, 0))
    assert choice == ("prior_turn", 2)
    assert "no evidence yet" in shown


def test_the_choice_is_the_runs(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "preflight", lambda *_, **__: found(2, 14))
    prepared = settled(prepared_run(options(), QUIET), student(), QUIET)
    assert (prepared.config.template, prepared.config.template_repeat) == ("prior_turn", 2)
    assert (prepared.options.recipe.prompts.template, prepared.options.recipe.prompts.template_repeat) == (
        "prior_turn",
        2,
    )
    assert all(pair.teacher_ids for pair in prepared.pairs)


@pytest.mark.parametrize(("limit", "then"), [(None, [("prior_turn", 4)]), (180, []), (200, [("prior_turn", 4)])])
def test_a_template_that_a_row_does_not_fit_is_not_gone_on_to(
    options: Any, monkeypatch: pytest.MonkeyPatch, limit: int | None, then: list[Any]
) -> None:
    """The longest prompt has 108 tokens with prior_turn x2, and between 181 and 200 with x4."""
    asked: dict[str, Any] = {}

    def preflight(*_: Any, **known: Any) -> Preflight:
        asked.update(known)
        return found(2, 14)

    monkeypatch.setattr(template_module, "preflight", preflight)
    prepared = prepared_run(options(max_teacher_prompt_length=limit), QUIET)
    choose_template(prepared, student(), QUIET)
    assert asked["then"] == then


def test_the_run_with_its_choice_must_fit_the_memory(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepared_run(options(), QUIET)
    assert prepared.shortage is None
    monkeypatch.setattr("selfdistill.training.run.choose_template", lambda *_: ("prior_turn", 2))
    monkeypatch.setattr(memory, "available", lambda _: prepared.memory.peak - 1)
    assert "Training takes about" in mistake(settled, prepared, student(), QUIET)
