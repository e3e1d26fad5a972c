"""The message of a user's mistake."""

from collections.abc import Callable
from typing import Any

import pytest

from selfdistill.errors import UserError

MOST_WORDS = 40


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> str | None:
    """The message of the UserError that the call raises; None if it raises none."""
    try:
        call(*arguments, **options)
    except UserError as error:
        return str(error)
    return None


def mistake(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The message of the UserError that the call raises; it must not exceed 40 words."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert len(message.split()) <= MOST_WORDS, message
    return message
