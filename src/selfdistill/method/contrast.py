"""The prompts that the target ``contrast`` reads: a row's own question with another row's demonstration."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfdistill.data.kept import keep
from selfdistill.errors import UserError
from selfdistill.method.lengths import NO_LIMIT, length_limits
from selfdistill.method.prompts import make_renderer
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair


class OtherDemonstrations:
    """Renders teacher's prompts with another row's demonstration, in the settings' template.

    Args:
        rows: all training rows, in the data's order.
        config: the settings.
        tokenizer: the model's tokenizer.
        model_config: the model's transformers config, for the length limit.

    Raises:
        UserError: fewer than two rows have a demonstration.
    """

    def __init__(
        self,
        rows: Sequence[PromptPair],
        config: MethodConfig,
        tokenizer: PreTrainedTokenizerBase,
        model_config: Any,
    ) -> None:
        self._rows = keep(pair for pair in rows if pair.example.demonstration)
        self._place = {pair.example.id: index for index, pair in enumerate(self._rows)}
        if len(self._place) < 2:
            raise UserError(
                f"target=contrast needs two rows with a demonstration, the data has {len(self._place)}. Add rows, or "
                "take another target."
            )
        self._order = list(self._place)
        self._seed = config.seed
        self._renderer = make_renderer((pair.example for pair in rows), config, tokenizer)
        limit = length_limits(config, model_config).teacher_prompt
        self._limit = NO_LIMIT if limit is None else limit.tokens

    def prompts(
        self, pairs: Sequence[PromptPair], number: int, of_step: Sequence[PromptPair] | None = None
    ) -> list[tuple[int, ...]]:
        """Token ids of the teacher's prompt of every row of step ``number`` (from 0), with another row's demonstration.
        ``of_step`` are the step's rows, if ``pairs`` are only some of them.

        The other row is one of the step, by a random number that depends only on seed, step and row. If the step has no
        other row, or none whose demonstration fits the limit on the teacher's prompt, it is the next row of the data
        that fits.

        Raises:
            UserError: no other row's demonstration fits.
        """
        return [self._prompt(pair, pairs if of_step is None else of_step, number) for pair in pairs]

    def _prompt(self, pair: PromptPair, pairs: Sequence[PromptPair], number: int) -> tuple[int, ...]:
        for other in self._others(pair.example.id, pairs, number):
            shown = replace(pair.example, demonstration=self._rows[self._place[other]].example.demonstration)
            (taught,) = self._renderer.with_teacher([replace(pair, example=shown)])
            if taught.teacher_ids is not None and len(taught.teacher_ids) <= self._limit:
                return taught.teacher_ids
        raise UserError(
            f"{pair.example.id}: with any other row's demonstration the teacher's prompt is over the limit of "
            f"{self._limit} tokens. Raise --max_teacher_prompt_length, or leave target=contrast."
        )

    def _others(self, own: str, pairs: Sequence[PromptPair], number: int) -> Iterator[str]:
        """Ids of the step's other rows, in random order, then of all other rows, from the next one of the data on."""
        here = [id for id in dict.fromkeys(pair.example.id for pair in pairs) if id != own and id in self._place]
        yield from random.Random(f"{self._seed}/{number}/{own}").sample(here, len(here))
        start = self._place.get(own, -1)
        yield from (id for id in (*self._order[start + 1 :], *self._order[: start + 1]) if id != own)
