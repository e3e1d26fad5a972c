"""Numbers about texts: traces of the teacher's prompt, copying, variety. No tensors, no files."""

import re
from collections.abc import Sequence

TEACHER_PHRASES = re.compile(
    r"\b(?:(?:example|response|answer)s? (?:above|given|provided|shown)"
    r"|(?:given|provided|above|previous|earlier) (?:example|response|answer)s?"
    r"|(?:based on|following|as in|like) the examples?)\b",
    re.IGNORECASE,
)
"""Words that make sense only for a model that was shown a demonstration."""


def speaks_of_example(text: str) -> bool:
    """True if the text refers to an example, which only the teacher's prompt holds."""
    return TEACHER_PHRASES.search(text) is not None


def copied_share(completion: str, demonstration: str) -> float:
    """Length of the longest common substring over the completion's length, in [0, 1]; 0 for an empty completion."""
    longest = 0
    for start in range(len(completion)):
        while start + longest < len(completion) and completion[start : start + longest + 1] in demonstration:
            longest += 1
    return longest / len(completion) if completion else 0.0


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Number of different runs of ``n`` words over the number of all such runs in the texts, in [0, 1]; 0 without any.

    Source: J. Li et al., arXiv 1510.03055.
    """
    runs = [tuple(words[at : at + n]) for text in texts if (words := text.split()) for at in range(len(words) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 0.0
