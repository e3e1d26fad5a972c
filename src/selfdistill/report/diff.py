"""Word diff of two texts."""

import re
from difflib import SequenceMatcher

Pieces = list[tuple[bool, str]]
"""Text in pieces; True marks what the other text does not have."""

_WORD = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")
ALIKE = 0.3
"""Likeness below which a text is rewritten, not edited: marking all of it would say nothing."""


def word_diff(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces, what is only in one of them marked; unmarked where they are too unlike or equal."""
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
