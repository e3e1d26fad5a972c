"""The Hub's data sets, without the Hub."""

from typing import Any

import datasets
import pytest


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[str | None, ...]]:
    """Makes every data set of the Hub ``answer``, or raises it where it is an error.

    Returns the list to which each request adds its name, configuration and split, and its revision if it has one.
    """
    asked: list[tuple[str | None, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, revision: str | None) -> Any:
        asked.append((name, config, split, revision) if revision else (name, config, split))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked
