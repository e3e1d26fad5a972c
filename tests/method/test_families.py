"""Chat templates of many families, with every way of showing the demonstration.

The templates of ``tests/support/family_templates.py`` do what the published ones do; docs/models.md says what.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfdistill.method.prompts import PromptRenderer
from selfdistill.models.tokens import check_end_of_turn, end_of_turn_id, eos_token_ids
from selfdistill.training.shown_rows import date_warning, lost_thoughts_warning
from selfdistill.types import Example, PromptPair
from tests.support.examples import turn
from tests.support.families import FAMILIES, made_tokenizer, tokenizer_of
from tests.support.mistakes import mistake
from tests.support.tiny import random_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TEMPLATES = ("paper", "system", "prior_turn", "few_shot", "file")
ASKED, SHOWN, SAID, THOUGHT = "What is 6 times 7?", "Forty-two.", "Be short.", "Six sevens."
POOL = [
    Example(id=f"t/{n}", prompt=(turn("user", f"What is {n}?"),), demonstration=(turn("assistant", f"It is {n}!"),))
    for n in (1, 2)
]


def row(*before: Any, answer: Any = None, **more: Any) -> Example:
    """The question after some turns, answered."""
    demonstration = (turn("assistant", SHOWN) if answer is None else answer,)
    return Example(id="row", prompt=(*before, turn("user", ASKED)), demonstration=demonstration, **more)


EARLIER = (turn("user", "Hi"), turn("assistant", "Hello!"))
ROWS = {
    "plain": row(),
    "system turn": row(turn("system", SAID)),
    "several turns": row(*EARLIER),
    "system and several turns": row(turn("system", SAID), *EARLIER),
}


def text_of(tokenizer: Any, ids: Any) -> str:
    return tokenizer.decode(list(ids))


def pair_of(name: str, example: Example, template: str = "paper", **options: Any) -> tuple[Any, PromptPair]:
    tokenizer = tokenizer_of(name)
    return tokenizer, PromptRenderer(tokenizer, template, pool=POOL, **options).render(example)


def count_of_beginnings(name: str, text: str) -> int:
    """Llama 2 begins every exchange anew, and OLMo 2 ends every answer with the token that begins."""
    marks = {"Llama 2": "[INST]", "OLMo 2": "<|assistant|>"}
    return text.count(marks[name]) if name in marks else int(bool(FAMILIES[name].bos))


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_of_student_and_teacher(name: str, template: str, tmp_path: Path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ question }} (As in: {{ demonstration }})", encoding="utf-8")
    family = FAMILIES[name]
    tokenizer = tokenizer_of(name)
    renderer = PromptRenderer(tokenizer, template, pool=POOL, template_file=str(file))
    for example in ROWS.values():
        instructed = example.prompt[0]["role"] == "system"
        if family.system != "shown" and (instructed or template == "system"):
            words = {"refused": "The chat template refuses turns of system", "left out": "leaves system turns out"}
            assert words[family.system] in mistake(renderer.render, example)
            continue
        pair = renderer.render(example)
        student, teacher = text_of(tokenizer, pair.student_ids), text_of(tokenizer, pair.teacher_ids)
        for ids, text in ((pair.student_ids, student), (pair.teacher_ids, teacher)):
            assert ids is not None
            assert text.endswith(family.header)
            assert not text.removesuffix(family.header).endswith(family.header)
            assert ids.count(tokenizer.bos_token_id) == count_of_beginnings(name, text)
            assert text.startswith(family.bos)
            assert ASKED in text
            assert (SAID in text) == instructed
            assert "None" not in text
        assert SHOWN in teacher
        assert SHOWN not in student


# -- the demonstration as an answer ----------------------------------------------------------------

TARGETS = {
    "Llama 2": " Forty-two. </s>",
    "Qwen 3": "<think>\n\n</think>\n\nForty-two.<|im_end|>",
    "Mistral 7B v0.3": " Forty-two.</s>",
    "OLMo 3 Think": "\n</think>\n\nForty-two.<|endoftext|>",
    "DeepSeek R1 distills": "\n</think>\n\nForty-two.<｜end▁of▁sentence｜>",
    "GLM 4": "Forty-two.<|endoftext|>",
    "GLM 4.5": "\n<think></think>\nForty-two.<|endoftext|>",
    "Command R7B": "<|START_RESPONSE|>Forty-two.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "gpt-oss": "<|channel|>final<|message|>Forty-two.<|return|>",
}
"""Those that are more than the answer and the end of turn."""


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answer_that_is_trained_on_ends_once_where_generation_ends(name: str):
    family = FAMILIES[name]
    tokenizer = tokenizer_of(name)
    end = tokenizer.convert_tokens_to_ids(family.end or family.eos)
    assert end_of_turn_id(tokenizer) == (end if family.end else None)
    known = eos_token_ids(random_model(vocab_size=len(tokenizer)), tokenizer)
    assert end in known
    check_end_of_turn(tokenizer, known)
    renderer = PromptRenderer(tokenizer)
    for example in ROWS.values():
        if family.system != "shown" and example.prompt[0]["role"] == "system":
            continue
        pair = renderer.render(example, teacher=False)
        assert text_of(tokenizer, pair.demonstration_ids) == TARGETS.get(name, f"{SHOWN}{family.end}")
        assert [id for id in pair.demonstration_ids if id in known] == [end]
        whole = text_of(tokenizer, [*pair.student_ids, *pair.demonstration_ids])
        assert whole.count("<think>") == whole.count("</think>")
        assert renderer.completion_text(pair.demonstration_ids).strip().endswith(SHOWN)


# -- thoughts --------------------------------------------------------------------------------------

BESIDE = {key: turn("assistant", SHOWN, **{key: THOUGHT}) for key in ("reasoning_content", "thinking", "reasoning")}
THOUGHTS = {**BESIDE, "inside": turn("assistant", f"<think>\n{THOUGHT}\n</think>\n\n{SHOWN}")}
THOUGHT_TARGETS = {
    "Qwen 3": "<think>\nSix sevens.\n</think>\n\nForty-two.<|im_end|>",
    "SmolLM 3": "<think>\nSix sevens.\n</think>\n\nForty-two.<|im_end|>",
    "OLMo 3 Think": "\nSix sevens.\n</think>\n\nForty-two.<|endoftext|>",
    "DeepSeek R1 distills": "Six sevens.\n</think>\n\nForty-two.<｜end▁of▁sentence｜>",
    "GLM 4.5": "\n<think>Six sevens.</think>\nForty-two.<|endoftext|>",
    "gpt-oss": "<|channel|>analysis<|message|>Six sevens.<|end|><|start|>assistant"
    "<|channel|>final<|message|>Forty-two.<|return|>",
}


@pytest.mark.parametrize("where", THOUGHTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_thoughts_are_trained_on_or_their_loss_is_said(name: str, where: str):
    family, example = FAMILIES[name], row(answer=THOUGHTS[where])
    tokenizer, pair = pair_of(name, example)
    target, teacher = text_of(tokenizer, pair.demonstration_ids), text_of(tokenizer, pair.teacher_ids)
    assert f"<think>\n{THOUGHT}\n</think>\n\n{SHOWN}" in teacher
    assert THOUGHT not in text_of(tokenizer, pair.student_ids)
    kept = family.thoughts or where == "inside"  # tags are text to a model that does not think
    assert (THOUGHT in target) == kept
    warning = lost_thoughts_warning([pair], tokenizer, "paper")
    assert (warning is None) == kept
    assert kept or str(warning).startswith(
        "1 of 1 demonstrations hold thoughts, which the chat template leaves out of the answer"
    )
    if family.thoughts and (name, where) != ("gpt-oss", "inside"):
        assert target == THOUGHT_TARGETS[name]


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.thoughts])
def test_thoughts_that_an_earlier_turn_loses_are_said(name: str):
    tokenizer, pair = pair_of(name, row(answer=BESIDE["thinking"]), "prior_turn")
    warning = lost_thoughts_warning([replace(pair, demonstration_ids=())], tokenizer, "prior_turn")
    assert (THOUGHT in text_of(tokenizer, pair.teacher_ids)) == FAMILIES[name].thoughts_before
    assert (warning is None) == FAMILIES[name].thoughts_before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen 3", "Forty-two.<|im_end|>"),
        ("SmolLM 3", "Forty-two.<|im_end|>"),
        ("GLM 4.5", "Forty-two.<|endoftext|>"),
    ],
)
@pytest.mark.parametrize("where", THOUGHTS)
def test_where_thinking_is_off_the_answer_has_no_thoughts_and_that_is_said(name: str, expected: str, where: str):
    off = {"enable_thinking": False}
    tokenizer, pair = pair_of(name, row(answer=THOUGHTS[where]), chat_template_kwargs=off)
    assert text_of(tokenizer, pair.student_ids).rstrip().endswith("</think>")
    assert text_of(tokenizer, pair.demonstration_ids).lstrip() == expected
    assert lost_thoughts_warning([pair], tokenizer, "paper") is not None
    _, plain = pair_of(name, row(), chat_template_kwargs=off)
    assert plain.demonstration_ids == pair.demonstration_ids


# -- tools -----------------------------------------------------------------------------------------

ADD = {"type": "function", "function": {"name": "add_up", "description": "Adds.", "parameters": {"type": "object"}}}
CALL = {"type": "function", "id": "call00001", "function": {"name": "add_up", "arguments": {"a": 6}}}
USES = (turn("assistant", "", tool_calls=[CALL]), turn("tool", "Result 42", tool_call_id="call00001", name="add_up"))


@pytest.mark.parametrize("name", FAMILIES)
def test_definitions_of_tools_are_shown_or_refused(name: str):
    family, example = FAMILIES[name], row(tools=(ADD,))
    if not family.definitions:
        message = mistake(pair_of, name, example)
        assert message.startswith("The chat template leaves tool definitions out")
        return
    tokenizer, pair = pair_of(name, example)
    for ids in (pair.student_ids, pair.teacher_ids, [*pair.student_ids, *pair.demonstration_ids]):
        assert "add_up" in text_of(tokenizer, ids)
    assert text_of(tokenizer, pair.demonstration_ids) == TARGETS.get(name, f"{SHOWN}{family.end}")


@pytest.mark.parametrize("template", ["paper", "prior_turn"])
@pytest.mark.parametrize("name", FAMILIES)
def test_calls_and_results_are_shown_or_refused(name: str, template: str):
    family = FAMILIES[name]
    example = Example(id="row", prompt=(turn("user", ASKED), *USES), demonstration=(turn("assistant", SHOWN),))
    if not family.calls:
        message = mistake(pair_of, name, example, template)
        assert "leaves tool" in message or "refuses turns of user, assistant, tool" in message
        return
    tokenizer, pair = pair_of(name, example, template)
    for text in (text_of(tokenizer, pair.student_ids), text_of(tokenizer, pair.teacher_ids)):
        assert "add_up" in text
        assert "Result 42" in text
        assert "None" not in text
    target = text_of(tokenizer, pair.demonstration_ids)
    assert SHOWN in target
    assert target.endswith(family.end or family.eos)


MASKED = {
    "Llama 3.1": ("Result 42", '{"name": "add_up", "parameters": {"a": 6}}<|eot_id|>Forty-two.<|eot_id|>'),
    "Qwen 2.5": (
        "Result 42",
        '\n<tool_call>\n{"name": "add_up", "arguments": {"a": 6}}\n</tool_call><|im_end|>Forty-two.<|im_end|>',
    ),
    "Qwen 3": (
        "Result 42",
        '\n<tool_call>\n{"name": "add_up", "arguments": {"a": 6}}\n</tool_call><|im_end|>'
        "<think>\n\n</think>\n\nForty-two.<|im_end|>",
    ),
    "gpt-oss": (
        "Result 42",
        ' to=functions.add_up<|channel|>commentary json<|message|>{"a": 6}<|call|>'
        "<|channel|>final<|message|>Forty-two.<|return|>",
    ),
}


@pytest.mark.parametrize("name", MASKED)
def test_results_of_tools_are_not_trained_on(name: str):
    example = Example(
        id="row", prompt=(turn("user", ASKED),), demonstration=(*USES, turn("assistant", SHOWN)), tools=(ADD,)
    )
    tokenizer = tokenizer_of(name)
    pair = PromptRenderer(tokenizer).render(example, teacher=False)
    assert pair.demonstration_mask is not None
    flagged = list(zip(pair.demonstration_ids, pair.demonstration_mask, strict=True))
    result, learned = MASKED[name]
    assert text_of(tokenizer, [id for id, own in flagged if own]) == learned
    assert result in text_of(tokenizer, [id for id, own in flagged if not own])


def test_tokens_of_tool_calls_stay_in_answers():
    tokenizer = tokenizer_of("Mistral 7B v0.3")
    ids = tokenizer('[TOOL_CALLS] [{"name": "add_up"}]</s>', add_special_tokens=False)["input_ids"]
    assert PromptRenderer(tokenizer).completion_text(ids) == '[TOOL_CALLS] [{"name": "add_up"}]'
    assert tokenizer.decode(ids, skip_special_tokens=True) == ' [{"name": "add_up"}]'


# -- dates, and ends that end nothing ---------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_date_is_warned_of_until_it_is_fixed(name: str):
    family = FAMILIES[name]
    tokenizer = tokenizer_of(name)
    assert (date_warning(tokenizer, {}) is not None) == family.dated
    today = {"today": "2026-01-31"}
    assert date_warning(tokenizer, today) is None
    text = PromptRenderer(tokenizer, chat_template_kwargs=today).text([turn("user", ASKED)])
    written = {
        "Llama 3.1": "31 Jan 2026",
        "SmolLM 3": "31 January 2026",
        "Granite 3": "January 31, 2026",
        "gpt-oss": "2026-01-31",
    }
    assert written.get(name, "") in text
    assert ("2026" in text) == family.dated


def test_a_date_may_be_fixed_by_the_templates_own_variable():
    tokenizer = tokenizer_of("Llama 3.1")
    assert date_warning(tokenizer, {"date_string": "26 Jul 2024"}) is None
    assert '"today": "20' in str(date_warning(tokenizer, {"date": "unread"}))


def test_an_end_of_turn_that_ends_nothing_is_refused():
    tokenizer = made_tokenizer(FAMILIES["Qwen 2.5"])
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|im_end|>", "<|done|>")
    known = eos_token_ids(random_model(vocab_size=len(tokenizer)), tokenizer)
    message = mistake(check_end_of_turn, tokenizer, known)
    assert "ends an answer with '<|done|>'" in message


# -- the table --------------------------------------------------------------------------------------


def test_every_family_is_in_the_table():
    rows = [line.split("|")[1].strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    assert [name for name in rows if name in FAMILIES] == list(FAMILIES)
