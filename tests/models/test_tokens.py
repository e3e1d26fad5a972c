"""Tokens with a meaning: what ends a completion, and what pads one."""

from typing import Any

import pytest

from selfdistill.models.adapters import lora
from selfdistill.models.tokens import eos_token_ids, pad_token_id
from tests.support.mistakes import mistake
from tests.support.tiny_chat import CHATML, tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, {2}),
        (CHATML, {2, 4}),
        # END is an added token but not a special one; the last word is unknown
        (CHATML.replace("<|im_end|>", "END"), {2}),
        (CHATML.replace("<|im_end|>", "unheard-of"), {2}),
        # nothing follows the answer
        ("{% for m in messages %}{{ m.role }} {{ m.content }}{% endfor %}", {2}),
        # a token that separates turns also stands before each answer, so it ends none
        (
            "{% for m in messages %}{{ m.role }} {{ m.content }} <|im_start|> {% endfor %}"
            "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}",
            {2},
        ),
        # a template that refuses the conversation
        ("{{ raise_exception('no') }}", {2}),
        # a template that drops the assistant's answer
        ("{% for m in messages if m.role == 'user' %}{{ m.content }} <|im_end|>{% endfor %}", {2}),
    ],
)
def test_end_of_turn_token_of_the_template(template: str | None, expected: set[int]):
    assert eos_token_ids(tiny_model(), tiny_tokenizer(template)) == expected


def test_every_declared_end_counts_and_junk_does_not():
    model: Any = tiny_model()
    model.generation_config.eos_token_id = [5, 8, 4000]
    model.config.eos_token_id = None
    assert eos_token_ids(model, tiny_tokenizer(None, eos_token="<s>")) == {1, 5, 8}
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = -1
    assert eos_token_ids(model, tiny_tokenizer(None, eos_token=None)) == set()


def test_ends_of_an_adapted_model():
    adapted = lora(tiny_model(), r=1, alpha=1, dropout=0.0)
    assert eos_token_ids(adapted, tiny_tokenizer()) == {2, 4}


def test_a_padding_id_that_the_model_does_not_know_is_passed_over():
    class Tokenizer:
        pad_token_id, eos_token_id = 7, 2

    tokenizer: Any = Tokenizer()
    assert pad_token_id(tokenizer, 8) == 7
    assert pad_token_id(tokenizer, 7) == 2
    assert "neither a pad" in mistake(pad_token_id, tokenizer, 2)


def test_the_padding_id_is_the_tokenizers_own_or_its_end_of_sequence():
    assert pad_token_id(tiny_tokenizer(pad_token="<unk>"), 8) == 0
    assert pad_token_id(tiny_tokenizer(), 8) == 2
    assert "neither a pad nor an end-of-sequence token" in mistake(pad_token_id, tiny_tokenizer(eos_token=None), 8)
