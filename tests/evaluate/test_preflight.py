"""Preflight with an engine that answers right only if it is shown the demonstration as an earlier turn."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from selfdistill.evaluate.advice import UNKNOWN, Measured, MeasuredTask, advice
from selfdistill.evaluate.preflight import Preflight, TemplateResult, preflight, template_name
from selfdistill.evaluate.preflight_table import show_preflight
from selfdistill.method.templates import tried_templates
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, Rollout, Scorer
from tests.support.engines import Scripted, stopped
from tests.support.mistakes import mistake
from tests.support.tiny import CHAT_TEMPLATE, byte_tokenizer
from tests.support.toy_task import toy_task

REFUSES_SYSTEM = (
    "{% for m in messages if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endfor %}"
    + CHAT_TEMPLATE
)


def example(n: int) -> Example:
    return Example(
        id=f"toy/{n}",
        prompt=({"role": "user", "content": f"Q{n}"},),
        demonstration=({"role": "assistant", "content": f"answer {n}"},),
        reference=f"answer {n}",
    )


def follower(tokenizer: PreTrainedTokenizerFast) -> Scripted:
    """Copies an earlier assistant turn, if there is one; else it says it doesn't know."""

    def answer(prompt: Sequence[int]) -> Rollout:
        turns = str(tokenizer.decode(list(prompt))).split("[assistant] ")[1:-1]
        return stopped(*tokenizer.encode((turns[0].split("<|end|>")[0] if turns else "no idea") + "<|end|>"))

    return Scripted(answer)


Look = Callable[..., Preflight]


def equal(text: str, row: Example) -> float:
    return float(text == row.reference)


@pytest.fixture
def look(tiny_model: Callable[..., PreTrainedModel]) -> Look:
    """Runs a preflight on a tiny model; ``settings`` are settings of the method."""

    def run(
        score: Scorer = equal,
        *,
        chat_template: str = CHAT_TEMPLATE,
        tried: Any = None,
        engine: Scripted | None = None,
        **settings: Any,
    ):
        tokenizer = byte_tokenizer(chat_template)
        engine = engine or follower(tokenizer)
        chosen: dict[str, Any] = {"max_completion_length": 16} | settings
        found = preflight(
            tiny_model("llama", vocab_size=300, max_position_embeddings=400),
            tokenizer,
            toy_task(scorers={"equal": score}),
            [example(n) for n in range(12)],
            MethodConfig(**chosen),
            templates=tried,
            engine=engine,
        )
        assert all(sampling.temperature == 0 for _, sampling in engine.calls)
        return found

    return run


def shown(found: Preflight) -> str:
    file = io.StringIO()
    show_preflight(found, Console(file=file, width=200))
    return file.getvalue()


def test_the_template_that_works_is_found(look: Look):
    found = look()
    accuracies = {t.name: t.accuracy for t in found.templates}
    assert accuracies == {"paper": 0, "system": 0, "prior_turn": 1, "prior_turn x2": 1}
    assert found.base_accuracy == 0
    assert found.best.name in ("prior_turn", "prior_turn x2")
    assert found.go
    assert found.verdict == f"teacher 100% vs base 0% with {found.best.name}: go"
    assert found.as_dict()["recommended_template"] == found.best.name
    assert all(t.kl_per_token > 0 for t in found.templates)
    assert "refused" not in shown(found)


@pytest.mark.parametrize(
    ("needed", "tried"),
    [
        ([1] * 6 + [2] * 3 + [4] * 3, {"prior_turn": 6, "prior_turn x2": 9, "prior_turn x4": 12}),
        ([1] * 6 + [4] * 6, {"prior_turn": 6, "prior_turn x2": 6}),  # the second time taught nothing more
    ],
)
def test_a_demonstration_is_shown_more_often_while_that_helps(look: Look, needed: list[int], tried: dict[str, int]):
    tokenizer = byte_tokenizer(CHAT_TEMPLATE)

    def answer(prompt: Sequence[int]) -> Rollout:
        turns = str(tokenizer.decode(list(prompt))).split("[assistant] ")[1:-1]
        shown = turns[0].split("<|end|>")[0] if turns else ""
        knows = shown and len(turns) >= needed[int(shown.removeprefix("answer "))]
        return stopped(*tokenizer.encode((shown if knows else "no idea") + "<|end|>"))

    found = look(engine=Scripted(answer))
    assert {t.name: t.total for t in found.templates if t.template == "prior_turn"} == tried
    assert found.best.total == max(tried.values())


def test_a_template_that_the_chat_template_refuses_is_shown_and_the_others_are_tried(look: Look):
    found = look(chat_template=REFUSES_SYSTEM)
    refusals = {t.name: t.refused for t in found.templates}
    assert {name for name, why in refusals.items() if why} == {"system"}
    assert "System role not supported" in refusals["system"]
    assert {t.name: t.accuracy for t in found.templates if not t.refused} == {
        "paper": 0,
        "prior_turn": 1,
        "prior_turn x2": 1,
    }
    assert found.go
    assert found.best.template == "prior_turn"
    (row,) = [line for line in shown(found).splitlines() if " system " in line and "refused" in line]
    assert row.count("%") == 0
    assert f"system: {refusals['system']}" in shown(found)
    told = next(each for each in found.as_dict()["templates"] if each["name"] == "system")
    assert (told["accuracy"], told["kl_per_token"], told["refused"]) == (None, None, refusals["system"])


def test_a_refused_template_is_never_the_best(look: Look):
    found = look(chat_template=REFUSES_SYSTEM, tried=[("system", 1), ("paper", 1)])
    assert found.best.template == "paper"
    unscored = look(lambda *_: None, chat_template=REFUSES_SYSTEM, tried=[("system", 1), ("paper", 1)])
    assert unscored.best.template == "paper"


def test_where_every_template_is_refused_there_is_no_preflight(look: Look):
    said = mistake(look, chat_template=REFUSES_SYSTEM, tried=[("system", 1)])
    assert "the chat template refuses every --template" in said
    assert "System role not supported" in said


def test_teacher_prompts_over_the_limit_are_unscored_and_counted(look: Look):
    found = look(max_teacher_prompt_length=70)
    longest = {t.name: t.prompt_tokens for t in found.templates}
    assert min(longest.values()) <= 70 < max(longest.values())
    for result in found.templates:
        over = longest[result.name] > 70
        assert (result.truncated_share > 0) == over
        assert (result.scores.count(None) > 0) == over


def test_student_prompts_over_the_limit(look: Look):
    assert "max_prompt_length" in mistake(look, max_prompt_length=3)
    # Q10 and Q11 are a token longer than Q0 to Q9
    limit = len("[user] Q0") + 2 + len("[assistant] ")
    found = look(max_prompt_length=limit)
    assert found.student_truncated_share == pytest.approx(2 / 12)
    assert len(found.base_scores) == 10


def test_limits_are_those_of_sampling_though_the_method_asked_about_samples_nothing(look: Look):
    # of 400 positions 320 are left for the teacher's answer, so its prompt may have 80 tokens
    found = look(method="sft", max_completion_length=320)
    longest = {t.name: t.prompt_tokens for t in found.templates}
    assert min(longest.values()) <= 80 < max(longest.values())
    assert {t.name for t in found.templates if t.truncated_share} == {n for n, size in longest.items() if size > 80}


def test_nothing_to_teach(look: Look):
    found = look(lambda text, _: float(text.startswith(("no", "answer"))))
    assert found.base_accuracy == 1
    assert not found.go
    assert "nothing to teach" in found.verdict


def test_a_scorer_that_never_scores_says_nothing(look: Look):
    scorers: list[Scorer] = [lambda *_: 0.0, lambda *_: None]
    for score in scorers:
        found = look(score)
        assert not found.tells
        assert not found.go
        assert found.best.template == "prior_turn"
        assert "can't tell" in found.verdict


def paper(scores: Sequence[float | None], **fields: Any) -> TemplateResult:
    plain: dict[str, Any] = {"template": "paper", "repeat": 1, "kl_per_token": 0.1, "truncated_share": 0}
    return TemplateResult(**{"scores": tuple(scores), "prompt_tokens": 9, "cut_share": 0, **plain, **fields})


def result(base: Sequence[float | None], *templates: TemplateResult, cut: float = 0) -> Preflight:
    return Preflight(base_scores=tuple(base), student_truncated_share=0, student_cut_share=cut, templates=templates)


def test_answers_that_reach_the_token_limit_are_counted(look: Look):
    def cut(prompt: Sequence[int]) -> Rollout:
        """Of the student, which is shown no other answer."""
        reason = "stop" if "[assistant] answer" in byte_tokenizer().decode(list(prompt)) else "length"
        return Rollout(completion_ids=(65,), finish_reason=reason)

    found = look(tried=[("paper", 1), ("prior_turn", 1)], engine=Scripted(cut))
    assert (found.student_cut_share, [t.cut_share for t in found.templates]) == (1, [1, 0])
    assert "100% of the student's answers were cut at the token limit" in shown(found)
    assert (found.as_dict()["student_cut_share"], found.as_dict()["templates"][1]["cut_share"]) == (1, 0)
    assert "were cut" not in shown(look())


def test_many_cut_answers_are_remarked_on():
    assert result((1.0,), paper((1.0,)), cut=0.49).cut is None
    assert str(result((1.0,), paper((1.0,)), cut=0.5).cut).startswith("50% of the student's")
    assert str(result((1.0,), paper((1.0,), cut_share=0.75), cut=0.5).cut).startswith("75% of the teacher's")


def test_an_end_of_turn_that_ends_no_answer_is_refused(look: Look):
    said = mistake(look, chat_template=CHAT_TEMPLATE.replace("<|end|>", "<|done|>"))
    assert "ends an answer with '<|done|>" in said


def test_few_rows_may_be_chance():
    found = result((1.0, 0.0, 0.0), paper((1.0, 1.0, 0.0)))
    assert found.test.p_value == 1  # one row of three changed: a single coin toss
    assert not found.go
    assert "may be chance" in found.verdict


def test_six_rows_that_only_the_teacher_gets_right_are_no_chance():
    assert result((0.0,) * 6, paper((1.0,) * 6)).go  # p = 2 / 64
    assert not result((0.0,) * 6, paper((1.0,) * 5 + (None,))).go


def test_of_equally_good_templates_the_one_that_moves_the_student_least():
    far, near = paper((1.0,) * 6, kl_per_token=2.0), paper((1.0,) * 6, kl_per_token=0.5, template="system")
    assert result((0.0,) * 6, far, near).best is near
    worse = paper((1.0,) * 5 + (0.0,), kl_per_token=0.1)
    assert result((0.0,) * 6, worse, far).best is far


@pytest.mark.parametrize(
    ("base", "teacher", "said"),
    [
        ((0.0,) * 10, 1.0, "--anchor_share"),
        ((1.0,) * 2 + (0.0,) * 8, 1.0, "--anchor_share"),
        ((1.0,) * 3 + (0.0,) * 7, 1.0, UNKNOWN),
        ((0.0,) * 10, 0.0, UNKNOWN),
    ],
)
def test_the_method_advised_is_the_one_that_was_measured_for_such_a_student(
    base: Sequence[float], teacher: float, said: str
):
    found = result(base, paper((teacher,) * 10))
    assert said in found.advice
    assert found.as_dict()["advice"] == found.advice


def test_advice_follows_what_was_measured():
    def task(base: float, *winners: str) -> MeasuredTask:
        return MeasuredTask(name="t", base_accuracy=base, winners=list(winners))

    arms: dict[str, dict[str, Any]] = {"a": {"method": "sdft", "target": "mix"}, "b": {"method": "sft"}}
    known = Measured(model="m", arms=arms, tasks=[task(0.1, "a"), task(0.4, "a", "b"), task(0.2)])
    assert advice(0.4, known) == (
        "The student is right in 40% of rows. In 2 of 3 comparisons with such a student (m) --method sdft --target mix "
        "drifted less at the same skill than a method without a teacher (docs/evidence.md): try it too."
    )
    assert advice(0.41, known) == advice(None, known) == UNKNOWN
    assert advice(0.1, replace(known, tasks=[task(0.1, "a"), task(0.4, "b")])) == UNKNOWN  # half is not enough
    assert advice(0.1, replace(known, tasks=[task(0.1), task(0.4)])) == UNKNOWN
    anchored = [replace(task(0.1), anchored=0.3), replace(task(0.4), anchored=0.06), task(0.2)]
    assert advice(0.1, replace(known, tasks=anchored)) == (
        "The student is right in 10% of rows. In 2 of 3 comparisons with such a student (m) --method sft with "
        "--anchor_share moved 6% to 30% as far as without at the same skill (docs/evidence.md). Whether "
        "self-distillation keeps more was not decided: selfdistill compare --methods sdft,sft finds out."
    )
    assert advice(0.1, replace(known, tasks=[replace(task(0.1), anchored=1.0)])) == UNKNOWN


def test_names_and_defaults():
    assert template_name("prior_turn", 2) == "prior_turn x2"
    assert template_name("paper", 1) == "paper"
    assert tried_templates() == [("paper", 1), ("system", 1), ("prior_turn", 1), ("prior_turn", 2)]
