"""Strict tool-use score: real JSON, order of calls, argument by argument, partial credit.

Between a call p of the completion and a call g of the gold

    s(p, g) = 0                                              if the names differ, else
              (1 + arguments both have with equal values) / (1 + arguments that either has)

and the score is the largest sum of s over pairings that keep the order of both sides, divided by the
larger number of calls. So 1 means: the same calls, in the same order, with the same inputs. A call that
is missing, made up or out of order costs its whole share; a wrong, missing or made-up argument costs
part of its call's share. An input that is not a JSON object counts as one made-up argument.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_ACTION = re.compile(r"(?<!\w)Action:\s*([^\n]*)")
_INPUT = re.compile(r"(?<!\w)Action Input:")
_DECODER = json.JSONDecoder()
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call, in a completion or in the gold."""

    name: str
    """The rest of the line after ``Action:``, stripped."""
    arguments: Mapping[str, Any] | None
    """The JSON object after ``Action Input:``; empty if there is no input, None if it is not a JSON object."""


def strict_score(completion: str, golden_answer: Sequence[Mapping[str, Any]]) -> float | None:
    """Score in [0, 1] by the module's formula; None if a gold input is not a JSON object. Never raises.

    Values are compared as JSON values: 1 equals 1.0 but not true, strings must agree in case, nested objects
    and lists must agree completely. No calls where none are wanted score 1.
    """
    gold = [_gold_call(call) for call in golden_answer]
    if any(call.arguments is None for call in gold):
        return None
    made = parse_calls(completion)
    if not gold and not made:
        return 1.0
    try:
        return _best_pairing(made, gold) / max(len(made), len(gold))
    except RecursionError:  # values nested too deep to compare
        return 0.0


def parse_calls(completion: str) -> list[Call]:
    """The calls of a ReAct text, in order. Never raises.

    An input runs from the first ``{`` after its ``Action Input:`` to that object's end, whatever
    follows; text inside it that looks like a further call is not one.
    """
    calls: list[Call] = []
    place = 0
    while action := _ACTION.search(completion, place):
        line = action[1]
        # Action and input may be on one line.
        name = line[: label.start()] if (label := _INPUT.search(line)) else line
        start = action.start(1) + len(name)
        following = _ACTION.search(completion, start)
        arguments, place = _arguments(completion, start, following.start() if following else len(completion))
        calls.append(Call(name=name.strip(), arguments=arguments))
    return calls


def _arguments(text: str, start: int, end: int) -> tuple[Mapping[str, Any] | None, int]:
    """The input labelled between ``start`` and ``end``, and the position from which to look for the next call."""
    label = _INPUT.search(text, start, end)
    if label is None:
        return {}, start
    brace = text.find("{", label.end(), end)
    if brace < 0:
        return (None if text[label.end() : end].strip() else {}), label.end()
    try:
        value, stop = _DECODER.raw_decode(text, brace)
    except (ValueError, RecursionError):
        return None, label.end()
    return value, stop


def _gold_call(call: Mapping[str, Any]) -> Call:
    try:
        value = json.loads(call.get("Action_Input") or "{}")
    except (ValueError, TypeError, RecursionError):
        value = None
    return Call(name=str(call.get("Action")).strip(), arguments=value if isinstance(value, dict) else None)


def _best_pairing(made: Sequence[Call], gold: Sequence[Call]) -> float:
    """Largest sum of pair scores over pairings that keep both orders."""
    best = [0.0] * (len(gold) + 1)
    for call in made:
        pairs = [before + _pair(call, wanted) for (before, _), wanted in zip(pairwise(best), gold, strict=True)]
        for index, pair in enumerate(pairs, start=1):
            best[index] = max(best[index], best[index - 1], pair)
    return best[-1]


def _pair(made: Call, gold: Call) -> float:
    if made.name != gold.name:
        return 0.0
    assert gold.arguments is not None  # strict_score returned None otherwise
    if made.arguments is None:
        return 1 / (2 + len(gold.arguments))
    keys = made.arguments.keys() | gold.arguments.keys()
    equal = sum(_same(made.arguments.get(key, _MISSING), gold.arguments.get(key, _MISSING)) for key in keys)
    return (1 + equal) / (1 + len(keys))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return isinstance(a, bool) == isinstance(b, bool) and a == b
