"""Collapse seen early: how varied a step's completions are, and when that is a warning.

A student that collapses writes the same few tokens whatever it is asked, sure of itself, while a teacher that follows
it agrees more and more: the divergence falls although nothing is learned (arXiv 2607.01763).
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from selfdistill.method.methods import METHODS
from selfdistill.settings.method import MethodConfig

WINDOW = 5
"""Steps at the start of a run, and at its present end, whose means are compared."""
FALL = 0.25
"""Entropy, or the share of distinct pairs, at or below this part of what it was is a sign of collapse."""
ALIKE, RISE = 0.95, 0.25
"""Self-BLEU of at least the first that has risen by at least the second is one, too."""
SHORTER = 0.5
"""Completions below this part of their length have become short answers instead."""
ORDER = 4
"""Longest n-grams of self-BLEU."""


def measures(completions: Sequence[Sequence[int]]) -> dict[str, float]:
    """Returns how varied completions (token ids) are; each measure lies in [0, 1]. Empty for fewer than two.

    ``distinct_1`` and ``distinct_2``: different tokens, and pairs of neighbours, over all of them (arXiv 1510.03055);
    ``self_bleu``: mean BLEU of a completion against all others (arXiv 1802.01886); ``first_token_share``: share of
    the completions that begin with the most frequent first token.
    """
    written = [tuple(ids) for ids in completions if ids]
    if len(written) < 2:
        return {}
    firsts = Counter(ids[0] for ids in written)
    return {
        "distinct_1": _distinct(written, 1),
        "distinct_2": _distinct(written, 2),
        "self_bleu": self_bleu(written),
        "first_token_share": max(firsts.values()) / len(written),
    }


def self_bleu(completions: Sequence[Sequence[int]]) -> float:
    """Mean over two or more completions, none empty, of BLEU against all others as references.

    BLEU is the geometric mean of the precisions of n-grams, each counted at most as often as in one of the others, up
    to ``ORDER`` or the completion's length, times exp(1 - r / c) where the other nearest in length has r tokens and the
    completion has c < r. Without smoothing: 0 if no n-gram of some order occurs elsewhere.
    """
    precisions: list[list[float]] = [[] for _ in completions]
    for n in range(1, ORDER + 1):
        counts = [_ngrams(ids, n) for ids in completions]
        most: dict[tuple[int, ...], list[int]] = {}
        for own in counts:
            for gram, count in own.items():
                most[gram] = sorted([*most.get(gram, []), count])[-2:]
        for place, own in enumerate(counts):
            if own:
                matched = sum(min(count, _elsewhere(most[gram], count)) for gram, count in own.items())
                precisions[place].append(matched / own.total())
    lengths = Counter(len(ids) for ids in completions)
    scores = [
        _geometric_mean(found) * _brevity(len(ids), lengths) for ids, found in zip(completions, precisions, strict=True)
    ]
    return fmean(scores)


class Watch:
    """Compares the present steps of a run with its first ones.

    ``seen`` has the measures of the first ``WINDOW`` steps and of the last, with ``entropy`` and ``completion_tokens``.
    """

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []
        self.has_warned = False

    def see(self, step: dict[str, float]) -> str | None:
        """Adds a step; returns what has collapsed, in words, the first time that something has."""
        self.seen.append(step)
        if len(self.seen) > 2 * WINDOW:
            del self.seen[WINDOW]
        if self.has_warned or len(self.seen) < 2 * WINDOW:
            return None
        before, now = ({name: _mean(name, part) for name in step} for part in (self.seen[:WINDOW], self.seen[WINDOW:]))
        self.has_warned = is_collapse(before, now)
        if not self.has_warned:
            return None
        changed = [
            f"{name} {before[name]:.2f} to {now[name]:.2f}"
            for name in ("distinct_2", "self_bleu", "entropy")
            if name in now
        ]
        return f"The student's completions collapse, {', '.join(changed)} since the first {WINDOW} steps"


def is_collapse(before: dict[str, float], now: dict[str, float]) -> bool:
    """Whether completions have become alike, without becoming short answers, and the student sure of them.

    Both arguments have ``distinct_2``, ``self_bleu``, ``completion_tokens``, and ``entropy`` if it is known.
    """
    repeats = now["distinct_2"] <= FALL * before["distinct_2"]
    alike = now["self_bleu"] >= max(ALIKE, before["self_bleu"] + RISE)
    sure = now.get("entropy", 0.0) <= FALL * before.get("entropy", 0.0)
    return (repeats or alike) and sure and now["completion_tokens"] >= SHORTER * before["completion_tokens"]


def remedy(config: MethodConfig) -> str:
    """What helps against collapse, given the settings."""
    chosen = METHODS[config.method].teacher == "setting" and not config.has_other_teacher
    if chosen and config.teacher != "frozen":
        return "A teacher that moves follows it: give --teacher frozen, with --teacher_restart_steps if it should move."
    if config.anchor_share == 0:
        return "Lower --learning_rate, or give --anchor_share 0.25."
    return "Lower --learning_rate, or give --target budget."


def _mean(name: str, steps: Sequence[dict[str, float]]) -> float:
    """Mean over the steps that have it; NaN, which is a sign of nothing, if none has."""
    values = [step[name] for step in steps if name in step]
    return fmean(values) if values else math.nan


def _ngrams(ids: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(ids[at : at + n]) for at in range(len(ids) - n + 1))


def _distinct(completions: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all; 1 if there are none."""
    grams = Counter[tuple[int, ...]]()
    for ids in completions:
        grams += _ngrams(ids, n)
    return len(grams) / grams.total() if grams else 1.0


def _elsewhere(most: Sequence[int], own: int) -> int:
    """Largest count in one of the other completions; ``most``: the two largest counts, ascending, of all."""
    if len(most) == 1:
        return 0
    return most[0] if most[1] == own else most[1]


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(fmean(map(math.log, values))) if all(values) else 0.0


def _brevity(length: int, lengths: Counter[int]) -> float:
    """BLEU's penalty for a completion shorter than the other that is nearest in length; of two as near the shorter."""
    others = [other for other, count in lengths.items() if other != length or count > 1]
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return 1.0 if length >= nearest else math.exp(1 - nearest / length)
