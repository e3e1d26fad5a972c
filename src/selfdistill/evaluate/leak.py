"""Leak check: do a model's completions show traces of the prompt that only its teacher saw?"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from selfdistill.records.evaluations import LeakRecord
from selfdistill.stats.scores import mean, wilson_interval
from selfdistill.stats.texts import copied_share, distinct_n, speaks_of_example
from selfdistill.types import ScoredSample


class Traces(NamedTuple):
    """Measures of a set of completions; the fields are those of LeakRecord."""

    phrase_rate: float
    copy_rate: float | None
    mean_characters: float
    distinct_2: float


def leak_check(samples: Iterable[ScoredSample], base_completions: Mapping[str, str]) -> LeakRecord:
    """Compares completions with those of the base model on the same rows.

    Args:
        samples: the model's samples. Only the first completion of a row counts, and only rows that the base answered.
        base_completions: the base's completions, by the row's id.
    """
    shared = [sample for sample in samples if sample.example.id in base_completions]
    if not shared:
        return LeakRecord(num_rows=0)
    ours = [sample.completion for sample in shared]
    base = [base_completions[sample.example.id] for sample in shared]
    demonstrations = [sample.example.demonstration_text for sample in shared]
    now, before = _traces(ours, demonstrations), _traces(base, demonstrations)
    hits = sum(map(speaks_of_example, ours))
    return LeakRecord(
        num_rows=len(shared),
        **now._asdict(),
        **{f"base_{name}": value for name, value in before._asdict().items()},
        phrase_interval=wilson_interval(hits, len(ours)),
        length_ratio=now.mean_characters / before.mean_characters if before.mean_characters else None,
    )


def _traces(completions: Sequence[str], demonstrations: Sequence[str]) -> Traces:
    copies = [copied_share(text, shown) for text, shown in zip(completions, demonstrations, strict=True) if shown]
    return Traces(
        phrase_rate=mean([float(speaks_of_example(text)) for text in completions]),
        copy_rate=mean(copies) if copies else None,
        mean_characters=mean([len(text) for text in completions]),
        distinct_2=distinct_n(completions, 2),
    )
