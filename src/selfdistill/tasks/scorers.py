"""Scorers that any task can use, and scorers from a user's Python file."""

import json
import math
import re
from typing import Any

from selfdistill.errors import UserError, did_you_mean, quoted
from selfdistill.models.bounded import Bounded, BoundedError
from selfdistill.settings.user_functions import described, fingerprint, row_name, user_function
from selfdistill.tasks.tooluse import reference_score
from selfdistill.types import Example, Scorer

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_WORD_BEFORE = re.compile(r"\b(?:Answer|ANSWER|Correct|CORRECT|Option|OPTION|Choice|CHOICE)\b")
# "I" before a small letter is the pronoun.
_LETTER = r"([A-HJ-Z]|I(?!\s+[a-z]))(?![\w'’])"
# "The answer is (B)", "Answer: **B**", "the correct option is B", "option B is correct"
_STATED = re.compile(
    r"\b(?:answer|correct (?:option|choice))[\s*_]*+(?:is)?[\s:=*_(\[\"'`$]*+(?:(?:option|choice)\s+\(?)?"
    rf"{_LETTER}|\b(?:option|choice)\s+\(?{_LETTER}\)?\s+is\s+(?:correct|right)\b"
)
# A letter by itself, but not the words "A" and "I" in running text.
_ALONE = re.compile(r"(?<![\w'’])(?:[B-HJ]|[AI](?!\s+[a-z]))(?![\w'’])")
# Letters of scripts that put no space before a number: Thai to Burmese, kana, Chinese, Korean.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff66-\uff9f"
_AFTER_WORD = rf"(?<![^\W{_UNSPACED}])(?<!\.)"
_NUMBER = re.compile(
    rf"(?:{_AFTER_WORD}(?<![)\]])[-+−])?{_AFTER_WORD}(?:(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+−]?\d+)?(\s*\\?%)?"
)


def exact_match(completion: str, example: Example) -> float | None:
    """1.0 if the completion equals the reference answer, both stripped of white space; else 0.0.

    If the reference is a list, any of its answers counts. A list of tool calls (golden_answer) is scored by the rule of
    ``tooluse``. Without a reference the demonstration's text is used. None if there is neither, or if the reference is
    something that is not text, such as an object.
    """
    expected = example.reference
    if expected is None:
        expected = example.demonstration_text or None
    if isinstance(expected, list) and expected and all(isinstance(c, dict) and "Action" in c for c in expected):
        return float(reference_score(completion, expected))
    texts = answer_texts(expected)
    return float(completion.strip() in texts) if texts else None


def answer_texts(reference: Any) -> set[str]:
    """The texts that equal a reference answer, stripped: one, or those of every answer in a list.

    Empty if it is not text, a number, a date or a list of these. A whole number held as a float, as tables do in a
    column with empty cells, gives both ``7.0`` and ``7``.
    """
    if isinstance(reference, list | tuple):
        each = [answer_texts(item) for item in reference]
        return set().union(*each) if all(each) else set()
    if reference is None or isinstance(reference, dict | list | bytes):
        return set()
    texts = {str(reference).strip()}
    if isinstance(reference, float) and reference.is_integer():
        texts.add(str(int(reference)))
    return texts


def multiple_choice(completion: str, example: Example) -> float | None:
    """1.0 if the completion chooses the reference's letter, else 0.0; None if the reference is not a letter.

    The letter is looked for in the last ``<answer>..</answer>``, or else in the last ``\\boxed{}``, or else in
    the whole completion: in phrases like "the answer is (B)", and if there are none, among the
    capitals A to J that stand alone. Several different letters are ambiguous and score 0, as does a completion
    without a letter. A letter and nothing else may be lower case.
    """
    wanted = _letter(str(example.reference)) if isinstance(example.reference, str) else None
    if wanted is None:
        return None
    return float(_chosen_letters(completion) == {wanted})


def _letter(text: str) -> str | None:
    """The letter of a reference such as ``B``, ``(b)`` or ``B) the second``."""
    match = re.fullmatch(r"\W*([A-Za-z])\W*", text) or re.match(r"\s*\(?([A-Z])[).:]\s", text)
    return match[1].upper() if match else None


def _chosen_letters(completion: str) -> set[str]:
    for pattern in (_TAGGED, _BOXED):
        if marked := pattern.findall(completion):
            completion = re.sub(r"\\text\w*|[{}]", " ", marked[-1])
            break
    if whole := re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", completion):
        return {whole[1].upper()}
    text = _WORD_BEFORE.sub(lambda match: match[0].lower(), completion)
    stated = {first or second for first, second in _STATED.findall(text)}
    return stated or set(_ALONE.findall(completion))


def numeric(tolerance: float = 1e-6) -> Scorer:
    """A scorer of numbers: 1.0 if the completion's number equals the reference's, else 0.0.

    The number is the last one in the last ``\\boxed{}``, or else in the whole completion, such as 1,234.5 or 1e-3 or
    12 %. Two numbers are equal if they differ by at most ``tolerance`` times the reference, or by at most ``tolerance``
    if the reference is 0. If only one of the two is a percentage, 12 % counts as both 12 and 0.12. A completion without
    a number scores 0; a reference without one leaves the row unscored.

    Raises:
        UserError: the tolerance is negative or not a number.
    """
    if not tolerance >= 0:
        raise UserError(f"numeric: the tolerance {tolerance} is not a number of at least 0.")

    def score(completion: str, example: Example) -> float | None:
        reference = example.reference
        if isinstance(reference, bool) or not isinstance(reference, str | int | float):
            return None
        wanted = last_number(str(reference))
        if wanted is None:
            return None
        boxed = _BOXED.findall(completion)
        given = last_number(boxed[-1] if boxed else completion)
        if given is None:
            return 0.0
        (value, is_percent), (goal, goal_is_percent) = given, wanted
        pairs = [(value, goal)]
        if is_percent != goal_is_percent:
            pairs.append((value / 100, goal) if is_percent else (value, goal / 100))
        return float(any(abs(a - b) <= tolerance * (abs(b) or 1.0) for a, b in pairs))

    return score


def last_number(text: str) -> tuple[float, bool] | None:
    """The last finite number in the text, and whether it is a percentage; None if there is no number."""
    for match in reversed(list(_NUMBER.finditer(text))):
        digits = match[0].removesuffix(match[1] or "").replace(",", "").replace("−", "-")
        value = float(digits)
        if math.isfinite(value):
            return value, match[1] is not None
    return None


def regex(pattern: str) -> Scorer:
    """A scorer by a regular expression, searched anywhere in the completion; ``.`` does not match newlines.

    A pattern without a group scores 1.0 if it matches. With one, it scores 1.0 if the first group of the last match
    equals the reference (any of its answers if it is a list), both stripped, and None if the row has no reference.

    Raises:
        UserError: the pattern is not a regular expression. Scoring raises it if the pattern takes too long.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"--scorer regex:{pattern[:40]} is not a regular expression: {error}.") from error

    def found(completion: str) -> str:
        """JSON of the first group of the last match; of true if there is no group, of null without a match."""
        if not compiled.groups:
            return json.dumps(True if compiled.search(completion) else None)
        matches = list(compiled.finditer(completion))
        return json.dumps((matches[-1][1] or "").strip() if matches else None)

    bounded = Bounded(found)

    def score(completion: str, example: Example) -> float | None:
        wanted = answer_texts(example.reference) if compiled.groups else set[str]()
        if compiled.groups and not wanted:
            return None
        try:
            match = json.loads(bounded(completion))
        except BoundedError as error:
            raise UserError(
                f"--scorer regex:{pattern[:40]} on {row_name(example)}: {error}. Simplify it, such as repeats in "
                "repeats."
            ) from error
        return float(match is True or match in wanted)

    return score


NAMED: dict[str, Scorer] = {
    "exact_match": exact_match,
    "multiple_choice": multiple_choice,
    "numeric": numeric(),
}
"""Scorers by the name that ``--scorer`` takes."""


def scorer_from(spec: str) -> tuple[str, Scorer]:
    """The name and the function of a scorer, given as ``--scorer`` takes it.

    That is a name in NAMED, ``numeric:TOLERANCE``, ``regex:PATTERN`` or ``path.py:function``. The last one's name
    includes a hash of the file, so that scores from before and after a change of it are not compared.

    Raises:
        UserError: it is none of these, or a wrong one.
    """
    if spec in NAMED:
        return spec, NAMED[spec]
    kind, _, rest = spec.partition(":")
    if kind == "regex" and rest:
        return spec, regex(rest)
    if kind == "numeric":
        try:
            return spec, numeric(float(rest))
        except ValueError as error:  # not a number, or the UserError about a tolerance out of range
            raise UserError(f"--scorer {spec}: {rest!r} is not a tolerance, a number of at least 0.") from error
    file, _, _ = spec.rpartition(":")
    if not file.endswith(".py"):
        names = ", ".join([*NAMED, "judge", "regex:PATTERN"])
        hint = did_you_mean(spec, [*NAMED, "judge"])
        raise UserError(f"--scorer {spec!r} is not a scorer.{hint} Give {names} or path.py:function.")
    scorer = load_scorer(spec)
    return fingerprint(spec), scorer


def load_scorer(spec: str) -> Scorer:
    """The scorer that a user's file defines, given as ``path.py:function``.

    The function gets the completion and the Example, and returns a score in [0, 1], True or False, or
    None for an answer that can't be graded. The scorer raises UserError, which names the row, if the function fails or
    returns anything else.

    Raises:
        UserError: there is no such file, it can't be imported, it has no such function, or the function takes other
            arguments.
    """
    return _guarded(user_function(spec, "--scorer", ("completion", "example")), spec)


def _guarded(function: Any, spec: str) -> Scorer:
    def score(completion: str, example: Example) -> float | None:
        try:
            value = function(completion, example)
        except Exception as error:
            raise UserError(f"--scorer {spec} failed on {row_name(example)}: {described(error)}.") from error
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, str) else float(value)  # NumPy's numbers as well
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 <= number <= 1:
            raise UserError(
                f"--scorer {spec} returned {quoted(value)} on {row_name(example)}: return a number from 0 to 1, or "
                "None."
            )
        return number

    return score
