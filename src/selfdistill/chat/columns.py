"""Models that answer the same question side by side.

They take turns, one token each, so that every column streams from the start. Two forward passes at once would only
slow each other down on a CPU.
"""

import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.method.lengths import context_length
from selfdistill.method.prompts import PromptRenderer
from selfdistill.method.rollout.engine import Sampling
from selfdistill.method.rollout.stream import stream
from selfdistill.models.tokens import eos_token_ids
from selfdistill.types import Example, Message

UNDECODED = "\ufffd"
"""Decoded text of bytes that form no whole character, at least not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer as far as it has been written."""

    text: str = ""
    """Without special tokens, and without a last character whose bytes are not all there yet."""
    num_tokens: int = 0
    finish_reason: str = ""
    """``stop`` or ``length`` as in Rollout; empty while the answer is being written, or if the reader stopped it."""


Updates = Generator[tuple[int, Answer], None, None]
"""For each new token: the index of its column, and that column's answer so far."""


class Column:
    """A model of the chat.

    Args:
        name: shown to the user.
        model: in eval mode.
        tokenizer: has a chat template.
        chat_template_kwargs: passed to the chat template.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._model = model
        self._renderer = PromptRenderer(tokenizer, chat_template_kwargs=chat_template_kwargs)
        self._eos_token_ids = eos_token_ids(model, tokenizer)
        self._context = context_length(model.config)

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[Answer]:
        """Yields the growing answer to chat turns, once for each token, at most up to the model's context length.

        Raises:
            UserError: the turns fill the context, or the chat template refuses them; raised at the call.
        """
        example = Example(id="chat", prompt=tuple(messages))
        prompt_ids = self._renderer.render(example, teacher=False, answer=False).student_ids
        limit = replace(sampling, context=self._context).limit(len(prompt_ids))
        if limit < 1:
            raise UserError(
                f"The conversation has {len(prompt_ids)} tokens, the context of {self.name} is {self._context}. Start "
                "a new conversation."
            )
        return self._written(prompt_ids, replace(sampling, max_new_tokens=limit))

    def _written(self, prompt_ids: Sequence[int], sampling: Sampling) -> Iterator[Answer]:
        ids: list[int] = []
        for token in stream(self._model, prompt_ids, self._eos_token_ids, sampling):
            ids.append(token)
            full = "length" if len(ids) == sampling.max_new_tokens else ""
            finish_reason = "stop" if token in self._eos_token_ids else full
            text = self._renderer.completion_text(ids)
            yield Answer(
                text=text if finish_reason else text.rstrip(UNDECODED),
                num_tokens=len(ids),
                finish_reason=finish_reason,
            )


class Chat:
    """Several models that answer the same questions.

    Args:
        columns: one or more models.
        sampling: how tokens are drawn.
        seed: the same seed and the same questions give the same answers; each question has random numbers of its own.
    """

    def __init__(self, columns: Sequence[Column], sampling: Sampling, seed: int = 42) -> None:
        self._columns = columns
        self._sampling = sampling
        self._draws = random.Random(seed)
        self.names = [column.name for column in columns]

    def answer(self, conversations: Sequence[Sequence[Message]]) -> Updates:
        """The answers to chat turns, one conversation for each column. Raises UserError as ``Column.answer`` does."""
        sampling = replace(self._sampling, seeds=(self._draws.getrandbits(63),))
        pairs = zip(self._columns, conversations, strict=True)
        return _in_turn([column.answer(messages, sampling) for column, messages in pairs])


class Conversation:
    """A conversation with all models of a chat. Each model sees its own earlier answers, never another's."""

    def __init__(self, chat: Chat, system: str | None = None) -> None:
        self._chat = chat
        self.reset(system)

    def reset(self, system: str | None) -> None:
        """Forgets all turns; ``system`` is the system prompt from now on, None for none."""
        start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._said = [list(start) for _ in self._chat.names]

    def ask(self, turns: Sequence[Message]) -> Updates:
        """The answers to further turns. If the reader stops early, the text written by then is kept as the answer.

        Raises:
            UserError: as ``Column.answer`` does; the conversation is then unchanged.
        """
        return self._kept(turns, self._chat.answer([[*said, *turns] for said in self._said]))

    def _kept(self, turns: Sequence[Message], updates: Updates) -> Updates:
        texts = [""] * len(self._said)
        try:
            for column, answer in updates:
                texts[column] = answer.text
                yield column, answer
        finally:
            for said, text in zip(self._said, texts, strict=True):
                said += [*turns, {"role": "assistant", "content": text}]


def _in_turn(answers: Sequence[Iterator[Answer]]) -> Updates:
    unfinished = dict(enumerate(answers))
    while unfinished:
        for column, answer in list(unfinished.items()):
            update = next(answer, None)
            if update is None:
                del unfinished[column]
            else:
                yield column, update
