"""A cache of rendered training rows. The arms of a study share it, so that a prompt they have in common is rendered
once."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfdistill.data.kept import keep
from selfdistill.errors import UserError
from selfdistill.method.lengths import NO_LIMIT, TURN_TOKENS, Limits, fit, length_limits
from selfdistill.method.methods import ANCHORS, METHODS, MethodSpec
from selfdistill.method.prompts import CHUNK, PromptRenderer, make_renderer, raw_texts, render_anchors
from selfdistill.method.rows import check_ids
from selfdistill.method.sources import uses_answers
from selfdistill.method.templates import TEMPLATES
from selfdistill.settings.method import MethodConfig, with_template
from selfdistill.types import Example, PromptPair

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Takes a description and the number of rows; returns a context whose value is called with the number of rows done."""


def no_progress(what: str, count: int) -> AbstractContextManager[Callable[[int], None]]:
    """A ``Progress`` that shows nothing."""
    return nullcontext(lambda _: None)


class RenderedRows:
    """Training rows, and their rendered parts as far as they were asked for.

    Args:
        examples: the rows.
        tokenizer: has a chat template.
        progress: shows the progress of rendering.
    """

    def __init__(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, progress: Progress = no_progress
    ) -> None:
        self.examples = examples
        self.tokenizer = tokenizer
        self._progress = progress
        # Rendered parts, each by a key of the settings that it depends on.
        self._pairs: dict[str, Sequence[PromptPair]] = {}
        self._answers: dict[str, Sequence[PromptPair]] = {}
        self._teachers: dict[str, Sequence[tuple[int, ...] | None]] = {}
        self._anchors: dict[str, Sequence[PromptPair]] = {}
        self._lengths: list[int] | None = None

    def demonstration_lengths(self, config: MethodConfig) -> list[int]:
        """Length of every demonstration in tokens. If the method trains on it, it is measured as an answer with its end
        of turn, otherwise as bare text."""
        if uses_answers(config):
            return [len(pair.demonstration_ids) for pair in self._answered(config)]
        if self._lengths is None:
            lengths: list[int] = []
            examples = iter(self.examples)
            with self._progress("measuring demonstrations", len(self.examples)) as done:
                while texts := [example.shown_text for example in islice(examples, CHUNK)]:
                    encoded: Any = self.tokenizer(texts)["input_ids"]
                    lengths += map(len, encoded)
                    done(len(texts))
            self._lengths = lengths
        return self._lengths

    def pairs(self, config: MethodConfig, model_config: Any) -> Sequence[PromptPair]:
        """The rows rendered for the settings, without those over a length limit if ``overlong`` is drop.

        Args:
            config: settings of the method.
            model_config: the model's transformers config, for its context length and vocabulary.

        Raises:
            UserError: a row is over a limit and ``overlong`` is error, all rows are, or a token id is outside the
                model's vocabulary.
        """
        spec = METHODS[config.method]
        pairs = self._answered(config) if uses_answers(config) else self._students(config)
        if spec.shows_demonstration:
            ids = self._teacher_ids(config)
            pairs = keep(replace(pair, teacher_ids=teacher) for pair, teacher in zip(pairs, ids, strict=True))
        kept = fit(pairs, length_limits(config, model_config), overlong=config.overlong)
        check_ids(kept, model_config, self.tokenizer)
        return kept

    def untaught(self, config: MethodConfig, model_config: Any) -> Sequence[PromptPair]:
        """Like ``pairs``, but without teacher prompts, while their template is not chosen yet. Raises UserError as
        ``pairs``."""
        kept = fit(self._students(config), length_limits(config, model_config), overlong=config.overlong)
        check_ids(kept, model_config, self.tokenizer)
        return kept

    def anchors(self, examples: Sequence[Example], config: MethodConfig, model_config: Any) -> Sequence[PromptPair]:
        """Rendered general prompts within the length limits; empty if ``anchor_share`` is 0. Raises UserError as
        ``pairs``."""
        if config.anchor_share == 0:
            return []
        key = _key(config.chat_variables("student"), config.anchor_data)
        if key not in self._anchors:
            self._anchors[key] = render_anchors(examples, config, self.tokenizer)
        kept = fit(self._anchors[key], length_limits(config, model_config, ANCHORS), overlong=config.overlong)
        check_ids(kept, model_config, self.tokenizer)
        return kept

    def check_tried(self, config: MethodConfig, model_config: Any) -> None:
        """Checks that every row fits the teacher's limit with the longest template that a preflight always tries.

        Raises:
            UserError: a row is over the limit and ``overlong`` is error.
        """
        longest = max(TEMPLATES["prior_turn"].tried)
        if config.overlong == "drop" or (refusal := self._too_long(config, model_config, longest)) is None:
            return
        raise UserError(f"{refusal} (Template prior_turn x{longest}, which auto tries: --template names one.)")

    def fits_prior_turn(self, config: MethodConfig, model_config: Any, repeat: int) -> bool:
        """Whether every row fits the teacher's limit with ``prior_turn`` and this ``template_repeat``."""
        return self._too_long(config, model_config, repeat) is None

    def _too_long(self, config: MethodConfig, model_config: Any, repeat: int) -> UserError | None:
        """Why a row is over the teacher's limit with ``prior_turn``; None if none is. Renders only the rows that may
        be too long."""
        limit = length_limits(config, model_config).teacher_prompt
        if limit is None:
            return None
        lengths = self.demonstration_lengths(config)
        doubtful = keep(
            pair
            for pair, length in zip(self._students(config), lengths, strict=True)
            if (1 + repeat) * len(pair.student_ids) + repeat * (length + TURN_TOKENS) > limit.tokens
        )
        tried = with_template(config, "prior_turn", repeat)
        try:
            teacher = make_renderer(self.examples, tried, self.tokenizer).with_teacher(doubtful)
        except UserError:  # the chat template refuses such turns, of which the preflight tells
            return None
        only_teacher = Limits(prompt=replace(limit, tokens=NO_LIMIT), teacher_prompt=limit)
        try:
            fit(teacher, only_teacher, overlong="error")
        except UserError as error:
            return error
        return None

    # -- parts, each rendered once ------------------------------------------------------------------------------------

    def _students(self, config: MethodConfig) -> Sequence[PromptPair]:
        """Every row with the student's prompt; the demonstration's ids may be there too."""
        return self._rendered(self._pairs, config, METHODS[config.method], answers=False)

    def _answered(self, config: MethodConfig) -> Sequence[PromptPair]:
        """Every row with the student's prompt and the demonstration as its answer."""
        spec = METHODS[config.method]
        pairs = self._rendered(self._answers, config, spec, answers=True)
        self._pairs.setdefault(_key(config.chat_variables("student"), spec.prompt), pairs)
        return pairs

    def _rendered(
        self, cache: dict[str, Sequence[PromptPair]], config: MethodConfig, spec: MethodSpec, *, answers: bool
    ) -> Sequence[PromptPair]:
        """Every row without the teacher's prompt, from ``cache`` if it is there."""
        key = _key(config.chat_variables("student"), spec.prompt)
        if key not in cache:
            with self._progress("rendering prompts", len(self.examples)) as done:
                if spec.prompt == "raw_text":
                    cache[key] = raw_texts(self.examples, self.tokenizer)
                    done(len(self.examples))
                else:
                    renderer = PromptRenderer(self.tokenizer, chat_template_kwargs=config.chat_variables("student"))
                    cache[key] = renderer.render_all(self.examples, teacher=False, answers=answers, on_done=done)
        return cache[key]

    def _teacher_ids(self, config: MethodConfig) -> Sequence[tuple[int, ...] | None]:
        variables = (config.chat_variables("student"), config.chat_variables("teacher"))
        key = _key(*variables, config.template, config.template_repeat, config.template_file)
        if key not in self._teachers:
            renderer = make_renderer(self.examples, config, self.tokenizer)
            with self._progress("rendering teacher's prompts", len(self.examples)) as done:
                taught = renderer.with_teacher(self._students(config), done)
            self._teachers[key] = keep(pair.teacher_ids for pair in taught)
        return self._teachers[key]


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True, default=str)
