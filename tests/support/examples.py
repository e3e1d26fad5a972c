"""Rows of a chat, as prompts, templates and length limits are tested with."""

from typing import Any

from selfdistill.types import Example, Message


def turn(role: str, content: str | None, **more: Any) -> Message:
    """One chat turn."""
    return {"role": role, "content": content, **more}


def example(question: str = "1+1?", answer: str = "2", *, system: str | None = None, id: str = "train/0") -> Example:
    """A question with a demonstration of one turn."""
    first = (turn("system", system),) if system else ()
    return Example(id=id, prompt=(*first, turn("user", question)), demonstration=(turn("assistant", answer),))


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}
TOOLS = Example(
    id="train/tools",
    prompt=(
        turn("system", "Use tools."),
        turn("user", "Hi"),
        turn("assistant", "Hello!"),
        turn("user", "1+1?"),
    ),
    demonstration=(turn("assistant", None, tool_calls=[CALL]), turn("tool", "2"), turn("assistant", "It is 2.")),
)
"""A demonstration that calls a tool and reads its result."""
CALLED = Example(
    id="train/called",
    prompt=(turn("user", "1+1?"), turn("assistant", "", tool_calls=[CALL]), turn("tool", "2")),
    demonstration=(turn("assistant", "Two."),),
)
"""A prompt that ends with a tool's result."""
