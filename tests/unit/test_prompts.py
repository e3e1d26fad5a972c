"""Prompts: every template's text written out, and ids that decode to the very text.

The tokenizer makes one token of each ASCII character, and one of ``<|end|>``.
"""

import pytest
from tokenizers.processors import TemplateProcessing

from selfdistill.method.prompts import (
    PAPER_TEMPLATE,
    PromptRenderer,
    raw_text,
    think_end_ids,
)
from selfdistill.types import Example, UserError


def mistake(call, *arguments, **options) -> str:
    """The message of the UserError that the call raises; it must not exceed 40 words."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).split()) <= 40
    return str(caught.value)


def turn(role: str, content: str | None, **more) -> dict:
    return {"role": role, "content": content, **more}


def example(question: str = "1+1?", answer: str = "2", *, system: str | None = None, id: str = "t/0") -> Example:
    first = (turn("system", system),) if system else ()
    return Example(id=id, prompt=(*first, turn("user", question)), demonstration=(turn("assistant", answer),))


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}
TOOLS = Example(
    id="t/tools",
    prompt=(
        turn("system", "Use tools."),
        turn("user", "Hi"),
        turn("assistant", "Hello!"),
        turn("user", "1+1?"),
    ),
    demonstration=(turn("assistant", None, tool_calls=[CALL]), turn("tool", "2"), turn("assistant", "It is 2.")),
)
TOOLS_PROMPT = "[system] Use tools.<|end|>\n[user] Hi<|end|>\n[assistant] Hello!<|end|>\n[user] 1+1?<|end|>\n"
TOOLS_ANSWER = '[assistant] <call add {"a": 1, "b": 1}><|end|>\n[tool] 2<|end|>\n[assistant] It is 2.<|end|>\n'


# -- the student's prompt --------------------------------------------------------------------------


def test_students_prompt_has_no_demonstration(tokenizer):
    renderer = PromptRenderer(tokenizer)
    pair = renderer.render(example(system="Be short."))
    expected = "[system] Be short.<|end|>\n[user] 1+1?<|end|>\n[assistant] "
    assert tokenizer.decode(pair.student_ids) == expected
    assert len(pair.student_ids) == len(expected) - 2 * (len("<|end|>") - 1)
    assert renderer.text(pair.example.prompt) == expected


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
    assert tokenizer.decode(raw_text(example(), tokenizer).student_ids) == "<think>"  # raw text has no other source


# -- the teacher's, by template --------------------------------------------------------------------

PAPER = (
    "1+1?\n\nThis is an example for a response to the question:\n2\n\n"
    "Now answer with a response of your own, including the thinking process."
)


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
        (
            "prior_turn",
            f"{TOOLS_PROMPT}{TOOLS_ANSWER}[user] 1+1?<|end|>\n[assistant] ",
        ),
        (
            "paper",
            TOOLS_PROMPT.removesuffix("1+1?<|end|>\n")
            + PAPER_TEMPLATE.format(
                question="1+1?",
                demonstration='{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}'
                "\n2\nIt is 2.",
            )
            + "<|end|>\n[assistant] ",
        ),
    ],
)
def test_turns_and_tool_calls_survive(tokenizer, template, expected):
    assert PromptRenderer(tokenizer, template).teacher_text(TOOLS) == expected


def test_tool_calls_in_the_prompt_survive(tokenizer):
    row = Example(
        id="x",
        prompt=(turn("user", "1+1?"), turn("assistant", "", tool_calls=[CALL]), turn("tool", "2")),
        demonstration=(turn("assistant", "Two."),),
    )
    prompt = '[user] 1+1?<|end|>\n[assistant] <call add {"a": 1, "b": 1}><|end|>\n[tool] 2<|end|>\n'
    renderer = PromptRenderer(tokenizer, "prior_turn")
    assert renderer.text(row.prompt) == f"{prompt}[assistant] "
    assert renderer.teacher_text(row) == f"{prompt}[assistant] Two.<|end|>\n[tool] 2<|end|>\n[assistant] "


def test_prompt_is_not_changed(tokenizer):
    before = repr(TOOLS)
    for template in ("paper", "prior_turn", "system"):
        PromptRenderer(tokenizer, template).render(TOOLS)
    assert repr(TOOLS) == before


# -- few-shot --------------------------------------------------------------------------------------

POOL = [example(f"Q{i}", f"A{i}", system="S", id=f"t/{i}") for i in range(4)]


def shots(*numbers: int) -> str:
    return "".join(f"[user] Q{i}<|end|>\n[assistant] A{i}<|end|>\n" for i in numbers)


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
        ("{{ question }} {{ answer }}", "'answer' is undefined. Known names: question, demonstration, messages."),
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


def test_missing_file_and_unknown_template(tokenizer, tmp_path):
    missing = str(tmp_path / "none.jinja")
    assert f"{missing} does not exist" in mistake(PromptRenderer, tokenizer, "file", template_file=missing)
    assert "'papr' is not one of paper, prior_turn" in mistake(PromptRenderer, tokenizer, "papr")


# -- chat templates --------------------------------------------------------------------------------


def test_kwargs_reach_the_chat_template(tokenizer):
    tokenizer.chat_template = "{{ messages[-1].content }}{% if not enable_thinking %}<think></think>{% endif %}"
    for enabled, expected in ((True, "Hi"), (False, "Hi<think></think>")):
        renderer = PromptRenderer(tokenizer, chat_template_kwargs={"enable_thinking": enabled})
        assert renderer.text([turn("user", "Hi")]) == expected


def test_roles_that_the_chat_template_refuses(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}ok"
    )
    message = mistake(PromptRenderer(tokenizer, "system").render, example())
    assert "refuses turns of system, user: System role not supported." in message


# -- the demonstration as an answer ----------------------------------------------------------------


def test_demonstration_is_the_students_own_continuation(tokenizer):
    for row, answer in ((example(), "2<|end|>"), (TOOLS, TOOLS_ANSWER.removeprefix("[assistant] ").rstrip("\n"))):
        pair = PromptRenderer(tokenizer).render(row)
        assert tokenizer.decode(pair.demonstration_ids) == answer
        assert pair.demonstration_ids[-1] == tokenizer.eos_token_id
        # prompt and continuation are the conversation as the chat template writes it, but for the last newline
        whole = tokenizer.apply_chat_template([*row.prompt, *row.demonstration], tokenize=False)
        assert tokenizer.decode([*pair.student_ids, *pair.demonstration_ids]) == whole.rstrip("\n")


def test_demonstration_ends_where_the_turn_ends_though_eos_be_another_token(tokenizer):
    tokenizer.add_special_tokens({"eos_token": "<|eos|>"})  # Gemma: <end_of_turn> and <eos>
    pair = PromptRenderer(tokenizer).render(example())
    assert tokenizer.decode(pair.demonstration_ids) == "2<|end|>"


@pytest.mark.parametrize("ending", ["", "\n", " \n\n"])
def test_demonstration_gets_an_eos_where_the_chat_template_has_none(tokenizer, ending):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}" + ending + "{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    pair = PromptRenderer(tokenizer).render(example())
    assert tokenizer.decode(pair.demonstration_ids) == "2<|end|>"


def test_demonstration_of_a_thinking_model_is_plain_text_and_eos(tokenizer):
    tokenizer.chat_template = (  # the header opens a thought; past turns are shown without
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] <think>{% endif %}"
    )
    pair = PromptRenderer(tokenizer).render(example(answer="so 2</think>2"))
    assert tokenizer.decode(pair.student_ids).endswith("[assistant] <think>")
    assert tokenizer.decode(pair.demonstration_ids) == "so 2</think>2<|end|>"


def test_completion_text_leaves_special_tokens_out(tokenizer):
    ids = tokenizer("é 2<|end|>", add_special_tokens=False)["input_ids"]
    assert PromptRenderer(tokenizer).completion_text(ids) == "é 2"


def test_think_end_is_known_from_the_chat_template(tokenizer):
    assert think_end_ids(tokenizer) == ()
    tokenizer.chat_template = "{{ messages[0].content.split('</think>')[-1] }}"
    (id,) = think_end_ids(tokenizer)
    assert tokenizer.decode([id]) == "</think>"


def test_raw_text_has_no_chat_template(tokenizer):
    pair = raw_text(example("unused", "abc"), tokenizer)
    assert tokenizer.decode(pair.student_ids) == "a"
    assert tokenizer.decode(pair.demonstration_ids) == "bc<|end|>"
    assert pair.teacher_ids == pair.student_ids
