"""Length limits of prompts and completions. A row over a limit is refused or dropped, never cut."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfdistill.data.kept import keep
from selfdistill.errors import UserError
from selfdistill.method.methods import METHODS, MethodSpec
from selfdistill.method.sources import uses_answers
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair

NO_LIMIT = 1 << 30
LONGER = "Take a model with a longer context"
TURN_TOKENS = 64
"""Generous number of tokens that a chat template adds to a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Maximum number of tokens in a part of a row, and how to change it."""

    tokens: int
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits in tokens; None for a part that has no limit or does not exist."""

    prompt: Limit
    teacher_prompt: Limit | None = None
    demonstration: Limit | None = None
    """For methods that train on the demonstration itself."""
    context: int = NO_LIMIT
    """Context length of the model: prompt and completion together."""


def context_length(config: Any) -> int | None:
    """Context length in tokens that a transformers config declares; None if it declares none."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def length_limits(config: MethodConfig, model_config: Any, spec: MethodSpec | None = None) -> Limits:
    """Computes the limits from the settings and the model's context, in which a prompt and its completion must fit.

    ``spec``: the method that the rows are for; by default that of the settings.

    Raises:
        UserError: max_completion_length leaves no room for a prompt.
    """
    answers = uses_answers(config) if spec is None else not spec.samples
    spec = spec or METHODS[config.method]
    context, completion = context_length(model_config) or NO_LIMIT, config.max_completion_length
    if spec.samples and completion >= context:
        raise UserError(
            f"max_completion_length {completion}: the model reads {context} tokens, prompt and completion together, so "
            "none are left for a prompt. Lower it."
        )
    room = context - (completion if spec.samples else 1)

    def limit(own: int | None, flag: str) -> Limit:
        if own is not None and own <= room:
            return Limit(tokens=own, remedy=f"Raise --{flag}")
        return Limit(tokens=room, remedy="Lower --max_completion_length" if spec.samples else LONGER)

    return Limits(
        prompt=limit(config.max_prompt_length, "max_prompt_length"),
        teacher_prompt=limit(config.max_teacher_prompt_length, "max_teacher_prompt_length")
        if spec.shows_demonstration
        else None,
        demonstration=Limit(tokens=completion, remedy="Raise --max_completion_length") if answers else None,
        context=context,
    )


def fit(pairs: Sequence[PromptPair], limits: Limits, *, overlong: str) -> Sequence[PromptPair]:
    """Returns the pairs within the limits. Nothing is cut: cutting would lose the question or the chat header.

    Args:
        pairs: rendered rows.
        limits: see ``length_limits``.
        overlong: what to do with a pair over a limit: ``error`` or ``drop``.

    Raises:
        UserError: a pair is over a limit and ``overlong`` is ``error``, or every pair is over a limit.
    """
    remedies: set[str] = set()

    def fits(pair: PromptPair) -> bool:
        over = _over(pair, limits)
        if over is None:
            return True
        what, length, limit = over
        remedies.add(limit.remedy)
        if overlong == "error":
            raise UserError(
                f"{pair.example.id}: the {what} has {length} tokens, the limit is {limit.tokens}; part of the text "
                f"would be cut. {limit.remedy}, shorten the row, or give --overlong drop."
            )
        return False

    kept = pairs if all(map(fits, pairs)) else keep(filter(fits, pairs))
    if pairs and not kept:
        raise UserError(f"Every row is over a length limit. {'. '.join(sorted(remedies))}.")
    return kept


def most_teacher_tokens(pair: PromptPair, config: MethodConfig, limits: Limits) -> int:
    """Most tokens of the prompt that the teacher reads for a row. An own success may be as long as a completion, if the
    prompt is within the limits; words about a completion, of which nothing is known, are not counted."""
    own = len(pair.teacher_ids or pair.student_ids)
    if config.demonstration_from == "row":
        return own
    times = config.template_repeat if config.template == "prior_turn" else 1
    asked_again = 0 if pair.example.demonstration else len(pair.student_ids)
    most = own + times * (asked_again + config.max_completion_length + TURN_TOKENS)
    return most if limits.teacher_prompt is None else max(own, min(most, limits.teacher_prompt.tokens))


def _over(pair: PromptPair, limits: Limits) -> tuple[str, int, Limit] | None:
    """Returns the name of the part that is too long, its length and its limit; None if the pair fits."""
    demonstration = len(pair.demonstration_ids) if limits.demonstration else 0
    lengths = (
        ("prompt", len(pair.student_ids), limits.prompt),
        ("teacher prompt", len(pair.teacher_ids or ()), limits.teacher_prompt),
        ("demonstration", demonstration, limits.demonstration),
    )
    for what, length, limit in lengths:
        if limit is not None and length > limit.tokens:
            return what, length, limit if length < limits.context else replace(limit, remedy=LONGER)
    if len(pair.student_ids) + demonstration > limits.context:
        whole = Limit(tokens=limits.context, remedy=LONGER)
        return "row", len(pair.student_ids) + demonstration, whole
    return None
