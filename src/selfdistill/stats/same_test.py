"""Whether two evaluations are the same test, so that their scores may be compared."""

from selfdistill.errors import UserError
from selfdistill.types import EvalConfig

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
"""Fields of EvalConfig in which two evaluations must agree to be the same test."""


def differing_settings(first: EvalConfig, second: EvalConfig) -> list[str]:
    """Fields of MUST_AGREE in which two evaluations differ."""
    return [name for name in MUST_AGREE if getattr(first, name) != getattr(second, name)]


def require_comparable(first: EvalConfig, second: EvalConfig, what: str) -> None:
    """Checks that two evaluations are the same test.

    Args:
        first: how one was made.
        second: how the other was made.
        what: their name in the message, such as ``tooluse``.

    Raises:
        UserError: they are not; the message names a field that differs, and both values.
    """
    if names := differing_settings(first, second):
        name, *more = names
        others = f" (also: {', '.join(more)})" if more else ""
        raise UserError(
            f"{what} can't be compared: {name} is {getattr(first, name)!r} in one and {getattr(second, name)!r} in the "
            f"other{others}. Evaluate both in the same way."
        )
