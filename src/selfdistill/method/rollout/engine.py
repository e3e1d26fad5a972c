"""What every rollout engine does, whichever library samples."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from selfdistill.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled."""

    max_new_tokens: int
    """Token limit of a completion."""
    temperature: float = 1.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this."""
    seed: int | None = None
    """Makes the call repeatable on its own, whatever was drawn before; None draws from torch's global state."""
    logprobs: bool = False
    """Whether rollouts carry the sampler's logprobs, where the engine can tell them."""


class RolloutEngine(Protocol):
    """Samples one completion per prompt."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        """Completions of ``prompts`` (token ids), in their order, ids verbatim as sampled."""
        ...


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Inside, torch's random state begins at ``seed``; afterwards it is what it was. None changes nothing."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def cache_argument(body: nn.Module) -> str:
    """What a decoder's forward, and its output, call the cache: transformers renamed it in 5.24."""
    return "cache" if "cache" in inspect.signature(body.forward).parameters else "past_key_values"


def in_batches(
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    complete: Callable[[list[Sequence[int]]], list[Rollout]],
) -> list[Rollout]:
    """Rollouts of ``prompts`` in their order, made by ``complete`` for batches of like length, the longest first."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    rollouts: dict[int, Rollout] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rollouts |= zip(batch, complete([prompts[index] for index in batch]), strict=True)
    return [rollouts[index] for index in range(len(prompts))]
