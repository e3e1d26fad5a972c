"""Preflight with an engine that answers right when it sees the answer in the way it likes."""

import pytest
from toy_task import toy_task

from selfdistill.evaluate import preflight as module
from selfdistill.evaluate.preflight import Preflight, TemplateResult, preflight, template_name
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, Rollout, UserError


def example(n):
    return Example(
        id=f"toy/{n}",
        prompt=({"role": "user", "content": f"Q{n}"},),
        demonstration=({"role": "assistant", "content": f"answer {n}"},),
        reference=f"answer {n}",
    )


class Follower:
    """Copies an earlier assistant turn, if there is one; else it says it doesn't know."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def generate(self, prompts, sampling):
        assert sampling.temperature == 0
        answers = []
        for prompt in prompts:
            turns = self.tokenizer.decode(list(prompt)).split("[assistant] ")[1:-1]
            answers.append(turns[0].split("<|end|>")[0] if turns else "no idea")
        eos = self.tokenizer.eos_token_id
        ids = [(*self.tokenizer(text)["input_ids"], eos) for text in answers]
        return [Rollout(completion_ids=i, finish_reason="stop") for i in ids]


def task(score):
    return toy_task(scorers={"equal": score})


@pytest.fixture
def look(tiny_model, tokenizer):
    def run(score=lambda text, row: float(text == row.reference), rows=12, **settings):
        model = tiny_model("llama", vocab_size=300, max_position_embeddings=400)
        args = MethodConfig(max_completion_length=16, **settings)
        examples = [example(n) for n in range(rows)]
        return preflight(model, tokenizer, task(score), examples, args, engine=Follower(tokenizer))

    return run


def test_the_template_that_works_is_found(look):
    found = look()
    accuracies = {t.name: t.accuracy for t in found.templates}
    assert accuracies == {"paper": 0, "system": 0, "prior_turn": 1, "prior_turn x2": 1}
    assert found.base_accuracy == 0
    assert found.best.name in ("prior_turn", "prior_turn x2")
    assert found.go
    assert found.verdict == f"teacher 100% vs base 0% with {found.best.name}: go"
    assert found.as_dict()["recommended_template"] == found.best.name
    assert all(t.kl_per_token > 0 for t in found.templates)


def test_prompts_over_the_limit_are_unscored_and_counted(look):
    found = look(max_teacher_prompt_length=70)
    longest = {t.name: t.prompt_tokens for t in found.templates}
    for result in found.templates:
        over = longest[result.name] > 70
        assert (result.truncated_share > 0) == over


def test_student_prompts_over_the_limit(look):
    with pytest.raises(UserError, match="max_prompt_length"):
        look(max_prompt_length=3)


def test_nothing_to_teach(look):
    found = look(score=lambda text, _: float(text.startswith(("no", "answer"))))
    assert found.base_accuracy == 1
    assert not found.go
    assert "nothing to teach" in found.verdict


def test_a_scorer_that_never_scores_says_nothing(look):
    for score in (lambda *_: 0.0, lambda *_: None):
        found = look(score=score)
        assert not found.tells
        assert not found.go
        assert found.best.template == "prior_turn"
        assert "can't tell" in found.verdict


def test_few_rows_may_be_chance():
    result = TemplateResult(
        name="paper",
        template="paper",
        repeat=1,
        scores=(1.0, 1.0, 0.0),
        kl_per_token=0.1,
        truncated_share=0,
        prompt_tokens=9,
    )
    found = Preflight(base_scores=(1.0, 0.0, 0.0), student_truncated_share=0, templates=(result,))
    assert found.p_value == 1  # one row of three changed: a single coin toss
    assert not found.go
    assert "may be chance" in found.verdict


@pytest.mark.parametrize(
    ("base", "teacher", "said"),
    [
        ((0.0,) * 10, 1.0, "--anchor_share"),
        ((1.0,) * 2 + (0.0,) * 8, 1.0, "--anchor_share"),
        ((1.0,) * 3 + (0.0,) * 7, 1.0, "compare"),
        ((0.0,) * 10, 0.0, "compare"),
    ],
)
def test_the_method_advised_is_the_one_that_was_measured_for_such_a_student(base, teacher, said):
    result = TemplateResult(
        name="paper",
        template="paper",
        repeat=1,
        scores=(teacher,) * 10,
        kl_per_token=0.1,
        truncated_share=0,
        prompt_tokens=9,
    )
    found = Preflight(base_scores=base, student_truncated_share=0, templates=(result,))
    assert said in found.advice
    assert found.as_dict()["advice"] == found.advice


def test_names_and_defaults():
    assert template_name("prior_turn", 2) == "prior_turn x2"
    assert template_name("paper", 1) == "paper"
    assert ("paper", 1) in module.TEMPLATES
