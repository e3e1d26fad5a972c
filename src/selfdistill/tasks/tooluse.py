"""Tool use: name the tools to call and their inputs, in ReAct format (ToolAlpaca)."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from selfdistill.data.readers import load_split
from selfdistill.tasks.task import Task
from selfdistill.tasks.tooluse_strict import strict_score
from selfdistill.types import Example

_ACTION = re.compile(r"Action:\s*(\w+)")
_INPUT = re.compile(r"Action Input:\s*({.*?})", re.DOTALL)
# A string (closed or not, so that the search stays linear), or one bracket.
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_MAX_DEPTH = 900


class _AbsurdInputError(Exception):
    """JSON on which the reference implementation raises an exception."""


def reference_score(completion: str, golden_answer: Sequence[Mapping[str, Any]]) -> bool:
    """True if the completion makes the calls of ``golden_answer``, by the reference implementation's rule.

    Two things must be equal. The multiset of actions, that is of the words after each ``Action:``; and the inputs,
    merged into one dict. Each ``Action Input:`` block of the completion is cut at its first ``}`` and parsed as JSON,
    or dropped if it is not JSON; the blocks are merged from left to right by ``dict.update``. Gold inputs are parsed
    whole and merged in the same way, so that one which ``update`` does not take (neither an object nor an array of
    pairs) is dropped too.

    False if either side has JSON on which the reference implementation fails: an integer of thousands of digits, or
    brackets nested more than 900 deep. Never raises; linear in the length of the completion.
    """
    # No block ends after the last brace. Without this cut the search of every unclosed block would run to the end of
    # the text, which takes quadratic time.
    blocks = _INPUT.findall(completion[: completion.rfind("}") + 1])
    try:
        inputs = _merged(blocks)
        golden_inputs = _merged([call.get("Action_Input") for call in golden_answer])
        same_inputs = inputs == golden_inputs
    except (_AbsurdInputError, RecursionError):
        return False
    golden_actions = Counter(call.get("Action") for call in golden_answer)
    return Counter(_ACTION.findall(completion)) == golden_actions and same_inputs


def _merged(inputs: Sequence[str | None]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for text in inputs:
        if isinstance(text, str):
            with suppress(ValueError, TypeError):  # not JSON, or nothing that dict.update takes
                merged.update(_parsed(text))
    return merged


def _parsed(text: str) -> Any:
    """``json.loads`` with one limit on nesting, whatever the interpreter's recursion limit and the depth of the stack.

    Raises JSONDecodeError, or _AbsurdInputError if brackets nested too deep or an integer with too many digits come
    before the first syntax error.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        _check_depth(text[: error.pos])
        raise
    except (ValueError, RecursionError) as error:
        raise _AbsurdInputError from error
    _check_depth(text)
    return value


def _check_depth(text: str) -> None:
    steps = (1 if token in "[{" else -1 if token in "]}" else 0 for token in _BRACKET.findall(text))
    if max(accumulate(steps), default=0) > _MAX_DEPTH:
        raise _AbsurdInputError


def _reference(completion: str, example: Example) -> float | None:
    if not isinstance(example.reference, list):
        return None
    return float(reference_score(completion, example.reference))


def _strict(completion: str, example: Example) -> float | None:
    return strict_score(completion, example.reference) if isinstance(example.reference, list) else None


def _load_train(data_dir: Path | None) -> Sequence[Example]:
    return load_split(data_dir, "tooluse_data/train_data", prefix="tooluse/train")


def _load_eval(data_dir: Path | None) -> Sequence[Example]:
    return load_split(data_dir, "tooluse_data/eval_data", prefix="tooluse/eval", reference="golden_answer")


TASK = Task(
    name="tooluse",
    description="Choose tools and fill in their inputs from documentation in the prompt.",
    source="ToolAlpaca, as prepared by the reference implementation of the paper",
    licence="Apache-2.0",
    revision="1",
    load_train=_load_train,
    load_eval=_load_eval,
    scorers={"reference": _reference, "strict": _strict},
    max_new_tokens=1024,
    format_probe=lambda text: text.lstrip().startswith(("Thought:", "Action:")),
)
