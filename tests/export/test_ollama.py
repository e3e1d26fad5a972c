"""Modelfiles: a template that gives the very prompts, or none."""

import pytest

from selfdistill.export.ollama import modelfile, turns_of
from tests.support.tiny import CHAT_TEMPLATE, byte_tokenizer
from tests.support.tiny_chat import tiny_tokenizer

DEFAULT = "{% if messages[0].role != 'system' %}[system] Be brief.<|end|>\n{% endif %}" + CHAT_TEMPLATE
NUMBERED = "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}"
LAST = CHAT_TEMPLATE.replace("<|end|>", "{% if loop.last %}!{% endif %}<|end|>")
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
BRACES = CHAT_TEMPLATE.replace("[{{", "[{{ '{{' }}{{")
THINKING = CHAT_TEMPLATE.replace("[assistant] {%", "[assistant] {% if not think %}<think></think>{% endif %}{%")


def test_by_hand() -> None:
    text, has_template = modelfile(byte_tokenizer(), {}, "model.gguf")
    assert has_template
    assert text.startswith("FROM ./model.gguf\n")
    assert (
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}[system] {{ .Content }}<|end|>\n'
        '{{ else if eq .Role "user" }}[user] {{ .Content }}<|end|>\n'
        '{{ else if eq .Role "assistant" }}[assistant] {{ .Content }}<|end|>\n'
        '{{ end }}{{ end }}[assistant] """\n'
    ) in text
    assert text.endswith('PARAMETER stop "<|end|>"\n')
    assert "SYSTEM" not in text


def test_a_system_prompt_of_the_templates_own_is_kept() -> None:
    assert 'SYSTEM """Be brief."""' in modelfile(byte_tokenizer(DEFAULT), {}, "model.gguf")[0]


def test_the_templates_options_are_those_of_the_run() -> None:
    tokenizer = byte_tokenizer(THINKING)
    for options, opening in (({}, "[assistant] <think></think>"), ({"think": True}, "[assistant] ")):
        turns = turns_of(tokenizer, options)
        assert turns is not None
        assert turns.opening == opening


@pytest.mark.parametrize("template", [NUMBERED, LAST, REFUSING, BRACES], ids=["numbered", "last", "refusing", "braces"])
def test_a_template_that_does_more_is_left_to_ollama(template: str) -> None:
    text, has_template = modelfile(byte_tokenizer(template), {}, "model.gguf")
    assert not has_template
    assert "TEMPLATE" not in text
    assert 'PARAMETER stop "<|end|>"' in text


def test_a_beginning_that_readers_add_is_not_written_twice() -> None:
    """The tokenizer puts ``<s>`` before every text, and so does its chat template."""
    from tokenizers.processors import TemplateProcessing

    begun = "{{ bos_token }}" + CHAT_TEMPLATE
    for adds, first in ((True, "[system] "), (False, "<s>[system] ")):
        tokenizer = byte_tokenizer(begun)
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        if adds:
            id = tokenizer.convert_tokens_to_ids("<s>")
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", id)]
            )
        turns = turns_of(tokenizer, {})
        if adds:
            assert turns is not None
            assert turns.before["system"] == first
        else:
            assert turns is None  # the beginning comes once, and not before every system prompt


def test_a_tokenizer_without_a_template_has_none() -> None:
    text, has_template = modelfile(tiny_tokenizer(template=None), {}, "model.gguf")
    assert not has_template
    assert 'PARAMETER stop "</s>"' in text
