"""The Hub's data sets, without the Hub."""

from typing import Any

import datasets
import pytest


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[str, str | None, str]]:
    """Makes every data set of the Hub ``answer``, or raises it where it is an error.

    Returns the list to which each request adds its name, configuration and split.
    """
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        asked.append((name, config, split))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked
