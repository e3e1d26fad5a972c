"""Templates: the text that the teacher reads, written out for every way of showing the demonstration."""

import os
from dataclasses import replace

import pytest

from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.templates import SYSTEM_TEMPLATE, next_templates, tried_templates
from selfdistill.types import Example
from tests.support.examples import CALLED, TOOLS, example, turn
from tests.support.mistakes import mistake

TOOLS_PROMPT = "[system] Use tools.<|end|>\n[user] Hi<|end|>\n[assistant] Hello!<|end|>\n[user] 1+1?<|end|>\n"
TOOLS_ANSWER = '[assistant] <call add {"a": 1, "b": 1}><|end|>\n[tool] 2<|end|>\n[assistant] It is 2.<|end|>\n'


def paper_text(question: str, demonstration: str) -> str:
    return (
        f"{question}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
        "Now answer with a response of your own, including the thinking process."
    )


PAPER = paper_text("1+1?", "2")
CALL_JSON = '{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}'
POOL = [example(f"Q{i}", f"A{i}", system="S", id=f"t/{i}") for i in range(4)]


def shots(*numbers: int) -> str:
    return "".join(f"[user] Q{i}<|end|>\n[assistant] A{i}<|end|>\n" for i in numbers)


@pytest.mark.parametrize(
    ("template", "repeat", "expected"),
    [
        ("paper", 1, f"[system] Be short.<|end|>\n[user] {PAPER}<|end|>\n[assistant] "),
        (
            "prior_turn",
            1,
            "[system] Be short.<|end|>\n[user] 1+1?<|end|>\n[assistant] 2<|end|>\n[user] 1+1?<|end|>\n[assistant] ",
        ),
        (
            "prior_turn",
            2,
            "[system] Be short.<|end|>\n[user] 1+1?<|end|>\n[assistant] 2<|end|>\n[user] 1+1?<|end|>\n"
            "[assistant] 2<|end|>\n[user] 1+1?<|end|>\n[assistant] ",
        ),
        (
            "system",
            1,
            "[system] Be short.\n\nA good answer to the user's next message looks like this:\n2<|end|>\n"
            "[user] 1+1?<|end|>\n[assistant] ",
        ),
    ],
)
def test_templates_by_hand(tokenizer, template, repeat, expected):
    renderer = PromptRenderer(tokenizer, template, repeat=repeat)
    row = example(system="Be short.")
    assert renderer.teacher_text(row) == expected
    assert tokenizer.decode(renderer.render(row).teacher_ids) == expected


def test_system_template_adds_a_system_turn_where_there_is_none(tokenizer):
    expected = (
        "[system] A good answer to the user's next message looks like this:\n2<|end|>\n[user] 1+1?<|end|>\n[assistant] "
    )
    assert PromptRenderer(tokenizer, "system").teacher_text(example()) == expected


def test_braces_are_text(tokenizer):
    text = PromptRenderer(tokenizer).teacher_text(example('{"a": {question}}', "{demonstration}{0}"))
    assert '[user] {"a": {question}}\n\n' in text
    assert "question:\n{demonstration}{0}\n\n" in text


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("prior_turn", f"{TOOLS_PROMPT}{TOOLS_ANSWER}[user] 1+1?<|end|>\n[assistant] "),
        (
            "paper",
            TOOLS_PROMPT.removesuffix("1+1?<|end|>\n")
            + paper_text("1+1?", f"{CALL_JSON}\n2\nIt is 2.")
            + "<|end|>\n[assistant] ",
        ),
    ],
)
def test_turns_and_tool_calls_survive(tokenizer, template, expected):
    assert PromptRenderer(tokenizer, template).teacher_text(TOOLS) == expected


# -- a prompt that ends with a tool's result -------------------------------------------------------

RESULT = '[assistant] <call add {"a": 1, "b": 1}><|end|>\n[tool] 2<|end|>\n'
ASKED = f"[user] 1+1?<|end|>\n{RESULT}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "paper",
            f"[user] {paper_text('1+1?', 'Two.')}<|end|>\n{RESULT}[assistant] ",
        ),
        ("prior_turn", f"{ASKED}[assistant] Two.<|end|>\n{ASKED}[assistant] "),
        ("few_shot", f"{shots(0)}{ASKED}[assistant] Two.<|end|>\n{ASKED}[assistant] "),
        ("system", f"[system] {SYSTEM_TEMPLATE.format(demonstration='Two.')}<|end|>\n{ASKED}[assistant] "),
        ("file", f"[user] Q: 1+1? A: Two.<|end|>\n{RESULT}[assistant] "),
    ],
)
def test_the_last_user_turn_is_what_is_changed_or_asked_again(tokenizer, tmp_path, template, expected):
    path = tmp_path / "mine.jinja"
    path.write_text("Q: {{ question }} A: {{ demonstration }}", encoding="utf-8")
    renderer = PromptRenderer(tokenizer, template, pool=POOL, template_file=str(path))
    assert renderer.teacher_text(CALLED) == expected


# -- the chat template's own system turn -----------------------------------------------------------

SHOWN = "A good answer to the user's next message looks like this:\n2"


def test_what_the_chat_template_says_by_default_stays(tokenizer):
    tokenizer.chat_template = (  # as Qwen 2.5's
        "{% if messages[0].role != 'system' %}[system] You are Qwen.<|end|>\n{% endif %}" + tokenizer.chat_template
    )
    renderer = PromptRenderer(tokenizer, "system")
    assert renderer.text(example().prompt) == "[system] You are Qwen.<|end|>\n[user] 1+1?<|end|>\n[assistant] "
    expected = f"[system] You are Qwen.\n\n{SHOWN}<|end|>\n[user] 1+1?<|end|>\n[assistant] "
    assert renderer.teacher_text(example()) == expected
    expected = f"[system] Be short.\n\n{SHOWN}<|end|>\n[user] 1+1?<|end|>\n[assistant] "
    assert renderer.teacher_text(example(system="Be short.")) == expected


def test_what_the_chat_template_always_says_is_not_said_twice(tokenizer):
    tokenizer.chat_template = (  # as Llama 3's
        "[system] Year: 2023\n{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|end|>\n"
        "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}<|end|>\n{% endfor %}[assistant] "
    )
    expected = f"[system] Year: 2023\n{SHOWN}<|end|>\n[user] 1+1?<|end|>\n[assistant] "
    assert PromptRenderer(tokenizer, "system").teacher_text(example()) == expected


def test_a_chat_template_without_system_turns_takes_the_other_templates(tokenizer):
    tokenizer.chat_template = (  # as Gemma 2's
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    assert "System role not supported" in mistake(PromptRenderer(tokenizer, "system").render, example())
    assert PromptRenderer(tokenizer, "paper").teacher_text(example()) == f"[user] {PAPER}<|end|>\n[assistant] "


# -- a developer's turn ----------------------------------------------------------------------------


def test_a_developers_turn_instructs_as_a_system_turn_does(tokenizer):
    row = Example(
        id="row",
        prompt=(turn("developer", "Be short."), turn("user", "1+1?")),
        demonstration=(turn("assistant", "2"),),
    )
    rest = "[user] 1+1?<|end|>\n[assistant] "
    system_text = PromptRenderer(tokenizer, "system").teacher_text(row)
    assert system_text == f"[developer] Be short.\n\n{SHOWN}<|end|>\n{rest}"
    pool = [replace(row, id="other", prompt=(turn("developer", "No."), turn("user", "Q")))]
    few_text = PromptRenderer(tokenizer, "few_shot", pool=pool).teacher_text(row)
    asked = "[user] 1+1?<|end|>\n[assistant] 2<|end|>\n"
    assert few_text == f"[developer] Be short.<|end|>\n[user] Q<|end|>\n[assistant] 2<|end|>\n{asked}{rest}"


# -- few-shot --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "repeat", "others"), [(0, 2, (1, 2)), (2, 1, (3,)), (2, 2, (3, 0)), (3, 3, (0, 1, 2))])
def test_few_shot_takes_the_rows_that_follow_around_the_end(tokenizer, row, repeat, others):
    renderer = PromptRenderer(tokenizer, "few_shot", repeat=repeat, pool=POOL)
    expected = f"[system] S<|end|>\n{shots(*others, row)}[user] Q{row}<|end|>\n[assistant] "
    assert renderer.teacher_text(POOL[row]) == expected


def test_few_shot_for_a_row_outside_the_pool_may_take_all_of_it(tokenizer):
    renderer = PromptRenderer(tokenizer, "few_shot", repeat=2, pool=POOL[:2])
    expected = f"{shots(0, 1, 9)}[user] Q9<|end|>\n[assistant] "
    assert renderer.teacher_text(example("Q9", "A9", id="e/0")) == expected


@pytest.mark.parametrize(("pool", "others"), [(POOL[:3], 2), (POOL[:1], 0), ([], 0)])
def test_few_shot_with_too_few_rows(tokenizer, pool, others):
    renderer = PromptRenderer(tokenizer, "few_shot", repeat=3, pool=pool)
    message = mistake(renderer.render, POOL[0])
    assert f"few_shot needs 3 other rows, the data has {others}." in message


# -- a user's file ---------------------------------------------------------------------------------


def test_jinja_file(tokenizer, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("Q: {{ question }} A: {{ demonstration }} ({{ messages | length }} turns)\n", encoding="utf-8")
    renderer = PromptRenderer(tokenizer, "file", template_file=str(path))
    expected = "[system] é<|end|>\n[user] Q: 1+1? A: 2 (2 turns)<|end|>\n[assistant] "
    assert renderer.teacher_text(example(system="é")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ question }}\n{% if %}", "line 2"),
        (
            "{{ question }} {{ answer }}",
            "'answer' is undefined. Known names: question, demonstration, messages, feedback.",
        ),
        ("{{ question | nosuch }}", "line 1: No filter named 'nosuch'."),
        ("{{ question + 1 }}", "can only concatenate str"),
        ("{{ question.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("\udce9", "not UTF-8"),
    ],
)
def test_mistakes_in_a_jinja_file(tokenizer, tmp_path, text, message):
    path = tmp_path / "mine.jinja"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = mistake(lambda: PromptRenderer(tokenizer, "file", template_file=str(path)).render(example()))
    assert said.startswith(str(path))
    assert message in said


def test_a_byte_order_mark_is_no_part_of_the_text(tokenizer, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}Frage: {{ question }} {{ demonstration }}".encode())
    shown = PromptRenderer(tokenizer, "file", template_file=str(path)).teacher_text(example())
    assert shown == "[user] Frage: 1+1? 2<|end|>\n[assistant] "


def test_a_file_that_was_edited_is_read_again(tokenizer, tmp_path):
    path = tmp_path / "mine.jinja"
    renderer = PromptRenderer(tokenizer, "file", template_file=str(path))
    for second, text in enumerate(("one", "two")):
        path.write_text(text, encoding="utf-8")
        os.utime(path, (second, second))
        assert renderer.teacher_text(example()) == f"[user] {text}<|end|>\n[assistant] "


def test_a_file_may_lie_in_the_home_folder(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jinja").write_text("{{ question }}!", encoding="utf-8")
    shown = PromptRenderer(tokenizer, "file", template_file="~/mine.jinja").teacher_text(example())
    assert shown == "[user] 1+1?!<|end|>\n[assistant] "


def test_a_file_that_is_missing_is_named(tokenizer, tmp_path):
    missing = str(tmp_path / "none.jinja")
    message = mistake(PromptRenderer(tokenizer, "file", template_file=missing).render, example())
    assert f"{missing} does not exist" in message


def test_what_a_preflight_tries():
    assert tried_templates() == [("paper", 1), ("system", 1), ("prior_turn", 1), ("prior_turn", 2)]
    assert next_templates() == [("prior_turn", 4)]
