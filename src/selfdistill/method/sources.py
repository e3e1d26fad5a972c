"""Sources: who writes the completions of a method whose student writes them, each a row of a table.

Whoever writes, the student is compared with the teacher at every token; in a mixture what others wrote may be learned
by cross-entropy instead. ``rollout.together`` has the sources in which both models write.

===============  ===================================================================================================
``student``      samples y ~ q                                                         the paper (arXiv 2601.19897)
``mixture``      a share of the completions is demonstrations or samples y ~ p         GKD (arXiv 2306.13649)
``interleaved``  y_t ~ q; outside the k likeliest tokens of p it is replaced: y_t ~ p  SKD (arXiv 2410.11325)
``accepted``     y_t ~ q, up to and with the first that min(1, p / q) does not accept  after speculative decoding
                                                                                       (arXiv 2211.17192)
===============  ===================================================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfdistill.method.methods import METHODS
from selfdistill.method.rollout.engine import row_seeds
from selfdistill.settings.method import MethodConfig
from selfdistill.types import CompletionSource, Target, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """Who writes a completion where the student would write it."""

    parameters: tuple[str, ...] = ()
    """Names of the settings that it takes."""
    mixes: bool = False
    """Whether others write whole completions."""
    together: bool = False
    """Whether the teacher looks at every token as it is sampled, so that both models read the completion as it grows.
    Only our own decoding loop can do that."""
    draws_from_student: bool = True
    """Whether every token is the student's own draw."""


SOURCES: dict[CompletionSource, SourceSpec] = {
    "student": SourceSpec(),
    "mixture": SourceSpec(
        parameters=("mixture_share", "mixture_of", "mixture_target", "mixture_steps"),
        mixes=True,
        draws_from_student=False,
    ),
    "interleaved": SourceSpec(parameters=("interleaved_top_k",), together=True, draws_from_student=False),
    "accepted": SourceSpec(together=True),
}
"""The sources by name."""


def source(config: MethodConfig) -> SourceSpec:
    """The source of the settings' completions; that of the student for a method whose completions others write."""
    return SOURCES[config.completion_source if METHODS[config.method].completion == "student" else "student"]


def uses_answers(config: MethodConfig) -> bool:
    """Whether some or all completions are demonstrations, so that rows are rendered with their answer."""
    spec = METHODS[config.method]
    return not spec.samples or (source(config).mixes and config.mixture_of == "demonstration")


def teacher_writes(config: MethodConfig) -> bool:
    """Whether the teacher writes some or all of the whole completions."""
    mixed = source(config).mixes and config.mixture_of == "teacher"
    return METHODS[config.method].completion == "teacher" or mixed


def mixture_share(config: MethodConfig, number: int) -> float:
    """Share of the completions of step ``number`` (from 0) that others than the student write, in [0, 1]."""
    steps = config.mixture_steps
    return config.mixture_share * (1 if steps is None else max(0.0, 1 - number / steps))


def writers(config: MethodConfig, number: int, ids: Sequence[str], a_step: int) -> list[Writer]:
    """Who writes each completion of step ``number`` (from 0), for the ids of its rows in order.

    In a mixture their number is the share of them over the run; fractions are carried from step to step. Which they are
    depends only on seed, step and ids.

    Args:
        config: the settings.
        number: the step, from 0.
        ids: of the rows of all processes, a row once for each of its completions.
        a_step: number of completions of a whole step.
    """
    written: list[Writer] = [METHODS[config.method].completion] * len(ids)
    if not source(config).mixes:
        return written
    before = sum(a_step * mixture_share(config, earlier) for earlier in range(number))
    count = rounded(before + len(ids) * mixture_share(config, number)) - rounded(before)
    drawn = row_seeds(config.seed, number, [f"{id}/mixture" for id in ids])
    for index in sorted(range(len(ids)), key=drawn.__getitem__)[:count]:
        written[index] = config.mixture_of
    return written


def target_of(config: MethodConfig, writer: Writer) -> Target:
    """What the student is compared with where ``writer`` wrote the completion of a prompt that is no anchor."""
    by_tokens = source(config).mixes and config.mixture_target == "tokens" and writer != "student"
    return "tokens" if by_tokens else METHODS[config.method].target


def rounded(value: float) -> int:
    """The nearest whole number; half way between two, the larger."""
    return math.floor(value + 0.5)
