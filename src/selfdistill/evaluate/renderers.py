"""Renders the prompts of an evaluation, as chats or as plain text."""

from collections.abc import Sequence
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from selfdistill.method.prompts import PromptRenderer
from selfdistill.tasks.task import Task
from selfdistill.types import Example, PromptPair, message_text


class Renderer(Protocol):
    """What an evaluation needs of a renderer. PromptRenderer is one for chats, PlainText one for plain text."""

    chat_template_kwargs: dict[str, Any]

    def render(self, example: Example, *, teacher: bool = True, answer: bool = True) -> PromptPair:
        """The example's prompt as ids."""
        ...

    def completion_text(self, completion_ids: Sequence[int]) -> str:
        """A completion as text, special tokens left out."""
        ...


class PlainText:
    """Renders a prompt without a chat template, as lm-evaluation-harness does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.chat_template_kwargs: dict[str, Any] = {}

    def render(self, example: Example, *, teacher: bool = True, answer: bool = True) -> PromptPair:
        """The text of the last turn as ids, with the special tokens that the tokenizer adds by default."""
        ids = tuple(self.tokenizer(message_text(example.prompt[-1]))["input_ids"])
        return PromptPair(example=example, student_ids=ids)

    def completion_text(self, completion_ids: Sequence[int]) -> str:
        """A completion as text, special tokens left out."""
        text = self.tokenizer.decode(list(completion_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text


def renderer_for(
    task: Task, tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: dict[str, Any] | None
) -> Renderer:
    """The renderer of a task's prompts."""
    if task.prompt == "plain text":
        return PlainText(tokenizer)
    return PromptRenderer(tokenizer, chat_template_kwargs=chat_template_kwargs)
