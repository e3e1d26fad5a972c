"""Rows to pairs of prompts within limits: an overlong row is refused or dropped whole, never cut.

The tokenizer makes one token of each ASCII character, and one of ``<|end|>``.
"""

import pytest

from selfdistill.method.prompts import as_examples, fit, length_limits, render_pairs
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, PromptPair, UserError


def mistake(call, *arguments, **options) -> str:
    """The message of the UserError that the call raises; it must not exceed 40 words."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).split()) <= 40
    return str(caught.value)


def example(question: str = "1+1?", answer: str = "2", id: str = "train/0") -> Example:
    return Example(
        id=id,
        prompt=({"role": "user", "content": question},),
        demonstration=({"role": "assistant", "content": answer},),
    )


def pair_of(student: int, teacher: int, demonstration: int = 1, id: str = "train/7") -> PromptPair:
    return PromptPair(
        example=example(id=id),
        student_ids=(1,) * student,
        teacher_ids=(1,) * teacher,
        demonstration_ids=(1,) * demonstration,
    )


LIMITS = {"max_prompt_length": 3, "max_teacher_prompt_length": 5, "max_completion_length": 4}


def test_rows_at_the_limits_fit():
    pairs = [pair_of(3, 5, 4), pair_of(1, 1, 1)]
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
    prompts_only = {name: limit for name, limit in LIMITS.items() if name != "max_completion_length"}
    assert len(fit(pairs, prompts_only, overlong="drop")) == 3


def test_dropping_every_row_is_an_error():
    message = mistake(fit, [pair_of(4, 5), pair_of(3, 5, 5)], LIMITS, overlong="drop")
    assert message == "Every row is over a length limit. Raise --max_completion_length and --max_prompt_length."
    assert fit([], LIMITS, overlong="drop") == []


class Config:
    """A model's config with a context of 200 tokens."""

    max_position_embeddings = 200

    def get_text_config(self, decoder: bool) -> "Config":
        return self


def test_limits_are_what_the_completion_leaves_of_the_context():
    settings = MethodConfig(max_completion_length=50)
    room = {"max_prompt_length": 150, "max_teacher_prompt_length": 150, "max_completion_length": 50}
    assert length_limits(settings, Config()) == room
    settings = MethodConfig(max_completion_length=50, max_prompt_length=20, max_teacher_prompt_length=500)
    given = {"max_prompt_length": 20, "max_teacher_prompt_length": 500, "max_completion_length": 50}
    assert length_limits(settings, Config()) == given


def test_render_pairs_limits_what_the_method_uses(tokenizer):
    rows = [example("Q", "A" * 30, id="train/0"), example("Q" * 60, "A", id="train/1")]

    def lengths(**settings) -> list[tuple[int, int, int]]:
        args = MethodConfig(template="prior_turn", overlong="drop", **settings)
        pairs = render_pairs(rows, args, tokenizer, Config())
        return [(len(p.student_ids), len(p.teacher_ids), len(p.demonstration_ids)) for p in pairs]

    # "[user] Q<end>\n[assistant] " has 7 + 1 + 2 + 12 = 22 tokens; the teacher sees it, "A...<end>\n", and it again
    both = [(22, 22 + 30 + 2 + 22, 31), (81, 81 + 1 + 2 + 81, 2)]
    assert lengths(max_completion_length=20) == both  # a demonstration of 31 is only shown
    assert lengths(max_completion_length=20, method="sft") == both[1:]  # here it is learned
    assert lengths(max_completion_length=40) == both[:1]  # 165 tokens are over 200 - 40
    assert lengths(max_completion_length=20, max_prompt_length=80) == both[:1]
    assert lengths(max_completion_length=20, max_teacher_prompt_length=164) == both[:1]


def test_render_pairs_of_raw_text(tokenizer):
    anchor = Example(id="a/0", prompt=({"role": "user", "content": "Hi"},))
    settings = MethodConfig(method="cpt", max_completion_length=50)
    raw, chat = render_pairs([example("Q", "abc"), anchor], settings, tokenizer, Config())
    assert tokenizer.decode([*raw.student_ids, *raw.demonstration_ids]) == "abc<|end|>"
    assert tokenizer.decode(chat.student_ids) == "[user] Hi<|end|>\n[assistant] "


# -- rows ------------------------------------------------------------------------------------------


def test_rows_become_examples_and_examples_stay():
    rows = [{"prompt": "1+1?", "demonstration": "2"}]
    assert as_examples(rows, "train") == [example()]
    given = [example()]
    assert as_examples(iter(given), "train")[0] is given[0]
    assert "train_dataset row 1" in mistake(as_examples, [{"prompt": "1+1?"}], "train")
    assert as_examples([{"prompt": "1+1?"}], "anchor", demonstrations=False)[0].demonstration == ()
    assert "no rows" in mistake(as_examples, [], "train")
