"""Leak check: traces in a model's completions of the prompt that only its teacher saw."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from selfdistill.stats.scores import mean, wilson_interval
from selfdistill.stats.texts import copied_share, distinct_n, speaks_of_example
from selfdistill.types import ScoredSample

NGRAM = 2
"""Words of the runs whose variety is measured."""


def leak_check(samples: Iterable[ScoredSample], base_completions: Mapping[str, str]) -> dict[str, Any]:
    """Compares completions with those of the base model on the same rows.

    Args:
        samples: the model's; only rows that the base answered too are looked at, one completion of each.
        base_completions: the base's by the row's id.

    Returns:
        ``num_rows``; then for the model, and again with ``base_`` before it: ``phrase_rate`` (share of
        completions that speak of an example they were not shown), ``copy_rate`` (mean share of the completion
        that is one run of the row's demonstration; None where no row has one), ``mean_characters`` and
        ``distinct_2`` (different word pairs over all). ``phrase_interval`` is the 95% interval of phrase_rate;
        ``length_ratio`` is the model's mean length over the base's, None where that is 0. Without a shared row
        there is only ``num_rows``, 0.
    """
    shared = [sample for sample in samples if sample.example.id in base_completions]
    if not shared:
        return {"num_rows": 0}
    ours = [sample.completion for sample in shared]
    base = [base_completions[sample.example.id] for sample in shared]
    demonstrations = [sample.example.demonstration_text for sample in shared]
    found, before = _traces(ours, demonstrations), _traces(base, demonstrations)
    hits = sum(map(speaks_of_example, ours))
    length = before["mean_characters"]
    return {
        "num_rows": len(shared),
        **found,
        **{f"base_{name}": value for name, value in before.items()},
        "phrase_interval": list(wilson_interval(hits, len(ours))),
        "length_ratio": found["mean_characters"] / length if length else None,
    }


def _traces(completions: Sequence[str], demonstrations: Sequence[str]) -> dict[str, Any]:
    copies = [copied_share(text, shown) for text, shown in zip(completions, demonstrations, strict=True) if shown]
    return {
        "phrase_rate": mean([float(speaks_of_example(text)) for text in completions]),
        "copy_rate": mean(copies) if copies else None,
        "mean_characters": mean([len(text) for text in completions]),
        f"distinct_{NGRAM}": distinct_n(completions, NGRAM),
    }
