"""Length limits: an overlong row is refused or dropped whole, never cut, and the message names what would help.

The tokenizer makes one token of each ASCII character, and one of ``<|end|>``.
"""

from typing import Any

import pytest
from transformers import AutoConfig

from selfdistill.method.lengths import NO_LIMIT, Limit, Limits, context_length, fit, length_limits
from selfdistill.method.methods import ANCHORS
from selfdistill.method.prompts import render_pairs
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair
from tests.support.examples import example
from tests.support.mistakes import mistake


def pair_of(student: int, teacher: int | None, demonstration: int = 0, id: str = "train/7") -> PromptPair:
    """A pair whose parts have so many tokens."""
    return PromptPair(
        example=example(id=id),
        student_ids=(1,) * student,
        teacher_ids=None if teacher is None else (1,) * teacher,
        demonstration_ids=(1,) * demonstration,
    )


class Config:
    """A model's config with a context of 200 tokens."""

    max_position_embeddings: int | None = 200

    def get_text_config(self, decoder: bool) -> "Config":
        return self


def limits(**settings: Any) -> Limits:
    return length_limits(MethodConfig(**settings), Config())


LIMITS = Limits(
    prompt=Limit(tokens=3, remedy="Raise --max_prompt_length"),
    teacher_prompt=Limit(tokens=5, remedy="Raise --max_teacher_prompt_length"),
    demonstration=Limit(tokens=4, remedy="Raise --max_completion_length"),
)


# -- what is refused or dropped --------------------------------------------------------------------


def test_rows_at_the_limits_fit():
    pairs = [pair_of(3, 5, 4), pair_of(1, 1, 1), pair_of(3, None, 4)]
    assert fit(pairs, LIMITS, overlong="error") == pairs


@pytest.mark.parametrize(
    ("pair", "what"),
    [
        (
            pair_of(4, 5),
            "prompt has 4 tokens, the limit is 3; part of the text would be cut. Raise --max_prompt_length",
        ),
        (pair_of(3, 6), "teacher prompt has 6 tokens, the limit is 5"),
        (pair_of(3, 5, 5), "demonstration has 5 tokens, the limit is 4"),
        (pair_of(3, 6), "Raise --max_teacher_prompt_length"),
        (pair_of(3, 5, 5), "Raise --max_completion_length"),
    ],
)
def test_overlong_row_is_an_error(pair, what):
    message = mistake(fit, [pair_of(1, 1), pair], LIMITS, overlong="error")
    assert message.startswith("train/7: the ")
    assert what in message
    assert "--overlong drop" in message


def test_overlong_rows_are_dropped_whole_and_in_order():
    pairs = [pair_of(1, 1, id="a"), pair_of(4, 5), pair_of(3, 6), pair_of(3, 5, 5), pair_of(3, 5, 4, id="b")]
    assert [pair.example.id for pair in fit(pairs, LIMITS, overlong="drop")] == ["a", "b"]
    prompts_only = Limits(prompt=LIMITS.prompt)
    assert fit(pairs, prompts_only, overlong="drop") == [pairs[0], *pairs[2:]]


def test_dropping_every_row_is_an_error():
    message = mistake(fit, [pair_of(4, 5), pair_of(3, 5, 5)], LIMITS, overlong="drop")
    assert message == "Every row is over a length limit. Raise --max_completion_length. Raise --max_prompt_length."
    assert fit([], LIMITS, overlong="drop") == []


def test_prompt_and_demonstration_together_must_fit_the_context():
    whole = Limits(prompt=Limit(tokens=9, remedy=""), demonstration=Limit(tokens=9, remedy=""), context=10)
    assert len(fit([pair_of(5, None, 5)], whole, overlong="error")) == 1
    message = mistake(fit, [pair_of(6, None, 5)], whole, overlong="error")
    assert message.startswith("train/7: the row has 11 tokens, the limit is 10;")
    assert "Take a model with a longer context" in message
    assert len(fit([pair_of(6, None, 5), pair_of(5, None, 5)], whole, overlong="drop")) == 1


# -- what the limits are ---------------------------------------------------------------------------


def test_a_prompt_may_have_what_the_completion_leaves_of_the_context():
    room = Limit(tokens=150, remedy="Lower --max_completion_length")
    assert limits(max_completion_length=50) == Limits(prompt=room, teacher_prompt=room, context=200)


def test_limits_of_the_settings_hold_where_the_context_has_room_for_them():
    found = limits(max_completion_length=50, max_prompt_length=20, max_teacher_prompt_length=150)
    assert found.prompt == Limit(tokens=20, remedy="Raise --max_prompt_length")
    assert found.teacher_prompt == Limit(tokens=150, remedy="Raise --max_teacher_prompt_length")
    # more than there is room for: the context is the limit, and raising the setting would not help
    found = limits(max_completion_length=50, max_prompt_length=151, max_teacher_prompt_length=100_000)
    assert found.prompt == found.teacher_prompt == Limit(tokens=150, remedy="Lower --max_completion_length")


def test_a_completion_that_leaves_no_room_is_what_the_message_names():
    message = mistake(limits, max_completion_length=200)
    assert message.startswith("max_completion_length 200: the model reads 200 tokens, prompt and completion together")
    assert "Lower it." in message
    assert "max_prompt_length" not in message
    assert limits(max_completion_length=199).prompt.tokens == 1


@pytest.mark.parametrize("settings", [{}, {"max_prompt_length": 100}, {"max_prompt_length": 100_000}])
def test_a_prompt_that_the_model_has_no_positions_for_needs_another_model(settings):
    found = limits(max_completion_length=16, **settings)
    message = mistake(fit, [pair_of(200, 100)], found, overlong="error")
    assert "the prompt has 200 tokens" in message
    assert "Take a model with a longer context, shorten the row" in message
    # one token less, and shorter completions or a higher limit would do
    assert "longer context" not in mistake(fit, [pair_of(199, 100)], found, overlong="error")


def test_without_a_teacher_its_prompt_is_not_limited_and_the_demonstration_is():
    found = limits(method="sft", max_completion_length=500)
    assert found.teacher_prompt is None
    assert found.demonstration == Limit(tokens=500, remedy="Raise --max_completion_length")
    assert found.prompt == Limit(
        tokens=199, remedy="Take a model with a longer context"
    )  # one token at least is to be learned
    assert found.context == 200


def test_anchors_are_sampled_whatever_the_method_of_the_other_rows():
    config = MethodConfig(method="sft", max_completion_length=50, anchor_share=0.5)
    found = length_limits(config, Config(), ANCHORS)
    room = Limit(tokens=150, remedy="Lower --max_completion_length")
    assert found == Limits(prompt=room, context=200)


def test_context_length():
    assert context_length(Config()) == 200
    assert context_length(AutoConfig.for_model("llama", max_position_embeddings=77)) == 77
    assert context_length(AutoConfig.for_model("gemma3", text_config={"max_position_embeddings": 78})) == 78
    assert context_length(AutoConfig.for_model("mamba")) is None


def test_a_model_without_a_context_length_has_no_limit():
    found = length_limits(MethodConfig(max_completion_length=50), AutoConfig.for_model("mamba"))
    assert (found.prompt.tokens, found.context) == (NO_LIMIT - 50, NO_LIMIT)


# -- together with rendering -----------------------------------------------------------------------


def _length(ids: tuple[int, ...] | None) -> int | None:
    return None if ids is None else len(ids)


def test_each_method_limits_what_it_uses(tokenizer):
    rows = [example("Q", "A" * 30, id="train/0"), example("Q" * 60, "A", id="train/1")]

    def lengths(**settings: Any) -> list[tuple[int, int | None, int]]:
        shown = {} if settings.get("method") == "sft" else {"template": "prior_turn"}
        config = MethodConfig(**shown, **settings)
        pairs = fit(render_pairs(rows, config, tokenizer), length_limits(config, Config()), overlong="drop")
        return [(len(p.student_ids), _length(p.teacher_ids), len(p.demonstration_ids)) for p in pairs]

    # "[user] Q<end>\n[assistant] " has 7 + 1 + 2 + 12 = 22 tokens; the teacher sees it, "A...<end>\n", and it again
    both = [(22, 22 + 30 + 2 + 22, 0), (81, 81 + 1 + 2 + 81, 0)]
    assert lengths(max_completion_length=20) == both  # a demonstration of 31 tokens is only shown
    assert lengths(max_completion_length=40) == both[:1]  # 165 tokens are over 200 - 40
    assert lengths(max_completion_length=20, max_prompt_length=80) == both[:1]
    assert lengths(max_completion_length=20, max_teacher_prompt_length=164) == both[:1]
    # SFT learns the demonstration, and has no teacher whose prompt could be too long
    assert lengths(max_completion_length=20, method="sft") == [(81, None, 2)]
    assert lengths(max_completion_length=40, method="sft") == [(22, None, 31), (81, None, 2)]


def test_sft_takes_a_row_whose_teachers_prompt_would_not_fit(tokenizer):
    row = example("p" * 90, "d" * 60)
    config = MethodConfig(method="sft", max_completion_length=70)
    (pair,) = fit(render_pairs([row], config, tokenizer), length_limits(config, Config()), overlong="error")
    assert (len(pair.student_ids), len(pair.demonstration_ids), pair.teacher_ids) == (111, 61, None)
    taught = MethodConfig(max_completion_length=20)  # 111 + 60 tokens and the template's words, beside 20
    pairs = render_pairs([row], taught, tokenizer)
    assert "the teacher prompt has" in mistake(fit, pairs, length_limits(taught, Config()), overlong="error")
