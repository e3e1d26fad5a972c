"""Chat turns as text by a model's chat template, which may not leave out what they say."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from selfdistill.errors import UserError, brief
from selfdistill.models.bounded import BoundedError
from selfdistill.models.tokens import MARK, chat_text
from selfdistill.types import THINK, THINK_END, THOUGHTS, Message, is_blank, thoughts_beside, with_thoughts_inside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = Sequence[Mapping[str, Any]]
CALLS, TOOLS = "tool calls", "tool definitions"
SIGN = "zq7sign"
"""Text that no chat template and no conversation contains."""


class ChatTurns:
    """Renders chat turns with the chat template of one tokenizer.

    Thoughts that stand beside an answer are given as the template reads them: under the keys ``reasoning_content`` and
    ``thinking``, or, where it shows neither but knows think tags, in the content. A tool call's arguments are given as
    text where the template fails on an object.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._shown: set[str] = set()  # the kinds of turns that the template is known to show
        self.thinks = knows_tags(tokenizer)

    def text(
        self, messages: Sequence[Message], variables: Mapping[str, Any], *, opened: bool, tools: Tools = ()
    ) -> str:
        """The conversation as text.

        Args:
            messages: the turns.
            variables: passed to the chat template.
            opened: whether the header of an assistant's turn follows.
            tools: definitions of tools.

        Raises:
            UserError: there is no template; it refuses the turns, or leaves out a role, tool calls or the tools.
        """
        if not self._tokenizer.chat_template:
            raise UserError(
                "The tokenizer has no chat template. Take an instruct model, or give the tokenizer one "
                "(tokenizer.chat_template)."
            )
        turns = [self._with_thoughts(message) for message in messages]
        try:
            text = self._rendered(turns, tools, variables, opened=opened)
        except BoundedError as error:  # for example Gemma 2's, which takes no system turn
            roles = ", ".join(dict.fromkeys(message["role"] for message in turns))
            raise UserError(
                f"The chat template refuses turns of {roles}: {brief(error)}. Change the prompt or choose another "
                "--template."
            ) from error
        for kind in _kinds(turns, tools):
            if kind not in self._shown:
                self._check(kind, turns, tools, variables, opened=opened)
                self._shown.add(kind)
        return text

    @cached_property
    def _reads_thoughts(self) -> bool:
        """Whether the template shows thoughts beside the content of the last turn."""
        said = {"role": "assistant", "content": "Hi", **dict.fromkeys(THOUGHTS, MARK)}
        try:
            return MARK in chat_text(self._tokenizer, [{"role": "user", "content": "Hi"}, said])
        except BoundedError:
            return False

    def _with_thoughts(self, message: Message) -> Message:
        thoughts = thoughts_beside(message)
        if not thoughts:
            return message
        if self._reads_thoughts or not self.thinks:
            return {**message, **dict.fromkeys(THOUGHTS, thoughts)}
        return with_thoughts_inside(message)

    def _rendered(self, messages: list[Message], tools: Tools, variables: Mapping[str, Any], *, opened: bool) -> str:
        options = {**variables, "add_generation_prompt": opened} | ({"tools": list(tools)} if tools else {})
        try:
            return chat_text(self._tokenizer, messages, **options)
        except BoundedError:
            as_text = [_with_text_arguments(message) for message in messages]
            if as_text == messages:
                raise
            try:
                return chat_text(self._tokenizer, as_text, **options)
            except BoundedError:
                pass
            raise

    def _check(
        self, kind: str, turns: list[Message], tools: Tools, variables: Mapping[str, Any], *, opened: bool
    ) -> None:
        """Raises UserError if the template leaves out what is said of that kind: SIGN is put in its place."""
        signed = [_signed(kind, turn, index) for index, turn in enumerate(turns)]
        definitions = [_named(tool) if kind == TOOLS else tool for tool in tools]
        try:
            shown = SIGN in self._rendered(signed, definitions, variables, opened=opened)
        except BoundedError:  # about a text of ours it may be stricter
            return
        if not shown:
            remedy = "Drop the column tools" if kind == TOOLS else "Put what they say into a user turn"
            raise UserError(
                f"The chat template leaves {kind} out: the model would not see them. {remedy}, choose another "
                "--template, or give a --chat_template that shows them."
            )


def knows_tags(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template is of a model whose thoughts stand between think tags."""
    template = str(tokenizer.chat_template or "")
    return THINK in template or THINK_END in template


def _kinds(turns: list[Message], tools: Tools) -> list[str]:
    """What the conversation says, by kind. Users' turns are no kind: a template without them would be none."""
    kinds = [_kind(turn["role"], index) for index, turn in enumerate(turns) if turn["role"] != "user" and _says(turn)]
    calls = [CALLS] if any(turn.get("tool_calls") for turn in turns) else []
    return [*dict.fromkeys(kinds), *calls, *([TOOLS] if tools else [])]


def _kind(role: str, index: int) -> str:
    """Templates treat a system turn at the beginning in a way of its own."""
    return f"{role} turns" + (" after the first" if role in ("system", "developer") and index else "")


def _says(turn: Message) -> bool:
    """Whether the turn has text that must be shown. Some templates drop the text beside a tool call, and mean to."""
    content = turn.get("content")
    return isinstance(content, str) and not is_blank(content) and not turn.get("tool_calls")


def _signed(kind: str, turn: Message, index: int) -> Message:
    if kind == CALLS and turn.get("tool_calls"):
        return {**turn, "tool_calls": [_named(call) for call in turn["tool_calls"]]}
    return {**turn, "content": SIGN} if kind == _kind(turn["role"], index) and _says(turn) else turn


def _named(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A call or a definition of a tool whose name is SIGN."""
    function = tool.get("function")
    return {**tool, "function": {**function, "name": SIGN}} if isinstance(function, dict) else {**tool, "name": SIGN}


def _with_text_arguments(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    as_text: list[Any] = []
    for call in calls:
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            call = {**call, "function": {**function, "arguments": arguments}}
        as_text.append(call)
    return {**message, "tool_calls": as_text}
