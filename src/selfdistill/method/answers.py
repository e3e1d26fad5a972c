"""The demonstration as an answer to the student's prompt: what a method that trains on demonstrations trains on."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from selfdistill.errors import UserError
from selfdistill.method.turns import ChatTurns
from selfdistill.models.tokens import MARK, end_of_turn
from selfdistill.types import THINK, THINK_END, Example, Message, message_text, thoughts_of, without_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]
_TAGS = re.compile(rf"(?:{THINK}\s*)?(?:{THINK_END}\s*)?\Z")
"""Think tags at the end of a prompt."""


class Answers:
    """Renders demonstrations as answers.

    Args:
        tokenizer: has the chat template.
        turns: renders with that tokenizer.
        variables: passed to the chat template.
        encode: from texts to ids, without special tokens that the texts do not hold.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        turns: ChatTurns,
        variables: Mapping[str, Any],
        encode: Callable[[Sequence[str]], list[Ids]],
    ) -> None:
        self._turns, self._variables, self._encode_all = turns, variables, encode
        self._special_ids = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._end, self._eos = end_of_turn(tokenizer), tokenizer.eos_token_id

    def of(
        self, examples: Sequence[Example], texts: Sequence[str], prompts: Sequence[Ids]
    ) -> list[tuple[Ids, tuple[bool, ...] | None]]:
        """Each demonstration's ids as the continuation of the student's prompt, and its mask (see ``_mask``); without a
        demonstration no ids.

        Prompt and answer are tokenised together, because some tokenizers put a blank before any text they are given.
        White space after the end-of-turn token, and whatever else a template writes there, is dropped: a model stops at
        that token. Where the conversation does not begin as the prompt does (thinking models: see ``_written``), or
        lacks the demonstration's thoughts, the answer is put together from its parts.

        Args:
            examples: the rows.
            texts: the student's prompts as text.
            prompts: the same as ids.

        Raises:
            UserError: a demonstration of several turns is rendered so that the assistant's tokens can't be told.
        """
        shown = [example for example in examples if example.demonstration]
        given = [text for example, text in zip(examples, texts, strict=True) if example.demonstration]
        wholes = [self._whole(example, text) for example, text in zip(shown, given, strict=True)]
        encoded = iter(zip(wholes, self._encode_all(wholes), strict=True))
        answers: list[tuple[Ids, tuple[bool, ...] | None]] = []
        for example, text, prompt in zip(examples, texts, prompts, strict=True):
            if not example.demonstration:
                answers.append(((), None))
                continue
            whole, ids = next(encoded)
            if ids[: len(prompt)] == prompt:
                answer = self._ended(ids[len(prompt) :])
                answers.append((answer, self._mask(example, prompt, answer)))
            elif len(example.demonstration) > 1:
                raise _unclear(example)
            else:  # a token spans the border
                answers.append((self._ended(self._encode(whole[len(text) :])), None))
        return answers

    def _whole(self, example: Example, text: str) -> str:
        """The prompt's text and the answer. A prompt that ends in a closed thought is answered without thoughts."""
        if text.rstrip().endswith(THINK_END):
            turns = (without_thoughts(turn) if turn["role"] == "assistant" else turn for turn in example.demonstration)
            example = replace(example, demonstration=tuple(turns))
        closed = self._closed(example, [*example.prompt, *example.demonstration])
        if closed.startswith(text):
            thoughts = thoughts_of(example.demonstration[0]) if self._turns.thinks else ""
            if len(example.demonstration) > 1 or _letters(thoughts) in _letters(closed[len(text) :]):
                return closed
        return text + self._written(example, text, closed)

    def _closed(self, example: Example, messages: Sequence[Message]) -> str:
        """The conversation up to the token that ends its last turn."""
        text = self._turns.text(messages, self._variables, opened=False, tools=example.tools).rstrip()
        return text.removesuffix(self._end.trailing.rstrip()) if self._end else text

    def _written(self, example: Example, text: str, closed: str) -> str:
        """The answer where the rendered conversation does not continue the prompt, or lacks the thoughts.

        A prompt may end in think tags that the template does not write before a given answer. If it ends in an opened
        thought, the demonstration's thoughts follow, or none, and their end. Where the template differs in something
        else the answer is the turn's plain text.
        """
        turn, *others = example.demonstration
        if others:
            raise _unclear(example)
        content, header = message_text(turn), _TAGS.sub("", text)
        if closed.startswith(header):
            answer = closed[len(header) :]
        elif turn.get("tool_calls"):
            raise _unclear(example)
        else:
            answer = self._lead + content
        opened, thoughts = text.rstrip().endswith(THINK), thoughts_of(turn)
        if not self._turns.thinks or not (opened or thoughts):
            return answer
        opening = "" if opened else f"{THINK}\n"
        if thoughts and THINK_END in content:  # as they were given
            return opening + content.lstrip().removeprefix(THINK).lstrip()
        answer = answer.rpartition(THINK_END)[2].lstrip("\n")
        return f"{opening}{thoughts}\n{THINK_END}\n\n{answer}"

    @cached_property
    def _lead(self) -> str:
        """What the template writes between the header of an assistant's turn and its content."""
        asked = [{"role": "user", "content": "Hi"}]
        opened = self._turns.text(asked, self._variables, opened=True)
        answered = self._turns.text([*asked, {"role": "assistant", "content": MARK}], self._variables, opened=False)
        return answered.removeprefix(opened).partition(MARK)[0] if answered.startswith(opened) else ""

    def _ended(self, ids: Ids) -> Ids:
        """Adds the token that ends the turn, or else the EOS token, unless the answer ends with a special token."""
        end = self._end.id if self._end else self._eos
        return ids if (ids and ids[-1] in self._special_ids) or not isinstance(end, int) else (*ids, end)

    def _mask(self, example: Example, prompt: Ids, answer: Ids) -> tuple[bool, ...] | None:
        """One flag per id of ``answer``: True for the assistant's tokens; None for a demonstration of one turn.

        A turn ends where the conversation up to it does, or, where that is rendered in another way than within the
        whole one, with its first end-of-turn token.

        Raises:
            UserError: rendering parts of the conversation does not show where the assistant's turns begin and end.
        """
        turns = example.demonstration
        if len(turns) == 1:
            return None
        whole, mask = (*prompt, *answer), [False] * len(answer)
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            before = [*example.prompt, *turns[:index]]
            opened = self._encode(self._turns.text(before, self._variables, opened=True, tools=example.tools))
            start, end = len(opened), len(whole)
            if whole[:start] != opened:
                raise _unclear(example)
            if index + 1 < len(turns):
                closed = self._encode(self._closed(example, [*before, turn]))
                end = len(closed) if whole[: len(closed)] == closed else self._first_end(example, whole, start)
            mask[start - len(prompt) : end - len(prompt)] = [True] * (end - start)
        return tuple(mask)

    def _first_end(self, example: Example, whole: Ids, start: int) -> int:
        if self._end is None or self._end.id not in whole[start:]:
            raise _unclear(example)
        return whole.index(self._end.id, start) + 1

    def _encode(self, text: str) -> Ids:
        (ids,) = self._encode_all([text])
        return ids


def _letters(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def _unclear(example: Example) -> UserError:
    return UserError(
        f"{example.id}: the chat template does not show which tokens of the demonstration's turns are the "
        "assistant's. Give demonstrations of one turn, or a method with a teacher."
    )
