"""One scorer for all tasks of the evidence."""

import json
from typing import Any

from selfdistill.types import Example


def same_answer(completion: str, example: Example) -> float:
    """1.0 where the completion is the reference and nothing else, JSON with any spacing and order of keys; else 0.0."""
    wanted = example.reference
    if isinstance(wanted, str):
        if completion.strip() == wanted.strip():
            return 1.0
        wanted = _object(wanted)
    return float(isinstance(wanted, dict) and _object(completion) == wanted)


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that the text is; None where it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
