"""The scorers of the evidence's tasks."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from selfdistill.types import Example, message_text

VALUES = tomllib.loads(Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8"))["notes"]["values"]


def right_value(completion: str, example: Example) -> float:
    """1.0 where the completion holds the reference, and no other name, item or day of the prompt that it could be.

    In orders three of each kind stand in the prompt, so a sentence may be wrong in two ways: by the others' value, or
    by none.
    """
    kind = next(values for values in VALUES.values() if example.reference in values)
    prompt = message_text(example.prompt[-1])
    found = [value for value in kind if _holds(completion, value) and _holds(prompt, value)]
    return float(found == [example.reference])


def _holds(text: str, value: str) -> bool:
    return re.search(rf"\b{re.escape(value)}\b", text, re.IGNORECASE) is not None


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
