"""What every rollout engine does, whichever library samples: token ids in, sampled token ids out, no text."""

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from selfdistill.types import Rollout

OnDone = Callable[[int], None]
"""Called with the number of completions finished since the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled."""

    max_new_tokens: int
    """Token limit of a completion."""
    temperature: float = 1.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this."""
    seeds: tuple[int, ...] | None = None
    """One for each prompt: a completion depends on its own seed alone, not on the prompts beside it. None draws seeds
    from torch's global state."""
    logprobs: bool = False
    """Whether rollouts carry the sampler's logprobs, where the engine can tell them."""
    context: int | None = None
    """Positions that the model has: a completion that would go beyond them is cut there. None for no limit."""

    def limit(self, prompt_length: int) -> int:
        """Tokens that the completion of a prompt of this length may have; 0 where the prompt leaves no room."""
        return self.max_new_tokens if self.context is None else min(self.max_new_tokens, self.context - prompt_length)


class RolloutEngine(Protocol):
    """Samples one completion for each prompt.

    A new one is a class with these members and one line in ``engines.ENGINES``.
    """

    samples_elsewhere: bool
    """True where another copy of the weights samples, so that its logprobs may differ from the trainer's: then the
    loss is corrected by importance weights (``sampler_correction_cap``)."""

    def sync(self) -> None:
        """Called before ``generate`` whenever weights may have changed: those now in the module are to sample."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """Completions of ``prompts`` (token ids), in their order, ids verbatim as sampled."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds outside the module. It is not used afterwards."""
        ...


def row_seeds(seed: int, step: int, ids: Iterable[str]) -> tuple[int, ...]:
    """A seed for each row, made of the run's seed, the step and the row's id alone: however rows are dealt out, and
    after a resume, each samples what it would have. Of a row that occurs more than once every occurrence has its own.
    """
    occurrences: Counter[str] = Counter()
    seeds: list[int] = []
    for id in ids:
        digest = hashlib.blake2b(f"{seed}/{step}/{id}/{occurrences[id]}".encode(), digest_size=8).digest()
        seeds.append(int.from_bytes(digest) >> 1)
        occurrences[id] += 1
    return tuple(seeds)


def with_seeds(sampling: Sampling, count: int) -> Sampling:
    """The same sampling with ``count`` seeds, drawn from torch's global state where it has none.

    Raises:
        ValueError: it has another number of seeds.
    """
    if sampling.seeds is not None and len(sampling.seeds) != count:
        raise ValueError(f"{len(sampling.seeds)} seeds for {count} prompts")
    if sampling.seeds is not None or sampling.temperature == 0:
        return sampling
    return replace(sampling, seeds=tuple(torch.randint(2**62, (count,)).tolist()))


def in_batches(
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    batch_size: int,
    complete: Callable[[list[Sequence[int]], Sampling], list[Rollout]],
    on_done: OnDone | None = None,
) -> list[Rollout]:
    """Rollouts of ``prompts`` in their order, made by ``complete`` for batches of like length, the longest first.

    A batch shares one token limit, which is that of its ``sampling``.

    Raises:
        ValueError: a prompt fills the model's context.
    """
    sampling = with_seeds(sampling, len(prompts))
    rollouts: dict[int, Rollout] = {}
    for indices, limit in _batches(prompts, sampling, batch_size):
        seeds = None if sampling.seeds is None else tuple(sampling.seeds[index] for index in indices)
        own = replace(sampling, max_new_tokens=limit, seeds=seeds)
        rollouts |= zip(indices, complete([prompts[index] for index in indices], own), strict=True)
        if on_done:
            on_done(len(indices))
    return [rollouts[index] for index in range(len(prompts))]


def _batches(prompts: Sequence[Sequence[int]], sampling: Sampling, batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Indices of each batch's prompts, and its token limit."""
    limits = [sampling.limit(len(prompt)) for prompt in prompts]
    for index, limit in enumerate(limits):
        if limit < 1:
            raise ValueError(f"prompt {index} has {len(prompts[index])} tokens, the model reads {sampling.context}")
    order = sorted(range(len(prompts)), key=lambda index: (limits[index], -len(prompts[index])))
    start = 0
    while start < len(order):
        limit = limits[order[start]]
        end = start
        while end < len(order) and end - start < batch_size and limits[order[end]] == limit:
            end += 1
        yield order[start:end], limit
        start = end


def cache_argument(body: nn.Module) -> str:
    """What a decoder's forward, and its output, call the cache: transformers renamed it in 5.24."""
    return "cache" if "cache" in inspect.signature(body.forward).parameters else "past_key_values"
