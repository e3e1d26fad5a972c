"""Prompts: ids that decode to the very text, and the demonstration as the student's own continuation.

The tokenizer makes one token of each ASCII character, and one of ``<|end|>``. What the templates write is in
``test_templates.py``.
"""

from dataclasses import replace

import pytest
from tokenizers.processors import TemplateProcessing

from selfdistill.method import prompts
from selfdistill.method.methods import METHODS
from selfdistill.method.prompts import (
    PromptRenderer,
    make_renderer,
    raw_texts,
    render_anchors,
    render_pairs,
    think_end_ids,
)
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example
from tests.support.examples import CALLED, TOOLS, example, turn
from tests.support.mistakes import mistake

PROMPT = "[user] 1+1?<|end|>\n[assistant] "


# -- the student's prompt --------------------------------------------------------------------------


def test_students_prompt_has_no_demonstration(tokenizer):
    renderer = PromptRenderer(tokenizer)
    pair = renderer.render(example(system="Be short."))
    expected = "[system] Be short.<|end|>\n[user] 1+1?<|end|>\n[assistant] "
    assert tokenizer.decode(pair.student_ids) == expected
    assert len(pair.student_ids) == len(expected) - 2 * (len("<|end|>") - 1)
    assert renderer.text(pair.example.prompt) == expected


def test_a_prompt_may_end_with_a_tools_result(tokenizer):
    expected = '[user] 1+1?<|end|>\n[assistant] <call add {"a": 1, "b": 1}><|end|>\n[tool] 2<|end|>\n[assistant] '
    assert tokenizer.decode(PromptRenderer(tokenizer).render(CALLED).student_ids) == expected


def test_without_a_demonstration_the_teacher_sees_what_the_student_sees(tokenizer):
    plain = Example(id="x", prompt=(turn("user", "Hi"),))
    for template in ("paper", "prior_turn", "system", "few_shot"):
        renderer = PromptRenderer(tokenizer, template)
        pair = renderer.render(plain)
        assert pair.teacher_ids == pair.student_ids
        assert pair.demonstration_ids == ()
        assert renderer.teacher_text(plain) == "[user] Hi<|end|>\n[assistant] "


def test_special_tokens_are_the_chat_templates_alone(tokenizer):
    bos = ("<think>", tokenizer.convert_tokens_to_ids("<think>"))  # stands for a BOS token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<think> $A", special_tokens=[bos])
    assert tokenizer.decode(tokenizer("a")["input_ids"]) == "<think>a"
    pair = PromptRenderer(tokenizer).render(example())
    assert tokenizer.decode([*pair.student_ids, *pair.demonstration_ids]).count("<think>") == 0
    (raw,) = raw_texts([example()], tokenizer)
    assert tokenizer.decode(raw.student_ids) == "<think>"  # raw text has no other source


# -- many rows -------------------------------------------------------------------------------------


def test_many_rows_are_rendered_as_one_is_and_counted(tokenizer, monkeypatch):
    monkeypatch.setattr(prompts, "CHUNK", 2)
    rows = [example("Q", "A"), TOOLS, Example(id="x", prompt=(turn("user", "Hi"),)), CALLED, example("é", "ü")]
    renderer = PromptRenderer(tokenizer, "prior_turn")
    done: list[int] = []
    assert renderer.render_all(iter(rows), on_done=done.append) == [renderer.render(row) for row in rows]
    assert done == [2, 2, 1]
    assert renderer.render_all([]) == []


def test_a_teachers_prompt_is_added_to_pairs_that_lack_one(tokenizer):
    renderer = PromptRenderer(tokenizer, "prior_turn")
    rows = [example(), Example(id="x", prompt=(turn("user", "Hi"),)), TOOLS]
    bare = renderer.render_all(rows, teacher=False)
    assert [pair.teacher_ids for pair in bare] == [None] * 3
    done: list[int] = []
    assert renderer.with_teacher(bare, done.append) == renderer.render_all(rows)
    assert sum(done) == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_pair_has_what_its_method_uses(tokenizer, method):
    spec = METHODS[method]
    (pair,) = render_pairs([example()], MethodConfig(method=method), tokenizer)
    assert (pair.teacher_ids is not None) == spec.shows_demonstration
    assert (len(pair.demonstration_ids) > 0) == (not spec.samples)
    assert tokenizer.decode(pair.student_ids) == ("2" if method == "cpt" else PROMPT)


def test_settings_reach_the_renderer(tokenizer):
    rows = [example(f"Q{n}", f"A{n}", id=f"train/{n}") for n in range(3)]
    config = MethodConfig(template="few_shot", template_repeat=2)
    shown = make_renderer(rows, config, tokenizer).teacher_text(rows[0])
    assert [shown.count(answer) for answer in ("A0", "A1", "A2")] == [1, 1, 1]
    tokenizer.chat_template = "{{ messages[-1].content }}{{ suffix }}"
    config = MethodConfig(template="prior_turn", chat_template_kwargs={"suffix": "!"})
    assert make_renderer(rows, config, tokenizer).text([turn("user", "Hi")]) == "Hi!"
    (anchor,) = render_anchors([Example(id="a", prompt=(turn("user", "Hi"),))], config, tokenizer)
    assert tokenizer.decode(anchor.student_ids) == "Hi!"
    assert (anchor.teacher_ids, anchor.demonstration_ids) == (None, ())


def test_raw_text_has_no_chat_template(tokenizer):
    (pair,) = raw_texts([example("unused", "abc")], tokenizer)
    assert tokenizer.decode(pair.student_ids) == "a"
    assert tokenizer.decode(pair.demonstration_ids) == "bc<|end|>"
    assert pair.teacher_ids is None
    assert raw_texts([], tokenizer) == []


def test_raw_text_ends_once_though_the_tokenizer_adds_an_end(tokenizer):
    eos = ("<|end|>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <|end|>", special_tokens=[eos])
    (pair,) = raw_texts([example("unused", "abc")], tokenizer)
    assert tokenizer.decode(pair.demonstration_ids) == "bc<|end|>"


# -- chat templates --------------------------------------------------------------------------------


def test_kwargs_reach_the_chat_template(tokenizer):
    tokenizer.chat_template = "{{ messages[-1].content }}{% if not enable_thinking %}<think></think>{% endif %}"
    for enabled, expected in ((True, "Hi"), (False, "Hi<think></think>")):
        renderer = PromptRenderer(tokenizer, chat_template_kwargs={"enable_thinking": enabled})
        assert renderer.text([turn("user", "Hi")]) == expected


THINKS = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>"
    "{% if not enable_thinking %}<think></think>{% endif %}{% endif %}{{ mood }}"
)


def test_student_and_teacher_may_get_variables_of_their_own(tokenizer):
    """Those of one's own replace shared ones of the same name; the others stay."""
    tokenizer.chat_template = THINKS
    config = MethodConfig(
        chat_template_kwargs={"mood": "!", "enable_thinking": True},
        student_chat_template_kwargs={"enable_thinking": False},
        teacher_chat_template_kwargs={"mood": "?"},
        template="prior_turn",
    )
    (pair,) = render_pairs([example("Q", "A")], config, tokenizer)
    assert tokenizer.decode(pair.student_ids) == "<u>Q<a><think></think>!"
    assert tokenizer.decode(pair.teacher_ids) == "<u>Q<a>A<u>Q<a>?"
    (anchor,) = render_anchors([example("Q")], config, tokenizer)
    assert tokenizer.decode(anchor.student_ids) == "<u>Q<a><think></think>!"


def test_a_row_without_a_demonstration_is_the_teachers_prompt_with_the_teachers_variables(tokenizer):
    tokenizer.chat_template = THINKS
    bare = Example(id="bare", prompt=(turn("user", "Q"),))
    for own, expected in (({"enable_thinking": True}, "<u>Q<a>"), ({}, "<u>Q<a><think></think>")):
        config = MethodConfig(teacher_chat_template_kwargs=own)
        (pair,) = render_pairs([bare], config, tokenizer)
        assert tokenizer.decode(pair.teacher_ids) == expected
        assert tokenizer.decode(pair.student_ids) == "<u>Q<a><think></think>"


def test_the_default_system_text_is_that_of_the_teachers_variables(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0].role != 'system' %}<s>Be {{ mood }}.{% endif %}"
        "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}"
    )
    config = MethodConfig(
        template="system", chat_template_kwargs={"mood": "kind"}, teacher_chat_template_kwargs={"mood": "strict"}
    )
    (pair,) = render_pairs([example("Q", "A")], config, tokenizer)
    assert tokenizer.decode(pair.student_ids) == "<s>Be kind.<u>Q"
    assert str(tokenizer.decode(pair.teacher_ids)).startswith("<s>Be strict.\n\nA good answer")


def test_roles_that_the_chat_template_refuses(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}ok"
    )
    message = mistake(PromptRenderer(tokenizer, "system").render, example())
    assert "refuses turns of system, user: System role not supported." in message


def test_a_chat_template_that_fails_on_a_turn_is_told_in_one_line(tokenizer):
    tokenizer.chat_template = "{{ messages[0].content + 1 }}"
    assert mistake(PromptRenderer(tokenizer).render, example()).startswith("The chat template refuses turns of user: ")


def test_completion_text_leaves_special_tokens_out(tokenizer):
    ids = tokenizer("é 2<|end|>", add_special_tokens=False)["input_ids"]
    assert PromptRenderer(tokenizer).completion_text(ids) == "é 2"


def test_think_end_is_known_from_the_chat_template(tokenizer):
    assert think_end_ids(tokenizer) == ()
    tokenizer.chat_template = "{{ messages[0].content.split('</think>')[-1] }}"
    (id,) = think_end_ids(tokenizer)
    assert tokenizer.decode([id]) == "</think>"


def test_an_unknown_template_is_named_with_the_known_ones(tokenizer):
    message = mistake(PromptRenderer, tokenizer, "papr")
    assert "'papr' is not one of paper, system, prior_turn" in message
    assert "Did you mean 'paper'?" in message
    assert "(auto: command line.)" in mistake(PromptRenderer, tokenizer, "auto")


def test_rendering_leaves_the_row_as_it_was(tokenizer):
    for row in (TOOLS, CALLED):
        before = repr(row)
        for template in ("paper", "prior_turn", "system"):
            PromptRenderer(tokenizer, template).render(replace(row, demonstration=(turn("assistant", "Two."),)))
            PromptRenderer(tokenizer, template).render(row)
        assert repr(row) == before
