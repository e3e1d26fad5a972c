"""Whether two evaluations are the same test, so that their scores may be compared."""

from collections.abc import Mapping
from typing import Any

from selfdistill.types import UserError

MUST_AGREE = (
    "task",
    "revision",
    "metric",
    "prompt",
    "chat_template_kwargs",
    "num_samples",
    "temperature",
    "top_p",
    "max_new_tokens",
)
"""Fields of an evaluation's config without which two of them are not the same test."""


def differing_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Fields of MUST_AGREE in which the configs of two evaluations differ."""
    return [name for name in MUST_AGREE if first.get(name) != second.get(name)]


def require_comparable(first: Mapping[str, Any], second: Mapping[str, Any], what: str) -> None:
    """Does nothing where both results are of the same test.

    Args:
        first: a result as ``eval_results.json`` holds it, or at least its ``config``.
        second: the other.
        what: names them in the message, as in ``tooluse``.

    Raises:
        UserError: they are not; the message names the field and both values.
    """
    ours, theirs = first.get("config", {}), second.get("config", {})
    if names := differing_settings(ours, theirs):
        name, *more = names
        others = f" (also: {', '.join(more)})" if more else ""
        raise UserError(
            f"{what} can't be compared: {name} is {ours.get(name)!r} in one and {theirs.get(name)!r} in the "
            f"other{others}. Evaluate both in the same way."
        )


def shared_scores(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]], metric: str, what: str
) -> tuple[list[float], list[float]]:
    """Scores of the rows that both have a score for, in the order of the first.

    Args:
        first: rows of ``eval_responses.json`` by id.
        second: the other's.
        metric: name of the scorer.
        what: names them in the message.

    Raises:
        UserError: a row of the same id has another prompt in one than in the other.
    """
    ours: list[float] = []
    theirs: list[float] = []
    for name, row in first.items():
        other = second.get(name)
        if other is None:
            continue
        if row["prompt"] != other["prompt"]:
            raise UserError(
                f"{what} can't be compared: the prompt of row {name} differs. Evaluate both on the same data."
            )
        a, b = row["scores"].get(metric), other["scores"].get(metric)
        if a is not None and b is not None:
            ours.append(a)
            theirs.append(b)
    return ours, theirs
