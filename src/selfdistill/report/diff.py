"""Word diff of two texts."""

import re
from difflib import SequenceMatcher

Pieces = list[tuple[bool, str]]
"""A text in pieces, each with True if the other text lacks it."""

_WORD = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")
ALIKE = 0.3
"""Similarity in [0, 1] below which texts are not marked: nearly every word would be."""


def word_diff(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces, marking the words that the other one lacks; unmarked if they are equal or too unlike."""
    a, b = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, a, b)
    if before == after or matcher.quick_ratio() < ALIKE or matcher.ratio() < ALIKE:
        return [(False, before)], [(False, after)]
    ours: Pieces = []
    theirs: Pieces = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if i2 > i1:
            ours.append((tag != "equal", "".join(a[i1:i2])))
        if j2 > j1:
            theirs.append((tag != "equal", "".join(b[j1:j2])))
    return ours, theirs
