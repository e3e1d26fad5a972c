"""The states of all random number generators that a run may draw from."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, the latter on the host and on every device."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    devices: list[torch.Tensor] = []
    if torch.cuda.is_available():
        devices = torch.cuda.get_rng_state_all()
    elif torch.backends.mps.is_available():
        devices = [torch.mps.get_rng_state()]
    return {
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "devices": devices,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets all generators to ``random_state()``; devices that are not there are left out."""
    random.setstate(state["python"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, one in zip(range(torch.cuda.device_count()), state["devices"], strict=False):
            torch.cuda.set_rng_state(one, device)
    elif torch.backends.mps.is_available() and state["devices"]:
        torch.mps.set_rng_state(state["devices"][0])


@contextmanager
def unchanged_random_state() -> Generator[None]:
    """Context that leaves all generators as it found them."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)
