"""Notices where the package reads numbers out of tensors, which on a GPU waits for everything that is queued there."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import selfdistill

PACKAGE = Path(selfdistill.__file__).parent
READING = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__")


@contextmanager
def reads() -> Generator[list[str]]:
    """Context that collects the reads by the package, in backward passes too, as method and file."""
    found: list[str] = []

    def watched(name: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any) -> Any:
            caller = Path(sys._getframe(1).f_code.co_filename)
            if caller.is_relative_to(PACKAGE):
                found.append(f"{name} in {caller.name}")
            return read(*arguments)

        return watch

    with pytest.MonkeyPatch.context() as patched:
        for name in READING:
            patched.setattr(Tensor, name, watched(name, getattr(Tensor, name)))
        yield found
