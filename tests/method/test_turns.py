"""Chat turns as text: nothing that is said may be left out, and thoughts and calls come in the template's form."""

from typing import Any

import pytest

from selfdistill.method.turns import ChatTurns
from selfdistill.types import Message
from tests.support.examples import CALL, turn
from tests.support.mistakes import mistake

NAMES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ASKED = turn("user", "1+1?")
ADD = {"type": "function", "function": {"name": "add"}}
WITHOUT = "{% for m in messages if m.role != 'ROLE' %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def shown(tokenizer: Any, template: str, *turns: Message, opened: bool = True, **options: Any) -> str:
    tokenizer.chat_template = template
    return ChatTurns(tokenizer).text(turns, {}, opened=opened, **options)


@pytest.mark.parametrize(
    ("role", "turns"),
    [
        ("system", (turn("system", "Be short."), ASKED)),
        ("developer", (turn("developer", "Be short."), ASKED)),
        ("assistant", (ASKED, turn("assistant", "2"), ASKED)),
        ("tool", (ASKED, turn("assistant", "ask"), turn("tool", "2"))),
    ],
)
def test_turns_that_are_left_out_are_refused(tokenizer: Any, role: str, turns: tuple[Message, ...]) -> None:
    message = mistake(shown, tokenizer, WITHOUT.replace("ROLE", role), *turns)
    assert message.startswith(f"The chat template leaves {role} turns out: the model would not see them.")
    assert turns[0]["content"] in shown(tokenizer, NAMES, *turns)


def test_a_later_system_turn_is_looked_at_by_itself(tokenizer: Any) -> None:
    first = "{{ messages[0].content }}{% for m in messages[1:] if m.role == 'user' %}{{ m.content }}{% endfor %}"
    turns = (turn("system", "A"), ASKED, turn("system", "B"))
    assert "leaves system turns after the first out" in mistake(shown, tokenizer, first, *turns)
    assert shown(tokenizer, first, *turns[:2]) == "A1+1?"


def test_each_kind_is_looked_at_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.chat_template = NAMES
    turns, looked = ChatTurns(tokenizer), []
    real = turns._check
    monkeypatch.setattr(turns, "_check", lambda kind, *rest, **named: (looked.append(kind), real(kind, *rest, **named)))
    for _ in range(3):
        turns.text([turn("system", "A"), ASKED, turn("assistant", "2"), ASKED], {}, opened=True)
    assert looked == ["system turns", "assistant turns"]


def test_calls_that_are_left_out_are_refused(tokenizer: Any) -> None:
    turns = (ASKED, turn("assistant", "", tool_calls=[CALL]), turn("tool", "2"))
    assert mistake(shown, tokenizer, NAMES, *turns).startswith("The chat template leaves tool calls out")
    calls = NAMES.replace("{% endfor %}", "{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}")
    assert '"name": "add"' in shown(tokenizer, calls, *turns)
    beside = (ASKED, turn("assistant", "Let me add.", tool_calls=[CALL]), turn("tool", "2"))
    only = "{% for m in messages %}{{ m.tool_calls | tojson if m.tool_calls else m.content }}{% endfor %}"
    assert "Let me add." not in shown(tokenizer, only, *beside)  # the way of some families


def test_definitions_of_tools_that_are_left_out_are_refused(tokenizer: Any) -> None:
    message = mistake(shown, tokenizer, NAMES, ASKED, tools=[ADD])
    assert message.startswith("The chat template leaves tool definitions out: the model would not see them. Drop the")
    assert '"name": "add"' in shown(tokenizer, "{{ tools | tojson }}" + NAMES, ASKED, tools=[ADD])
    assert shown(tokenizer, "{{ tools is none }}", ASKED) == "True"  # as for rows without


def test_arguments_are_text_where_the_template_takes_text(tokenizer: Any) -> None:
    turns = (ASKED, turn("assistant", "", tool_calls=[CALL]))
    body = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name + ARGUMENTS }}{% endfor %}"
    body += "{% endfor %}"
    as_text = body.replace("ARGUMENTS", "c.function.arguments")
    assert shown(tokenizer, as_text, *turns) == 'add{"a": 1, "b": 1}'
    assert shown(tokenizer, body.replace("ARGUMENTS", "c.function.arguments | tojson"), *turns) == 'add{"a": 1, "b": 1}'
    assert CALL["function"]["arguments"] == {"a": 1, "b": 1}
    broken = mistake(shown, tokenizer, body.replace("ARGUMENTS", "1"), *turns)
    assert broken.startswith("The chat template refuses turns of user, assistant: ")


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_come_in_the_form_that_the_template_reads(tokenizer: Any, key: str) -> None:
    turns = (ASKED, turn("assistant", "2", **{key: "So."}))
    beside = "{% for m in messages %}{% if m.KEY %}({{ m.KEY }}){% endif %}{{ m.content }}{% endfor %}"
    for read in ("reasoning_content", "thinking"):
        assert shown(tokenizer, beside.replace("KEY", read), *turns, opened=False) == "1+1?(So.)2"
    inside = "{% for m in messages %}{{ m.content }}{% endfor %}{# </think> #}"
    assert shown(tokenizer, inside, *turns, opened=False) == "1+1?<think>\nSo.\n</think>\n\n2"
    assert shown(tokenizer, inside.partition("{#")[0], *turns, opened=False) == "1+1?2"


def test_without_a_chat_template_it_is_said(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    said = mistake(ChatTurns(tokenizer).text, [ASKED], {}, opened=True)
    assert said.startswith("The tokenizer has no chat template.")
