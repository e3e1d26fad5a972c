"""A run's rows as token ids, each part of them made once, whichever settings ask for it.

The arms of a study share one of these: their students read the same prompts, and only where their teachers read
something else is anything rendered again.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfdistill.errors import UserError
from selfdistill.method.lengths import Limits, fit, length_limits
from selfdistill.method.methods import ANCHORS, METHODS, MethodSpec
from selfdistill.method.prompts import PromptRenderer, make_renderer, raw_texts, render_anchors
from selfdistill.method.templates import TEMPLATES
from selfdistill.settings.method import MethodConfig, with_template
from selfdistill.types import Example, PromptPair

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""From what is being done and how many rows there are to a context that counts the rows done."""


def no_progress(what: str, count: int) -> AbstractContextManager[Callable[[int], None]]:
    """Says nothing."""
    return nullcontext(lambda _: None)


class RenderedRows:
    """Training rows and what was made of them so far.

    Args:
        examples: the rows.
        tokenizer: with a chat template.
        progress: shows that many rows take a while.
    """

    def __init__(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, progress: Progress = no_progress
    ) -> None:
        self.examples = examples
        self.tokenizer = tokenizer
        self._progress = progress
        self._pairs: dict[str, list[PromptPair]] = {}  # students, by what their prompts depend on
        self._answers: dict[str, list[PromptPair]] = {}
        self._teachers: dict[str, list[tuple[int, ...] | None]] = {}
        self._anchors: dict[str, list[PromptPair]] = {}
        self._lengths: list[int] | None = None

    def demonstration_lengths(self, config: MethodConfig) -> list[int]:
        """Tokens of every demonstration: as an answer where it is the completion, else of its bare text."""
        if not METHODS[config.method].samples:
            return [len(pair.demonstration_ids) for pair in self._answered(config)]
        if self._lengths is None:
            texts = [example.demonstration_text for example in self.examples]
            with self._progress("measuring demonstrations", len(texts)) as done:
                encoded = self.tokenizer(texts)["input_ids"] if texts else []
                done(len(texts))
            self._lengths = [len(ids) for ids in encoded]  # type: ignore[arg-type]
        return self._lengths

    def pairs(self, config: MethodConfig, model_config: Any) -> list[PromptPair]:
        """The rows as the settings need them, within their length limits, no id outside the model's vocabulary.

        Raises:
            UserError: a row is over a limit and not to be dropped, or has a token that the model does not know.
        """
        spec = METHODS[config.method]
        pairs = self._answered(config) if not spec.samples else self._students(config)
        if spec.shows_demonstration:
            ids = self._teacher_ids(config)
            pairs = [replace(pair, teacher_ids=teacher) for pair, teacher in zip(pairs, ids, strict=True)]
        kept = fit(pairs, length_limits(config, model_config), overlong=config.overlong)
        check_ids(kept, model_config, self.tokenizer)
        return kept

    def untaught(self, config: MethodConfig, model_config: Any) -> list[PromptPair]:
        """The rows without the teacher's prompts, for what can be said before its template is chosen. Raises UserError
        as ``pairs``."""
        kept = fit(self._students(config), length_limits(config, model_config), overlong=config.overlong)
        check_ids(kept, model_config, self.tokenizer)
        return kept

    def anchors(self, examples: Sequence[Example], config: MethodConfig, model_config: Any) -> list[PromptPair]:
        """General prompts within the length limits; none where ``anchor_share`` is 0. Raises UserError as ``pairs``."""
        if config.anchor_share == 0:
            return []
        key = _key(config.chat_template_kwargs, config.anchor_data)
        if key not in self._anchors:
            self._anchors[key] = render_anchors(examples, config, self.tokenizer)
        return fit(self._anchors[key], length_limits(config, model_config, ANCHORS), overlong=config.overlong)

    def check_tried(self, config: MethodConfig, model_config: Any) -> None:
        """Whether every row fits with the longest of the templates that a preflight tries. Only rows that may be too
        long are rendered for it.

        Raises:
            UserError: a row is over the limit, and rows over a limit are not to be dropped.
        """
        limit = length_limits(config, model_config).teacher_prompt
        if limit is None or config.overlong == "drop":
            return
        longest = max(TEMPLATES["prior_turn"].tried)
        shown = self.demonstration_lengths(config)
        doubtful = [
            pair
            for pair, length in zip(self._students(config), shown, strict=True)
            if (1 + longest) * len(pair.student_ids) + longest * (length + 64) > limit.tokens
        ]
        tried = with_template(config, "prior_turn", longest)
        teacher = make_renderer(self.examples, tried, self.tokenizer).with_teacher(doubtful)
        only_teacher = Limits(prompt=replace(limit, tokens=1 << 30), teacher_prompt=limit)
        try:
            fit(teacher, only_teacher, overlong="error")
        except UserError as error:
            raise UserError(
                f"{error} (Template prior_turn x{longest}, which auto tries: --template names one.)"
            ) from error

    # -- parts, each made once -----------------------------------------------------------------------------------------

    def _students(self, config: MethodConfig) -> list[PromptPair]:
        return self._made(self._pairs, config, METHODS[config.method], answers=False)

    def _answered(self, config: MethodConfig) -> list[PromptPair]:
        spec = METHODS[config.method]
        pairs = self._made(self._answers, config, spec, answers=True)
        self._pairs.setdefault(_key(config.chat_template_kwargs, spec.prompt), pairs)
        return pairs

    def _made(
        self, kept: dict[str, list[PromptPair]], config: MethodConfig, spec: MethodSpec, *, answers: bool
    ) -> list[PromptPair]:
        key = _key(config.chat_template_kwargs, spec.prompt)
        if key not in kept:
            with self._progress("rendering prompts", len(self.examples)) as done:
                if spec.prompt == "raw_text":
                    kept[key] = raw_texts(self.examples, self.tokenizer)
                    done(len(self.examples))
                else:
                    renderer = PromptRenderer(self.tokenizer, chat_template_kwargs=config.chat_template_kwargs)
                    kept[key] = renderer.render_all(self.examples, teacher=False, answers=answers, on_done=done)
        return kept[key]

    def _teacher_ids(self, config: MethodConfig) -> list[tuple[int, ...] | None]:
        key = _key(config.chat_template_kwargs, config.template, config.template_repeat, config.template_file)
        if key not in self._teachers:
            renderer = make_renderer(self.examples, config, self.tokenizer)
            with self._progress("rendering teacher's prompts", len(self.examples)) as done:
                taught = renderer.with_teacher(self._students(config), done)
            self._teachers[key] = [pair.teacher_ids for pair in taught]
        return self._teachers[key]


def check_ids(pairs: Sequence[PromptPair], model_config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError where a prompt or demonstration has a token that the model has no embedding of."""
    size = model_config.get_text_config(decoder=True).vocab_size
    if len(tokenizer) <= size:
        return
    for pair in pairs:
        for ids in (pair.student_ids, pair.teacher_ids or (), pair.demonstration_ids):
            if ids and max(ids) >= size:
                token = tokenizer.convert_ids_to_tokens([max(ids)])[0]
                raise UserError(
                    f"{pair.example.id}: token {token} has id {max(ids)}, the model knows {size} tokens. Resize its "
                    "embeddings, or take the tokenizer that belongs to it."
                )


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True, default=str)
